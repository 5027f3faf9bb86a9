# SPDX-License-Identifier: GPL-2.0
"""From function+offset to file:line, on small programs and modules that gcc makes of the sources below."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol, SymbolTableSection

from dmirror.kernel.decode import annotate
from dmirror.kernel.dwarf import Place, Symbols

# `mark` is one instruction, which stands out in the code as a WARN()'s does; M(name) tells its line.
_HEADER = """\
#define mark() asm volatile("ud2")
#define noinline __attribute__((noinline))
void callee(int);
static inline __attribute__((always_inline)) void deep(int n)
{
	callee(n);
	mark();			// M(deep)
}
"""
_ONE = """\
#include "one.h"
static inline __attribute__((always_inline)) void middle(int n)
{
	if (n) {
		int tripled = n * 3;

		callee(tripled);
		deep(tripled);	// M(middle)
	}
}
noinline void outer(int n)
{
	callee(n + 1);
	middle(n);		// M(outer)
	callee(n + 2);
}
noinline void calls(int n)
{
	callee(n);		// M(call)
	mark();			// M(after)
	callee(n + 3);
}
static noinline void same(void)
{
	mark();			// M(same one)
}
static noinline void alike(void)
{
	mark();			// M(alike one)
}
void __attribute__((cold)) unlikely(void) { callee(9); }
noinline int mostly(int n)
{
	if (__builtin_expect(n == 7, 0)) {
		unlikely();
		mark();		// M(cold)
	}
	callee(n);
	return n;
}
void start_one(void) { same(); alike(); outer(1); mostly(2); }
"""
_TWO = """\
#include "one.h"


noinline void callee(int n) { asm volatile("" :: "r"(n)); }
static noinline void same(void)
{
	callee(1);
	mark();			// M(same two)
	callee(2);
}
static noinline void alike(void)
{
	mark();			// M(alike two)
}
void start_two(void) { same(); alike(); }
"""
_MODULE = """\
#include "one.h"
#define in(name) __attribute__((__noinline__, section(name)))
in(".text") void toy_call(int n)
{
	deep(n);		// M(toy)
}
in(".init.text") void toy_init(int n)
{
	deep(n);		// M(init)
}
in(".exit.text") void toy_exit(int n)
{
	deep(n);		// M(exit)
}
"""
_MARK = b"\x0f\x0b"
_ASSEMBLY = """\
	.text
	nop
local_label:
	nop
	ud2			# M(assembly)
	.section .text.next, "ax"
next_label:
	ud2			# M(next)
__pfx_function:
	nop
"""
_FLAGS = ("-O2", "-mcmodel=kernel", "-fno-pic", "-no-pie", "-fcf-protection=none", "-fno-asynchronous-unwind-tables")


class Built:
    """An ELF file made of these sources, and what is known of it without DWARF."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.symbols = Symbols(path, source)

    def functions(self, name: str) -> list[Symbol]:
        with self.path.open("rb") as stream:
            table = ELFFile(stream).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            return [
                symbol for symbol in table.get_symbol_by_name(name) or [] if symbol["st_info"]["type"] == "STT_FUNC"
            ]

    def size(self, function: Symbol) -> int:
        """As the kernel sees it: up to the next symbol."""
        with self.path.open("rb") as stream:
            table = ELFFile(stream).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            others = [
                symbol["st_value"] for symbol in table.iter_symbols() if symbol["st_shndx"] == function["st_shndx"]
            ]
        start: int = function["st_value"]
        return min(other for other in others if other > start) - start

    def code(self, function: Symbol) -> bytes:
        with self.path.open("rb") as stream:
            section = ELFFile(stream).get_section(function["st_shndx"])
            start = function["st_value"] - section["sh_addr"]
            code: bytes = section.data()[start : start + function["st_size"]]
            return code

    def mark(self, name: str) -> int:
        """The offset of the mark in a function."""
        (function,) = self.functions(name)
        return self.code(function).index(_MARK)

    def at_mark(self, name: str, *, returns: bool = False) -> list[Place]:
        return self.symbols.places(name, self.mark(name), None, returns=returns)


def _line(text: str, marker: str) -> int:
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if f"M({marker})" in line]
    return number


