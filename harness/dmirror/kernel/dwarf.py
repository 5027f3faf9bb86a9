# SPDX-License-Identifier: GPL-2.0
"""From function+offset to file:line with the functions inlined there, by the DWARF of vmlinux or of a .ko."""

from __future__ import annotations

import linecache
import os.path
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elftools.dwarf.aranges import ARanges
from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.dwarf.lineprogram import LineProgram
from elftools.dwarf.ranges import BaseAddressEntry

from dmirror.kernel import image
from dmirror.kernel.image import Image

_PADDING = "__pfx_"  # objtool's name for what lies before a function
_ORIGINS = ("DW_AT_abstract_origin", "DW_AT_specification")


@dataclass(frozen=True)
class Place:
    """A line of source, and the function that it is in."""

    function: str
    file: str  # relative to the source tree or, if generated, to the build's folder; else as DWARF says
    line: int


class Symbols:
    """Of one ELF file, vmlinux or a .ko. Read when first asked; each compile unit when first needed."""

    def __init__(self, path: Path, *sources: Path) -> None:
        """`sources` are the folders that names of files are made relative to, and that lines are read from."""
        self.trouble = ""  # why nothing is known, in words; empty while all is well
        self._path = path
        self._sources = [str(place) for folder in sources for place in dict.fromkeys((folder, folder.resolve()))]
        self._units: dict[int, _Unit] = {}
        self._full: dict[str, str] = {}  # path as in DWARF, by Place.file

    def places(self, function: str, offset: int, size: int | None, *, returns: bool) -> list[Place]:
        """The lines that function+offset/size came from, the innermost inlined function first; empty if unknown.

        `size` is the kernel's, up to the next symbol: it picks among functions of one name, and a function of another
        size is not the one that was running. `returns`: the address is one that a call returns to.
        """
        if self._image is None:
            return []
        if returns and offset:
            offset -= 1
        found = []
        # Bytes that are no DWARF make pyelftools raise nearly anything, and a report must not fail of that.
        try:
            for code in self._image.functions.get(function, ()):
                if size is None or self._image.size(code.start) in (size, None):
                    found.append(self._at(code.start + offset, function, code))
        except Exception as error:
            self.trouble = f"cannot read the debug information of {self._path.name}: {error or repr(error)}"
            return []
        return found[0] if found and all(places == found[0] for places in found) else []

    def code(self, place: Place) -> str:
        """The line's text, or nothing where the file is not at hand."""
        paths = [self._full.get(place.file, ""), *(os.path.join(folder, place.file) for folder in self._sources)]
        return next(filter(None, (linecache.getline(path, place.line).strip() for path in paths)), "")

    @cached_property
    def _image(self) -> Image | None:
        try:
            found = image.read(self._path)
        except FileNotFoundError:
            self.trouble = f"no {self._path}"
            return None
        except Exception as error:  # as above
            self.trouble = f"cannot read {self._path.name}: {error or repr(error)}"
            return None
        if found.dwarf is None:
            self.trouble = f"no debug information in {self._path.name}: CONFIG_DEBUG_INFO_DWARF5"
            return None
        return found

    def _at(self, address: int, symbol: str, code: range) -> list[Place]:
        unit = self._unit(address)
        row = unit.row(address) if unit else None
        if unit is None or row is None:
            return []
        places = []
        file, line = row
        for die in reversed(_chain(unit, address)):
            places.append(Place(_name(die) or symbol, self._shown(unit.file(file), unit.folder), line))
            file, line = _number(die, "DW_AT_call_file"), _number(die, "DW_AT_call_line")
        if not places and (address in code or not code) and not symbol.startswith(_PADDING):
            # Assembly, or one of two functions that gcc found to be the same.
            places.append(Place(symbol, self._shown(unit.file(file), unit.folder), line))
        return places

    def _shown(self, path: str, built: str) -> str:
        full = os.path.normpath(os.path.join(built, path))
        folder = next((folder for folder in (*self._sources, built) if full.startswith(f"{folder}/")), "")
        shown = full[len(folder) + 1 :] if folder else full
        self._full[shown] = full
        return shown

    def _unit(self, address: int) -> _Unit | None:
        assert self._image is not None and self._image.dwarf is not None
        dwarf = self._image.dwarf
        offset = self._aranges.cu_offset_at_addr(address) if self._aranges and self._aranges.entries else None
        if offset is None:  # clang writes them for assembly only
            offset = next((start for span, start in self._spans if address in span), None)
        if offset is None:
            return None
        if offset not in self._units:
            self._units[offset] = _read_unit(dwarf.get_CU_at(offset))
        return self._units[offset]

    @cached_property
    def _aranges(self) -> ARanges | None:
        assert self._image is not None and self._image.dwarf is not None
        return self._image.dwarf.get_aranges()

    @cached_property
    def _spans(self) -> list[tuple[range, int]]:
        """Of the units that the index does not have."""
        assert self._image is not None and self._image.dwarf is not None
        indexed = {entry.info_offset for entry in self._aranges.entries} if self._aranges else set()
        units = [unit for unit in self._image.dwarf.iter_CUs() if unit.cu_offset not in indexed]
        return [(span, unit.cu_offset) for unit in units for span in _ranges(unit.get_top_DIE())]


