# SPDX-License-Identifier: GPL-2.0
"""Pages as the core sees them: the words of a migration's vectors, and one page in both page tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from dmirror.memory import Span
from dmirror.uapi import lib

_WORD = {
    "VALID": lib.DMIRROR_WORD_VALID,
    "MIGRATE": lib.DMIRROR_WORD_MIGRATE,
    "WRITE": lib.DMIRROR_WORD_WRITE,
    "COMPOUND": lib.DMIRROR_WORD_COMPOUND,
}
PHASES = {
    "setup": "setup_src",
    "copied": "copied_dst",
    "pages": "pages_src",
    "dst_pages": "pages_dst",
    "final": "final_src",
    "dst_final": "final_dst",
}
"""The fields of Words, and those of struct dmirror_words that they are."""


class Word(int):
    """One entry of the src or dst vector of struct migrate_vma: MIGRATE_PFN_* flags below a page frame number."""

    __slots__ = ()

    @property
    def valid(self) -> bool:
        """MIGRATE_PFN_VALID."""
        return bool(self & lib.DMIRROR_WORD_VALID)

    @property
    def migrate(self) -> bool:
        """MIGRATE_PFN_MIGRATE."""
        return bool(self & lib.DMIRROR_WORD_MIGRATE)

    @property
    def write(self) -> bool:
        """MIGRATE_PFN_WRITE."""
        return bool(self & lib.DMIRROR_WORD_WRITE)

    @property
    def compound(self) -> bool:
        """MIGRATE_PFN_COMPOUND, where the kernel has it (6.19)."""
        return bool(self & lib.DMIRROR_WORD_COMPOUND)

    @property
    def pfn(self) -> int:
        """The page frame number, 0 for none."""
        return int(self) >> int(lib.DMIRROR_WORD_PFN_SHIFT)

    def __repr__(self) -> str:
        parts = ["|".join(name for name, bit in _WORD.items() if self & bit)]
        other = self & ((1 << lib.DMIRROR_WORD_PFN_SHIFT) - 1) & ~sum(_WORD.values())
        if other:
            parts.append(f"{other:#x}")
        if self.pfn:
            parts.append(f"pfn={self.pfn:#x}")
        return " ".join(part for part in parts if part) or "0"

    __str__ = __repr__

    @property
    def short(self) -> str:
        """The same for a table: a letter for each flag that is set, and the page frame."""
        flags = "".join(name[0] if self & bit else "-" for name, bit in _WORD.items())
        return f"{flags} {self.pfn:#x}" if self else "0"


class Words(NamedTuple):
    """What the vectors said of one page, phase after phase.

    `setup`: src after migrate_vma_setup(); `copied`: dst as the driver chose it; `pages` and `dst_pages`: src and dst
    after migrate_vma_pages(); `final` and `dst_final`: src and dst after migrate_vma_finalize().
    """

    setup: Word
    copied: Word
    pages: Word
    dst_pages: Word
    final: Word
    dst_final: Word

    @classmethod
    def decode(cls, words: Any) -> Words:
        """From one struct dmirror_words."""
        return cls(*(Word(getattr(words, name)) for name in PHASES.values()))


class Migration(NamedTuple):
    """What a migration did: `done` pages it came to, `collected` the cpages of setup, `moved` pages, `words` a page."""

    span: Span
    done: int
    collected: int
    moved: int
    words: list[Words]

    def table(self) -> str:
        """A line for each page, a column for each phase; V, M, W, C are the flags, followed by the page frame."""
        rows = [["page", *PHASES]]
        rows += [
            [str(page), *(getattr(words, phase).short for phase in PHASES)] for page, words in enumerate(self.words)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        head = f"{self.span}: done {self.done}, collected {self.collected}, moved {self.moved}"
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([head, *lines])


CARRIED = {
    "dma_mapped": lib.DMIRROR_PAGE_DMA_MAPPED,
    "p2pdma": lib.DMIRROR_PAGE_P2PDMA,
    "p2pdma_bus": lib.DMIRROR_PAGE_P2PDMA_BUS,
}
"""HMM_PFN_* that hmm_range_fault() leaves as it found them."""


@dataclass(frozen=True)
class PageInfo:
    """One page as hmm_range_fault() and as the device page table have it.

    `pfn` is what hmm_range_fault() gave (0: none), `backing` the page frame that holds the data (`pfn`, unless that is
    device-private) and `mapped` the one in the device page table; `order` that of the CPU's mapping. `device` and
    `index` say where in which device's memory the page is, None for a page elsewhere.
    """

    pfn: int
    backing: int
    mapped: int
    valid: bool
    write: bool
    error: bool
    zero: bool
    device: int | None
    index: int | None
    order: int
    mapped_write: bool
    mapped_atomic: bool
    mapped_device: bool
    carried: frozenset[str]  # names of CARRIED

    @classmethod
    def decode(cls, page: Any) -> PageInfo:
        """From one struct dmirror_page."""

        def has(name: str) -> bool:
            return bool(page.flags & getattr(lib, f"DMIRROR_PAGE_{name}"))

        return cls(
            *(page.pfn, page.backing, page.mapped),
            *(has("VALID"), has("WRITE"), has("ERROR"), has("ZERO")),
            device=page.device if has("DEVICE") else None,
            index=page.index if has("DEVICE") else None,
            order=page.order,
            mapped_write=has("MAPPED_WRITE"),
            mapped_atomic=has("MAPPED_ATOMIC"),
            mapped_device=has("MAPPED_DEVICE"),
            carried=frozenset(name for name, bit in CARRIED.items() if page.flags & bit),
        )

    @property
    def agrees(self) -> bool:
        """Whether the device has the page that the CPU has, as far as both have one."""
        return not self.mapped or not self.backing or self.mapped == self.backing

    def __repr__(self) -> str:
        cpu = ["error"] if self.error else []
        if self.valid:
            on_device = self.device is not None
            where = f"device {self.device} page {self.index}" if on_device else "zero page" if self.zero else "ram"
            cpu += [where, f"pfn={self.pfn:#x}", "rw" if self.write else "r"]
            if on_device and self.backing != self.pfn:
                cpu.append(f"backing={self.backing:#x}")
            if self.order:
                cpu.append(f"order={self.order}")
        device = []
        if self.mapped:
            device = [f"{self.mapped:#x}", "rw" if self.mapped_write else "r"]
            device += ["atomic"] if self.mapped_atomic else []
            device += ["device"] if self.mapped_device else []
        text = f"{' '.join(cpu) or 'nothing'}; mapped {' '.join(device) or 'nothing'}"
        return text if self.agrees else text + " (they disagree)"


class Walk(NamedTuple):
    """What one hmm_range_fault() said of each page, and how often it was repeated."""

    pages: list[PageInfo]
    retries: int
