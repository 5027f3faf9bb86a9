# SPDX-License-Identifier: GPL-2.0
"""Which lines of a kernel log are decoded, and how: on saved lines of real complaints."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmirror.kernel.decode import annotate
from dmirror.kernel.dwarf import Place, Symbols


class Known(Symbols):
    """Knows some functions, and answers with what it was asked."""

    def __init__(self, *functions: str, trouble: str = "") -> None:
        super().__init__(Path("vmlinux"))
        self.trouble = trouble
        self.known = functions

    def places(self, function: str, offset: int, size: int | None, *, returns: bool) -> list[Place]:
        way = "returns" if returns else "exact"
        return [Place(f"{function} {size} {way}", "mm/x.c", offset)] if function in self.known else []

    def code(self, place: Place) -> str:
        return "return 0;" if place.line == 16 else ""


_KERNEL = Known("f", "f.isra.0", "f.cold", "__x64_sys_ioctl", "lock_acquire", "mmu_interval_notifier_insert")
_MODULES: dict[str, Symbols] = {"dmirror": Known("dmirror_fault", "dmirror_watch")}


def _below(line: str) -> list[str]:
    first, *rest = annotate([line], _KERNEL, _MODULES)
    assert first == line
    return rest


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[  366.495005][   T83]  __x64_sys_ioctl+0x367/0x8f0", "mm/x.c:871  in __x64_sys_ioctl 2288 returns"),
        (" dmirror_watch+0xfc/0x1d0 [dmirror]", "mm/x.c:252  in dmirror_watch 464 returns"),
        (" dmirror_watch+0xfc/0x1d0 [dmirror 0123456789abcdef]", "mm/x.c:252  in dmirror_watch 464 returns"),
        (" ? f+0x143/0x290", "? mm/x.c:323  in f 656 returns"),
        (" f.isra.0+0x4d/0x60", "mm/x.c:77  in f.isra.0 96 returns"),
        ("RIP: 0010:f.cold+0x4d/0x60", "mm/x.c:77  in f.cold 96 exact"),
        ("RIP: f+0x1a", "mm/x.c:26  in f None exact"),
        ("pc : f+0x1a/0x20", "mm/x.c:26  in f 32 exact"),
        ("lr : f+0x1a/0x20", "mm/x.c:26  in f 32 returns"),
        ("WARNING: CPU: 1 PID: 80 at mm/memremap.c:412 f+0x1a/0x90", "mm/x.c:26  in f 144 exact"),
        (
            "WARNING: mm/mmu_notifier.c:1026 at mmu_interval_notifier_insert+0x68/0x80, CPU#0: python/83",
            "mm/x.c:104  in mmu_interval_notifier_insert 128 exact",
        ),
        (
            "BUG: KASAN: slab-use-after-free in dmirror_fault+0x3c/0x70 [dmirror]",
            "mm/x.c:60  in dmirror_fault 112 returns",
        ),
        (
            "#0: ffff888 (&ctx->lock){+.+.}-{3:3}, at: dmirror_fault+0x5e/0x90 [dmirror]",
            "mm/x.c:94  in dmirror_fault 144 returns",
        ),
        ("((&x)){+.+.}-{3:3}, at: f+0x5e/0x90", "mm/x.c:94  in f 144 returns"),
        ("hardirqs last  enabled at (77): [<ffffffff81a0>] f+0x5e/0x90", "mm/x.c:94  in f 144 returns"),
    ],
)
def test_a_line_that_names_code_is_decoded(line: str, expected: str) -> None:
    assert _below(line) == [f"    {expected}"]


def test_the_source_line_stands_below_its_place() -> None:
    assert _below(" f+0x10/0x20") == ["    mm/x.c:16  in f 32 returns", "      16: return 0;"]


def test_each_of_several_functions_in_a_line_is_decoded() -> None:
    assert _below("f+0x1/0x9 <- dmirror_fault+0x2/0x9 [dmirror]") == [
        "    mm/x.c:1  in f 9 returns",
        "    mm/x.c:2  in dmirror_fault 9 returns",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ? 0xffffffffa0207000",
        " nowhere+0x1/0x2",
        " f+0x10/0x20 [another_module]",
        " dmirror_fault+0x10/0x20",
        " f+0xffffffffffffffffffffff/0x10",
        "RIP: 0033:0x7f2bb9cebd6b",
        "Code: 85 c0 75 27 <0f> 0b eb b9",
        "Modules linked in: dmirror(O) [last unloaded: dmirror(O)]",
        "f +0x10 +0x/0x f+0x f+10/20 f+0xg \x00\ufffd",
        "[   12.3] +0x5/0x9 [dmirror] +",
    ],
)
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert _below(line) == []


def test_what_is_wrong_with_the_symbols_is_said_once() -> None:
    kernel = Known(trouble="no debug information in vmlinux: CONFIG_DEBUG_INFO_DWARF5")
    assert annotate(["Call Trace:", " f+0x1/0x2", " g+0x1/0x2"], kernel, {}) == [
        "Call Trace:",
        " f+0x1/0x2",
        "    (no debug information in vmlinux: CONFIG_DEBUG_INFO_DWARF5)",
        " g+0x1/0x2",
    ]
