# SPDX-License-Identifier: GPL-2.0
"""What random scenarios are made of, and how often each occurs."""

from __future__ import annotations

from dmirror.scenario import tree

STEPS = {
    # Simple ones first: a scenario that fails shrinks towards them.
    "nothing": 2,
    "load": 8,
    "store": 10,
    "device read": 12,
    "device write": 10,
    "to device": 14,
    "to system": 6,
    "peek": 3,
    "snapshot": 2,
    "add": 4,
    "fork": 5,
    "exit": 2,
    "protect": 6,
    "advise": 8,
    "unmap": 3,
    "map": 3,
    "move": 4,
    "exclusive": 7,
    "lock": 2,
    "unlock": 2,
    "pin": 3,
    "unpin": 3,
    "close": 1,
    "open": 3,
    "held": 5,
    "par": 1,
    # It looks at every page of the device: as long as twenty others.
    "evict": 1,
}
"""Steps, in shares of all."""

HELD = {"load": 3, "store": 3, "advise": 3, "device read": 6, "peek": 1, "add": 1}
"""Steps while another one is held."""

RACING = {"load": 2, "store": 4, "add": 4, "device read": 4, "device write": 4, "to device": 4, "to system": 2}
"""Steps in a column."""

REGIONS: dict[tree.RegionKind, int] = {"anonymous": 16, "shared": 1, "memfd": 1, "private file": 2}

BEGINNINGS = {"untouched": 3, "written": 3, "read": 2}
"""How a region is populated."""

ADVICES = {"dontneed": 6, "populate_read": 2, "populate_write": 3, "free": 1}

RIGHTS: dict[tree.Rights, int] = {"read-write": 3, "read-only": 3, "none": 1}

DEVICES = {"A": 3, "B": 2}

POINTS: dict[tree.Point, int] = {
    "after setup": 3,
    "after copy": 2,
    "after pages": 2,
    "before finalize": 2,
    "at begin": 1,
}
"""Where a migration is held."""

LEAST_STEPS, MOST_STEPS, MOST_PAGES, MOST_CHILDREN, MOST_PINS = 16, 32, 8, 2, 3
