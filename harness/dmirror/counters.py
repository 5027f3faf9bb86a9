# SPDX-License-Identifier: GPL-2.0
"""What a driver counted: `Counters`, and the difference of two."""

from __future__ import annotations

from typing import Any, NamedTuple

from dmirror.events import KERNEL_EVENTS
from dmirror.memory import HUGE_PAGES

STAYED = ("absent", "memory", "copy", "skipped", "kind", "core")
"""Why a page did not migrate, DMIRROR_STAYED_*; the place of each is its number."""

_KEYS = {"seen": KERNEL_EVENTS, "filtered": KERNEL_EVENTS, "obeyed": KERNEL_EVENTS, "stayed": STAYED}


class Counters(NamedTuple):
    """struct dmirror_counters of kmod/uapi/dmirror.h, by the same names.

    `seen`, `filtered` and `obeyed` are by the names of events.py, `stayed` by the reasons of STAYED.
    """

    events_seen: int
    events_filtered: int
    events_obeyed: int
    entries_kept: int
    entries_installed: int
    entries_dropped: int
    entries_present: int
    faults: int
    fault_retries: int
    pages_to_device: int
    pages_to_system: int
    dev_pages_in_use: int
    dev_small_allocated: int
    dev_small_freed: int
    dev_huge_allocated: int
    dev_huge_freed: int
    dev_huge_split: int
    dev_cpu_faults: int
    dev_pages_faulted: int
    dev_pages_evicted: int
    dev_pages_displaced: int
    dev_contexts: int
    events_refused: int
    seen: dict[str, int]
    filtered: dict[str, int]
    obeyed: dict[str, int]
    huge_to_device: int
    huge_to_system: int
    stayed: dict[str, int]
    dev_fault_oom: int
    dev_fault_failed: int
    dev_releases: int

    @classmethod
    def decode(cls, out: Any) -> Counters:
        """From one struct dmirror_counters."""
        fields: dict[str, Any] = {name: getattr(out, name) for name in cls._fields}
        for name, keys in _KEYS.items():
            fields[name] = dict(zip(keys, fields[name], strict=True))
        return cls(**fields)

    @property
    def dev_pages_allocated(self) -> int:
        """Pages handed out, in folios of whatever size."""
        return self.dev_small_allocated + self.dev_huge_allocated * HUGE_PAGES

    @property
    def dev_pages_freed(self) -> int:
        """Pages given back, in folios of whatever size."""
        return self.dev_small_freed + self.dev_huge_freed * HUGE_PAGES

    @property
    def dev_huge_in_use(self) -> int:
        """Folios of PMD_SIZE that are handed out."""
        return self.dev_huge_allocated - self.dev_huge_split - self.dev_huge_freed

    @property
    def dev_small_in_use(self) -> int:
        """Folios of one page that are handed out, what huge ones were split into included."""
        return self.dev_small_allocated + self.dev_huge_split * HUGE_PAGES - self.dev_small_freed

    def __sub__(self, before: Counters) -> Counters:
        """What happened since `before`."""
        return Counters(**{name: _less(getattr(self, name), getattr(before, name)) for name in self._fields})


def _less(after: Any, before: Any) -> Any:
    if isinstance(after, dict):
        return {name: count - before[name] for name, count in after.items()}
    return after - before