@dataclass(frozen=True)
class _Unit:
    """What is needed of a compile unit."""

    folder: str  # that the compiler ran in
    functions: list[tuple[range, DIE]]
    files: list[str]  # by number
    starts: list[int]  # addresses of rows, ascending
    rows: list[tuple[int, int] | None]  # file and line from there on; None: the end of a sequence

    def row(self, address: int) -> tuple[int, int] | None:
        before = bisect_right(self.starts, address) - 1
        return self.rows[before] if before >= 0 else None

    def file(self, number: int) -> str:
        return self.files[number] if 0 <= number < len(self.files) else "?"


def _read_unit(unit: CompileUnit) -> _Unit:
    dwarf: DWARFInfo = unit.dwarfinfo
    top = unit.get_top_DIE()
    folder = _text(top, "DW_AT_comp_dir")
    functions = [(span, die) for die in top.iter_children() if die.tag == "DW_TAG_subprogram" for span in _ranges(die)]
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return _Unit(folder, functions, [], [], [])
    rows = sorted(_rows(program), key=lambda row: (row[0], row[1] is not None))
    return _Unit(folder, functions, _files(program), [row[0] for row in rows], [row[1] for row in rows])


def _rows(program: LineProgram) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """The last row of each address, and the end of each sequence."""
    sequence: dict[int, tuple[int, int]] = {}
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if not state.end_sequence:
            sequence[state.address] = (state.file, state.line)
            continue
        sequence.pop(state.address, None)
        yield state.address, None
        yield from sequence.items()
        sequence = {}


def _files(program: LineProgram) -> list[str]:
    """Names by number, relative to where the compiler ran: both tables count from 1 until DWARF 5."""
    header = program.header
    folders = [folder.decode(errors="replace") for folder in header["include_directory"]]
    files = [(entry.name.decode(errors="replace"), entry.dir_index) for entry in header["file_entry"]]
    if header["version"] < 5:
        folders.insert(0, "")
        files.insert(0, ("?", 0))
    return [os.path.join(folders[folder], name) for name, folder in files]


def _chain(unit: _Unit, address: int) -> list[DIE]:
    """The function at that address and what is inlined there, outermost first."""
    covering = [(len(span), die.offset, die) for span, die in unit.functions if address in span]
    if not covering:
        return []
    chain = [min(covering)[2]]
    while True:
        inner = _inlined(chain[-1], address)
        if inner is None:
            return chain
        chain.append(inner)


def _inlined(die: DIE, address: int) -> DIE | None:
    """The inlined function at that address, directly in this one or in a block of it."""
    for child in die.iter_children():
        if child.tag == "DW_TAG_inlined_subroutine":
            if any(address in span for span in _ranges(child)):
                return child
        elif child.tag == "DW_TAG_lexical_block":
            spans = _ranges(child)
            inner = _inlined(child, address) if not spans or any(address in span for span in spans) else None
            if inner is not None:
                return inner
    return None


def _ranges(die: DIE) -> list[range]:
    """The addresses of a DIE's code, none for what has none."""
    low, high = die.attributes.get("DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
    if low is not None and high is not None:
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        return [range(low.value, end)]
    if "DW_AT_ranges" not in die.attributes:
        return []
    lists = die.dwarfinfo.range_lists()
    if lists is None or not isinstance(die.cu, CompileUnit):
        return []
    base = _number(die.cu.get_top_DIE(), "DW_AT_low_pc")
    spans = []
    for entry in lists.get_range_list_at_offset(die.attributes["DW_AT_ranges"].value, cu=die.cu):
        if isinstance(entry, BaseAddressEntry):
            base = entry.base_address
        else:
            start = 0 if entry.is_absolute else base
            spans.append(range(start + entry.begin_offset, start + entry.end_offset))
    return spans


def _name(die: DIE) -> str:
    for _ in range(4):  # a concrete function, its abstract one, a declaration of that
        if name := _text(die, "DW_AT_name"):
            return name
        origin = next((origin for origin in _ORIGINS if origin in die.attributes), None)
        if origin is None:
            break
        die = die.get_DIE_from_attribute(origin)
    return ""


def _text(die: DIE, attribute: str) -> str:
    value = die.attributes.get(attribute)
    return value.value.decode(errors="replace") if value and isinstance(value.value, bytes) else ""


def _number(die: DIE, attribute: str) -> int:
    value = die.attributes.get(attribute)
    return value.value if value and isinstance(value.value, int) else 0