@dataclass(frozen=True)
class Sources:
    folder: Path

    def compiled(self, name: str, *debug: str) -> str:
        output = self.folder / f"{name}{''.join(debug)}.o"
        subprocess.run(["gcc", *debug, *_FLAGS, "-c", str(self.folder / name), "-o", str(output)], check=True)
        return str(output)

    def program(self, *debug: str) -> Built:
        parts = [self.compiled(name, *debug) for name in ("one.c", "two.c", "entry.S")]
        output = self.folder / "".join(debug) / "vmlinux"
        output.parent.mkdir(exist_ok=True)
        subprocess.run(["ld", "-e", "start_one", "-Ttext=0xffffffff81000000", "-o", str(output), *parts], check=True)
        return Built(output, self.folder)

    def module(self, *debug: str) -> Built:
        output = self.folder / "".join(debug) / "toy.ko"
        output.parent.mkdir(exist_ok=True)
        parts = [self.compiled(name, *debug) for name in ("toy.c", "two.c")]
        subprocess.run(["ld", "-r", "-o", str(output), *parts], check=True)
        return Built(output, self.folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("dwarf")
    texts = {"one.h": _HEADER, "one.c": _ONE, "two.c": _TWO, "toy.c": _MODULE, "entry.S": _ASSEMBLY}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return Sources(folder)


@pytest.fixture(scope="module", params=["-gdwarf-4", "-gdwarf-5"])
def version(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def program(sources: Sources, version: str) -> Built:
    return sources.program(version)


@pytest.fixture(scope="module")
def module(sources: Sources, version: str) -> Built:
    return sources.module(version)


_DEEP = Place("deep", "one.h", _line(_HEADER, "deep"))


def test_inlined_functions_are_named_from_the_innermost_out(program: Built) -> None:
    assert program.at_mark("outer") == [
        _DEEP,
        Place("middle", "one.c", _line(_ONE, "middle")),
        Place("outer", "one.c", _line(_ONE, "outer")),
    ]


def test_an_address_that_a_call_returns_to_is_the_calls(program: Built) -> None:
    assert program.at_mark("calls", returns=True) == [Place("calls", "one.c", _line(_ONE, "call"))]
    assert program.at_mark("calls") == [Place("calls", "one.c", _line(_ONE, "after"))]


def test_the_first_instruction_of_a_function_is_not_the_one_before_it(program: Built) -> None:
    (place,) = program.symbols.places("calls", 0, None, returns=True)
    assert place.function == "calls"


def test_the_size_picks_among_functions_of_one_name(program: Built) -> None:
    one, two = program.functions("same")
    assert program.size(one) != program.size(two)
    found = [
        program.symbols.places("same", program.code(function).index(_MARK), program.size(function), returns=False)
        for function in (one, two)
    ]
    assert found == [
        [Place("same", "one.c", _line(_ONE, "same one"))],
        [Place("same", "two.c", _line(_TWO, "same two"))],
    ]


def test_functions_that_nothing_tells_apart_are_not_guessed_at(program: Built) -> None:
    one, two = program.functions("alike")
    assert program.size(one) == program.size(two)
    assert program.symbols.places("alike", 0, program.size(one), returns=False) == []
    assert not program.symbols.trouble


def test_a_function_of_another_size_is_not_the_one_that_ran(program: Built) -> None:
    assert program.symbols.places("outer", program.mark("outer"), 0x12340, returns=False) == []


def test_the_size_of_a_sections_last_function_is_for_the_kernel_to_know(module: Built) -> None:
    assert module.symbols.places("toy_init", module.mark("toy_init"), 0x12340, returns=False)[0] == _DEEP
    assert module.symbols.places("toy_call", module.mark("toy_call"), 0x12340, returns=False) == []


def test_the_cold_part_of_a_function_has_its_name(program: Built) -> None:
    assert program.at_mark("mostly.cold") == [Place("mostly", "one.c", _line(_ONE, "cold"))]


@pytest.mark.parametrize("name", ["call", "init", "exit"])
def test_sections_of_a_module_that_begin_at_0_are_told_apart(module: Built, name: str) -> None:
    (function,) = module.functions(f"toy_{name}")
    assert function["st_value"] == 0
    marker = "toy" if name == "call" else name
    assert module.at_mark(f"toy_{name}") == [_DEEP, Place(f"toy_{name}", "toy.c", _line(_MODULE, marker))]


def test_without_an_index_of_addresses_the_units_are_searched(sources: Sources, program: Built, tmp_path: Path) -> None:
    bare = tmp_path / "vmlinux"
    subprocess.run(["objcopy", "--remove-section=.debug_aranges", str(program.path), str(bare)], check=True)
    assert Symbols(bare, sources.folder).places("outer", program.mark("outer"), None, returns=False)[0] == _DEEP


def test_assembly_has_lines_too(program: Built) -> None:
    for label, offset, marker in (("local_label", 1, "assembly"), ("next_label", 0, "next")):
        expected = [Place(label, "entry.S", _line(_ASSEMBLY, marker))]
        assert program.symbols.places(label, offset, None, returns=False) == expected


def test_padding_behind_a_function_is_no_line_of_it(program: Built) -> None:
    (function,) = program.functions("start_two")
    assert program.symbols.places("start_two", function["st_size"] - 1, None, returns=False)
    (function,) = program.functions("calls")
    assert function["st_size"] < program.size(function)
    assert program.symbols.places("calls", program.size(function), None, returns=True) == []
    assert program.symbols.places("__pfx_function", 1, None, returns=True) == []


def test_what_is_not_there_has_no_place(program: Built) -> None:
    assert program.symbols.places("nowhere", 4, None, returns=True) == []
    assert program.symbols.places("outer", 0x7FFFFFFF, None, returns=False) == []
    assert not program.symbols.trouble


@pytest.mark.skipif(shutil.which("addr2line") is None, reason="no addr2line to compare with")
def test_every_address_is_where_addr2line_says(program: Built, module: Built, version: str) -> None:
    names = [(program, name) for name in ("outer", "calls", "mostly", "mostly.cold", "start_two")]
    if version == "-gdwarf-5":  # in DWARF 4 an empty range at 0 ends a list, and addr2line leaves sections at 0
        names += [(module, name) for name in ("toy_call", "toy_init", "toy_exit")]
    for built, name in names:
        (function,) = built.functions(name)
        offsets = range(function["st_size"])
        assert [built.symbols.places(name, offset, None, returns=False) for offset in offsets] == list(
            _addr2line(built, function, offsets)
        )


def _addr2line(built: Built, function: Symbol, offsets: range) -> Iterator[list[Place]]:
    with built.path.open("rb") as stream:
        elf = ELFFile(stream)
        section = [] if elf["e_type"] == "ET_EXEC" else ["-j", elf.get_section(function["st_shndx"]).name]
    command = ["addr2line", "-e", str(built.path), "-a", "-f", "-i", *section]
    addresses = [hex(function["st_value"] + offset) for offset in offsets]
    text = subprocess.run([*command, *addresses], check=True, capture_output=True, text=True).stdout
    for answer in text.split("0x")[1:]:
        lines = answer.splitlines()[1:]
        places = zip(lines[::2], (line.split(" (")[0].rpartition(":") for line in lines[1::2]), strict=True)
        yield [Place(name, Path(file).name, int(line)) for name, (file, _, line) in places]


def test_below_a_line_of_a_log_stand_its_places_and_their_code(program: Built) -> None:
    (function,) = program.functions("outer")
    line = f"[  1.5][ T7] RIP: 0010:outer+{program.mark('outer'):#x}/{program.size(function):#x}"
    middle, outer = _line(_ONE, "middle"), _line(_ONE, "outer")
    assert annotate([line], program.symbols, {}) == [
        line,
        f"    one.h:{_DEEP.line}  in deep (inlined)",
        f"      {_DEEP.line}: mark();\t\t\t// M(deep)",
        f"    one.c:{middle}  in middle (inlined)",
        f"      {middle}: deep(tripled);\t// M(middle)",
        f"    one.c:{outer}  in outer",
        f"      {outer}: middle(n);\t\t// M(outer)",
    ]


# -- files that are not as they should be


def test_without_debug_information_the_option_is_named(sources: Sources) -> None:
    bare = sources.program()
    assert bare.at_mark("outer") == []
    assert bare.symbols.trouble == "no debug information in vmlinux: CONFIG_DEBUG_INFO_DWARF5"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    symbols = Symbols(tmp_path / "vmlinux", tmp_path)
    assert symbols.places("outer", 0, None, returns=False) == []
    assert symbols.trouble == f"no {tmp_path}/vmlinux"


@pytest.mark.parametrize("length", [0, 3, 64, 5000], ids="{} bytes".format)
def test_a_file_cut_short_is_named(program: Built, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "vmlinux"
    cut.write_bytes(program.path.read_bytes()[:length])
    symbols = Symbols(cut, tmp_path)
    assert symbols.places("outer", 0, None, returns=False) == []
    assert symbols.trouble.startswith("cannot read vmlinux: ")


@pytest.mark.parametrize("name", [".debug_info", ".debug_line", ".debug_abbrev", ".debug_aranges"])
def test_bytes_that_are_no_dwarf_are_said_and_no_error(module: Built, tmp_path: Path, name: str) -> None:
    content = bytearray(module.path.read_bytes())
    with module.path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(name)
    content[section["sh_offset"] : section["sh_offset"] + section["sh_size"]] = b"\xa5" * section["sh_size"]
    broken = tmp_path / "toy.ko"
    broken.write_bytes(content)
    symbols = Symbols(broken, tmp_path)
    assert symbols.places("toy_call", 0, None, returns=False) == []
    assert symbols.trouble.startswith("cannot read the debug information of toy.ko: ")
