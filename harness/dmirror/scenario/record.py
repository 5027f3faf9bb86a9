# SPDX-License-Identifier: GPL-2.0
"""What came of a scenario that was played, item by item as they stand in its tree, for whoever judges it.

Named tuples where there are many: to make a frozen dataclass costs several times as much, and a guest is emulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dmirror.scenario.seen import Raw

BASE, SLOT = 0x100000000000, 1 << 30
"""Where the first region begins, far from what the kernel chooses, and from one to the next: bytes, so that each is in
a page table of its own."""

Event = tuple[str, str, str, int, int, int]
"""type, owner ("own", "other", "none", ""), outcome ("obeyed", "filtered"), start, end in bytes, device entries."""


def address(number: int) -> int:
    """Where the region of this number begins."""
    return BASE + number * SLOT


class Outcome(NamedTuple):
    """How a step ended: `failed` is the name of an errno or a signal, "" for none.

    `values` are those that were read, `pages` how many were done, `fault` the address at which a signal was raised;
    `slept`: in a block, it slept until the hold was over.
    """

    failed: str = ""
    values: tuple[int, ...] = ()
    pages: int = 0
    fault: int = 0
    slept: bool = False


class Done(NamedTuple):
    """A step: how it ended and what was to be seen then; while it was held, what was seen, and the block."""

    outcome: Outcome
    seen: Raw | None = None
    held: Raw | None = None
    block: tuple[Entry, ...] = ()


class Rounds(NamedTuple):
    """A `par`: for each time the outcomes of each column, and what was to be seen after all of them."""

    columns: tuple[tuple[tuple[Done, ...], ...], ...]
    seen: tuple[Raw, ...]


class Looked(NamedTuple):
    """An expectation that asks for more than memory: events of the mirror so far, or a number, exact up to `slack`."""

    events: tuple[Event, ...] = ()
    number: int = 0
    slack: int = 0


Entry = Done | Rounds | Looked | None


@dataclass(frozen=True)
class Record:
    """`start`: what was to be seen before the first step. `addresses` of regions; `release` of the kernel.

    `entries` may end early: `broken` then says why (a hang, an agent that died).
    """

    release: str
    addresses: dict[str, int]
    start: Raw
    entries: tuple[Entry, ...]
    broken: str = ""
    log: str = ""
