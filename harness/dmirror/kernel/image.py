# SPDX-License-Identifier: GPL-2.0
"""An ELF file of the kernel in one address space, a .ko too: its symbols as kallsyms sees them, and its DWARF."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size
_RELA = struct.Struct("<QQq")  # Elf64_Rela: r_offset, r_info, r_addend
_WIDTHS = {1: struct.Struct("<Q"), 10: struct.Struct("<I"), 11: struct.Struct("<I")}  # R_X86_64_64, _32, _32S
_IGNORED = (".L", "$")  # by scripts/mksysmap for vmlinux, by is_mapping_symbol() for modules
_FIRST = 1 << 20  # where the first section of a .ko is put: in DWARF 4 an empty range at 0 ends a list


@dataclass(frozen=True)
class Image:
    """What is known of a file's code."""

    functions: dict[str, list[range]]  # addresses by name, which static functions may share; empty: no size is known
    starts: list[int]  # of every symbol of code, ascending
    sections: list[range]  # of code
    dwarf: DWARFInfo | None  # None: built without debug information

    def size(self, address: int) -> int | None:
        """Bytes from a symbol to the next, as the kernel prints them; None for the last one of a section.

        What follows a section of a module is known only to whom loads it.
        """
        after = bisect_right(self.starts, address)
        section = next(section for section in self.sections if address in section)
        if after == len(self.starts) or self.starts[after] not in section:
            return None
        return self.starts[after] - address


def read(path: Path) -> Image:
    """Read vmlinux or a .ko. Raises ELFError for what is neither, OSError, and what pyelftools raises for odd bytes."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        if elf.elfclass != 64 or not elf.little_endian:
            raise ELFError("not a file of a 64-bit, little-endian machine")
        if elf["e_type"] != "ET_REL":
            return _image(elf, dict.fromkeys(range(elf.num_sections()), 0))
        stream.seek(0)
        content = bytearray(stream.read())
    elf = ELFFile(io.BytesIO(content))
    bases = _lay_out(elf)
    _relocate(content, elf, bases)
    return _image(ELFFile(io.BytesIO(content)), bases)


def _lay_out(elf: ELFFile) -> dict[int, int]:
    """Where each section is put. Only those of code are moved: DWARF refers to its own sections by offset."""
    bases = {}
    place = _FIRST
    for index, section in enumerate(elf.iter_sections()):
        code = section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        bases[index] = place if code else 0
        if code:
            place += (section["sh_size"] | 0xFFF) + 1
    return bases


def _relocate(content: bytearray, elf: ELFFile, bases: dict[int, int]) -> None:
    """Apply the relocations of DWARF in place: pyelftools needs 100 us for each, and full DWARF has 100 000s."""
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection) or not section.name.startswith(".rela.debug_"):
            continue
        target = elf.get_section(section["sh_info"])
        if target.compressed:
            raise ELFError("its debug information is compressed: CONFIG_DEBUG_INFO_COMPRESSED_NONE")
        start = target["sh_offset"]
        table = elf.get_section(section["sh_link"]).data()
        values = [value + bases.get(index, 0) for _, _, _, index, value, _ in _SYMBOL.iter_unpack(table)]
        for offset, info, addend in _RELA.iter_unpack(section.data()):
            width = _WIDTHS.get(info & 0xFFFFFFFF)
            if width is None or not elf["e_machine"] == "EM_X86_64":
                raise ELFError(f"relocation type {info & 0xFFFFFFFF} of {elf['e_machine']} in {target.name}")
            width.pack_into(content, start + offset, (values[info >> 32] + addend) % (1 << 8 * width.size))


def _image(elf: ELFFile, bases: dict[int, int]) -> Image:
    code = {
        index: range(section["sh_addr"] + bases[index], section["sh_addr"] + bases[index] + section["sh_size"])
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
    }
    functions: dict[str, list[range]] = {}
    starts = set()
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise ELFError("it has no symbols")
    names = table.stringtable.data()
    for name_at, _, _, index, value, size in _SYMBOL.iter_unpack(table.data()):
        address = value + bases.get(index, 0)
        if index not in code or address not in code[index]:
            continue
        name = names[name_at : names.index(b"\0", name_at)].decode(errors="replace")
        if name and not name.startswith(_IGNORED):
            starts.add(address)
            functions.setdefault(name, []).append(range(address, address + size))
    dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False) if elf.has_dwarf_info(True) else None
    return Image(functions, sorted(starts), list(code.values()), dwarf)
