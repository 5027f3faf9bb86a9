# SPDX-License-Identifier: GPL-2.0
"""The compiled interface: numbers and layouts that existing programs rely on."""

from __future__ import annotations

import pytest

from dmirror.scenario import record
from dmirror.uapi import build, ffi, lib

# From lib/test_hmm_uapi.h of 6.1 to 7.3, as the compiler of x86-64 sees it.
NUMBERS = {
    "READ": 0xC0284800,
    "WRITE": 0xC0284801,
    "MIGRATE_TO_DEV": 0xC0284802,
    "MIGRATE_TO_SYS": 0xC0284803,
    "SNAPSHOT": 0xC0284804,
    "EXCLUSIVE": 0xC0284805,
    "CHECK_EXCLUSIVE": 0xC0284806,
    "RELEASE": 0xC0284807,
    "FLAGS": 0xC0284808,
    "READ_UNLOCKED": 0xC0284809,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_ioctl_numbers_are_the_trees(name: str) -> None:
    assert getattr(lib, f"HMM_DMIRROR_{name}") == NUMBERS[name]


def test_the_command_is_laid_out_as_the_trees() -> None:
    offsets = {name: field.offset for name, field in ffi.typeof("struct hmm_dmirror_cmd").fields}
    assert offsets == {"addr": 0, "ptr": 8, "npages": 16, "cpages": 24, "faults": 32}
    assert ffi.sizeof("struct hmm_dmirror_cmd") == 40


CALLS = (
    *("query", "counters", "log", "hold", "hold_state", "inject"),
    *("migrate", "walk", "peek", "watch", "exclusive"),
)


@pytest.mark.parametrize("kind", CALLS)
def test_own_structures_begin_with_size_and_flags(kind: str) -> None:
    assert [name for name, _ in ffi.typeof(f"struct dmirror_{kind}").fields[:2]] == ["size", "flags"]


@pytest.mark.parametrize("kind", [*CALLS, "event", "words", "page"])
def test_own_structures_have_no_holes(kind: str) -> None:
    end = 0
    for _, field in ffi.typeof(f"struct dmirror_{kind}").fields:
        assert field.offset == end
        end += ffi.sizeof(field.type)
    assert end == ffi.sizeof(f"struct dmirror_{kind}")


def test_what_a_stretch_is_read_by_is_laid_out_as_it_is_written() -> None:
    offsets = [field.offset for _, field in ffi.typeof("struct dm_ended").fields[1:]]
    reply = [field.offset for _, field in ffi.typeof("struct dm_agent_reply").fields]
    zeroes = record.ENDED.unpack(bytes(record.ENDED.size))
    assert (len(zeroes), record.ENDED.size) == (len(reply + offsets), ffi.sizeof("struct dm_ended"))
    for number, offset in enumerate(reply + offsets):
        changed = bytearray(record.ENDED.size)
        changed[offset] = 1
        assert record.ENDED.unpack(changed) == tuple(int(n == number) for n in range(len(zeroes)))
    assert lib.STEP_CALL == record.CALL


def test_declarations_leave_values_to_the_compiler() -> None:
    header = ["/* #define NO 1 */", "#define GUARD_H", "#define A\t(1 << 3)", "enum {", "\tB\t= 0xff,", "};"]
    text = "\n".join([*header, "struct s {", "\t__u64 x;", "};"])
    assert build.declarations(text).splitlines() == [
        "struct s {",
        "\t__u64 x;",
        "};",
        "#define A ...",
        "#define B ...",
    ]
