# SPDX-License-Identifier: GPL-2.0
"""What random scenarios are made of, and how often each occurs."""

from __future__ import annotations

from dmirror.scenario import tree

STEPS = {
    # Simple ones first: a scenario that fails shrinks towards them.
    "nothing": 4,
    "load": 16,
    "store": 20,
    "device read": 24,
    "device write": 20,
    "to device": 28,
    "to system": 12,
    "peek": 6,
    "snapshot": 4,
    "add": 8,
    "fork": 10,
    "exit": 4,
    "protect": 12,
    "advise": 16,
    "unmap": 6,
    "map": 6,
    "move": 8,
    "exclusive": 14,
    "lock": 4,
    "unlock": 4,
    "pin": 6,
    "unpin": 6,
    "close": 2,
    "open": 6,
    "held": 10,
    "par": 2,
    # It takes the device's memory away, and the next migration makes it anew: together as long as twenty others.
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

# The processes and mirrors of a scenario take as long as a dozen of its steps.
LEAST_STEPS, MOST_STEPS = 40, 80

MOST_PAGES, MOST_CHILDREN, MOST_PINS = 8, 2, 3
