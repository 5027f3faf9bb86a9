# SPDX-License-Identifier: GPL-2.0
"""What can be seen of a scenario's memory from outside, without touching it: page tables of processes and devices.

Taken in the guest as bytes, which is quick, and made sense of wherever they are looked at.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dmirror.scenario.tree import DEVICES

_PAGE = struct.Struct("=QQQIIII")  # struct dmirror_page of kmod/uapi/dmirror.h
_PRESENT, _SWAPPED = 1 << 63, 1 << 62  # Documentation/admin-guide/mm/pagemap.rst

# DMIRROR_PAGE_* of kmod/uapi/dmirror.h; the host looks at what a guest took, without the extension.
_VALID, _WRITE, _ERROR, _ZERO, _DEVICE = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6
_MAPPED, _MAPPED_WRITE, _MAPPED_ATOMIC = 1 << 8, 1 << 9, 1 << 10

_NAMES = {number: name for name, number in DEVICES.items()}

Mirrored = tuple[str, str]
"""A device's name and that of the process it mirrors."""


@dataclass(frozen=True)
class Raw:
    """One look: what each mirror has of each region (WALK), and what /proc/PID/pagemap has for each process."""

    walks: dict[Mirrored, dict[str, bytes]] = field(default_factory=dict)
    pagemaps: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def after(self, changes: Sequence[tuple[Mirrored | str, str, bytes]]) -> Raw:
        """The next look, where what these mirrors, or the pagemaps of these processes, have of these regions is not as
        it was. What is, is the same object: that makes a record small."""
        if not changes:
            return self
        walks, pagemaps = dict(self.walks), dict(self.pagemaps)
        for of, region, data in changes:
            if isinstance(of, str):
                pagemaps[of] = {**pagemaps[of], region: data}
            else:
                walks[of] = {**walks[of], region: data}
        return Raw(walks, pagemaps)


class Entry(NamedTuple):
    """What a device's page table has for a page: its frame, whether it may write, whether it has it exclusively."""

    frame: int
    write: bool
    exclusive: bool


class Page(NamedTuple):
    """One page of a process.

    `place` is a device's name or "ram", "zero", "exclusive", "swap" (away, and no mirror that may look says where),
    "none", "error" (nothing there, and nothing can be); `rights` "rw", "r", or "none"; `frame` is what holds the data,
    0 unknown; `order` of the CPU's mapping; `entries` those of the devices that mirror the process.
    """

    place: str
    rights: str
    frame: int
    order: int
    entries: dict[str, Entry]


Memory = dict[str, dict[str, Sequence[Page]]]
"""By process and region."""


def decode(raw: Raw) -> Memory:
    """Make sense of one look."""
    memory: Memory = {}
    for process, regions in raw.pagemaps.items():
        mirrors = [(device, walks) for (device, of), walks in raw.walks.items() if of == process]
        memory[process] = {
            region: _pages(words, tuple((device, walks[region]) for device, walks in mirrors))
            for region, words in regions.items()
        }
    return memory


@functools.lru_cache(maxsize=64)
def _pages(words: bytes, walks: tuple[tuple[str, bytes], ...]) -> Sequence[Page]:
    """Those of a region. Most steps leave most regions as they were."""
    tables = [(device, list(_PAGE.iter_unpack(data))) for device, data in walks]
    return tuple(
        _page(word, [(device, table[index]) for device, table in tables])
        for index, (word,) in enumerate(struct.iter_unpack("=Q", words))
    )


def _page(word: int, said: list[tuple[str, tuple[int, ...]]]) -> Page:
    entries: dict[str, Entry] = {}
    on, frame, order, every = "", 0, 0, 0
    for device, (_, backing, mapped, flags, level, number, _) in said:
        every |= flags
        if flags & _VALID:
            frame, order = backing, level
            if flags & _DEVICE:
                on = _NAMES[number]
        if flags & _MAPPED:
            bits = mapped, bool(flags & _MAPPED_WRITE), bool(flags & _MAPPED_ATOMIC)
            entries[device] = tuple.__new__(Entry, bits)  # quicker than by keyword, and there are many
    rights = "rw" if every & _WRITE else "r" if every & _VALID else "none"
    if on:
        place = on
    elif word & _PRESENT:
        place = "zero" if every & _ZERO else "ram"
    elif word & _SWAPPED:
        exclusive = any(entry.exclusive for entry in entries.values())
        place = "exclusive" if exclusive else "swap"
    else:
        place = "error" if every & _ERROR else "none"
    return tuple.__new__(Page, (place, rights, frame, order, entries))
