# SPDX-License-Identifier: GPL-2.0
"""Events: what the kernel told a mirror, and what the driver did, one record each."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dmirror.memory import Span
from dmirror.uapi import lib

# What the kernel tells: MMU_NOTIFY_* of include/linux/mmu_notifier.h.
UNMAP = "UNMAP"
CLEAR = "CLEAR"
PROTECTION_VMA = "PROTECTION_VMA"
PROTECTION_PAGE = "PROTECTION_PAGE"
SOFT_DIRTY = "SOFT_DIRTY"
RELEASE = "RELEASE"
MIGRATE = "MIGRATE"
EXCLUSIVE = "EXCLUSIVE"
# The rest of a notification, told to watches only.
FINISH = "FINISH"
END = "END"
# What the driver did.
FAULT = "FAULT"
MIGRATE_BEGIN = "MIGRATE_BEGIN"
MIGRATE_SETUP = "MIGRATE_SETUP"
MIGRATE_COPIED = "MIGRATE_COPIED"
MIGRATE_PAGES = "MIGRATE_PAGES"
MIGRATE_MAPPED = "MIGRATE_MAPPED"
MIGRATE_END = "MIGRATE_END"
CPU_BEGIN = "CPU_BEGIN"
CPU_SETUP = "CPU_SETUP"
CPU_COPIED = "CPU_COPIED"
CPU_PAGES = "CPU_PAGES"
CPU_MAPPED = "CPU_MAPPED"
CPU_END = "CPU_END"
FREE = "FREE"
SPLIT = "SPLIT"
EVICT = "EVICT"
RELEASE_DEVICE = "RELEASE_DEVICE"
MADE_EXCLUSIVE = "MADE_EXCLUSIVE"
OVERRUN = "OVERRUN"

UNKNOWN = "unknown"
"""An event of the kernel that the driver does not know."""

KERNEL_EVENTS = (UNKNOWN, UNMAP, CLEAR, PROTECTION_VMA, PROTECTION_PAGE, SOFT_DIRTY, RELEASE, MIGRATE, EXCLUSIVE)
"""The events of the kernel; the place of each is its number."""

_ACTIONS = (
    *(FAULT, MIGRATE_BEGIN, MIGRATE_SETUP, MIGRATE_COPIED, MIGRATE_PAGES, MIGRATE_MAPPED, MIGRATE_END),
    *(CPU_BEGIN, CPU_SETUP, CPU_COPIED, CPU_PAGES, CPU_MAPPED, CPU_END),
    *(FREE, SPLIT, EVICT, RELEASE_DEVICE, MADE_EXCLUSIVE),
)
TYPES = {UNKNOWN: 0} | {
    name: int(getattr(lib, f"DMIRROR_EVENT_{name}")) for name in (*KERNEL_EVENTS[1:], FINISH, END, *_ACTIONS, OVERRUN)
}
"""Every type of record, by name."""

_TOLD = frozenset((*KERNEL_EVENTS, FINISH, END))
_NAMES = {number: name for name, number in TYPES.items()}
OWNERS = {
    lib.DMIRROR_EVENT_OWNER_UNDEFINED: None,
    lib.DMIRROR_EVENT_OWNER_OWN: "own",
    lib.DMIRROR_EVENT_OWNER_OTHER: "other",
    lib.DMIRROR_EVENT_OWNER_NONE: "none",
}


@dataclass(frozen=True)
class Event:
    """One record: struct dmirror_event of kmod/uapi/dmirror.h with names for numbers.

    `time` is CLOCK_MONOTONIC in ns, [`start`, `end`) are addresses, `result` is 0 or a negative errno. `owner` is
    "own", "other" or "none", and None for an event that has no owner (all but MIGRATE and EXCLUSIVE). `pages` are the
    device entries that an event dropped, or left if `filtered`; pages done by an action; records lost of an OVERRUN.
    `watch` is the `id` of the watch that was told, 0 for the mirror itself.
    """

    seq: int
    time: int
    start: int
    end: int
    interval_seq: int
    pages: int
    index: int
    result: int
    tid: int
    type: str
    blockable: bool
    filtered: bool
    refused: bool
    owner: str | None
    watch: int
    regions: Mapping[str, Span] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def decode(cls, record: Any, regions: Mapping[str, Span]) -> Event:
        """From one struct dmirror_event."""
        return cls(
            *(record.seq, record.time, record.start, record.end, record.interval_seq, record.pages, record.index),
            *(record.result, record.tid, _NAMES.get(record.type, f"type {record.type}")),
            blockable=bool(record.flags & lib.DMIRROR_EVENT_BLOCKABLE),
            filtered=bool(record.flags & lib.DMIRROR_EVENT_FILTERED),
            refused=bool(record.flags & lib.DMIRROR_EVENT_REFUSED),
            owner=OWNERS[record.owner],
            watch=record.watch,
            regions=regions,
        )

    @property
    def told(self) -> bool:
        """Whether the kernel told it, rather than the driver did it."""
        return self.type in _TOLD

    def over(self, span: Span) -> bool:
        """Whether it is about any byte of the span."""
        return self.start < span.end and self.end > span.addr

    @property
    def place(self) -> str:
        """The range, relative to the named regions; empty where there are no addresses."""
        if self.start == self.end == 0:
            return ""
        return f"[{self._relative(self.start, 0)}, {self._relative(self.end, 1)})"

    def _relative(self, addr: int, past: int) -> str:
        # An address past a last byte belongs to the region of that byte.
        for name, span in self.regions.items():
            if span.addr <= addr - past < span.end:
                return f"{name}+{addr - span.addr:#x}" if addr > span.addr else name
        return f"{addr:#x}"

    @property
    def outcome(self) -> str:
        """What became of an event of the kernel; for an action, nothing."""
        if not self.told:
            return ""
        if self.watch:
            what = f"watch {self.watch}"
        else:
            what = "refused" if self.refused else "filtered" if self.filtered else "obeyed"
        return what if self.blockable or self.type in (FINISH, END) else f"{what} atomic".lstrip()

    @property
    def said(self) -> str:
        """Of an action: its errno by name if it failed, and what `index` says."""
        parts = [errno.errorcode.get(-self.result, str(self.result))] if self.result else []
        if self.type in (FREE, SPLIT, EVICT):
            parts.append(f"index={self.index}")
        if self.type == FAULT and self.index:
            parts.append(f"retries={self.index}")
        return " ".join(parts)

    def __repr__(self) -> str:
        parts = [f"#{self.seq}", self.type, self.place]
        if self.owner is not None:
            parts.append(f"owner={self.owner}")
        if self.told:
            parts.append("" if self.outcome == "obeyed" else self.outcome)
            if self.pages:
                parts.append(f"{'left' if self.filtered else 'dropped'}={self.pages}")
        else:
            parts.append(f"{'lost' if self.type == OVERRUN else 'pages'}={self.pages}")
            parts.append(self.said)
        return " ".join(part for part in parts if part)
