# SPDX-License-Identifier: GPL-2.0
"""What came of a scenario that was played, item by item as they stand in its tree, for whoever judges it.

Named tuples where there are many: to make a frozen dataclass costs several times as much, and a guest is emulated. So
what is played in one call stays bytes there.
"""

from __future__ import annotations

import errno
import functools
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dmirror.scenario import words
from dmirror.scenario.seen import Mirrored, Raw

ENDED = struct.Struct("=qQIIIIII")
"""struct dm_ended of uapi/play.h."""

CALL = 2
"""STEP_CALL there: who judges has no use for the extension."""

_PART = struct.Struct("=II")

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


def answered(result: int, fault: int, number: int, values: tuple[int, ...], *, call: bool) -> Outcome:
    """What an agent said of an order (struct dm_agent_reply of uapi/agent.h): of a system call, or of accesses."""
    if number:
        return Outcome(signal.Signals(number).name, values, result, fault)
    if call:
        return Outcome(errno_name(-result) if result < 0 else "")
    return Outcome("", values, result)


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """One step that was several orders: as the first that failed."""
    if len(outcomes) == 1:
        return outcomes[0]
    first = next((outcome for outcome in outcomes if outcome.failed), outcomes[0])
    return first._replace(pages=sum(outcome.pages for outcome in outcomes))


@functools.cache
def errno_name(number: int) -> str:
    """EFAULT for 14."""
    return words.canonical(errno.errorcode.get(number, str(number)))


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


class Stretch(NamedTuple):
    """Steps that were played in one call.

    `before`: what was to be seen before the first one: what all in `who` have of all `regions`; `ended`: for each of
    them struct dm_ended of uapi/play.h and what follows it.
    """

    before: Raw
    who: tuple[Mirrored | str, ...]
    regions: tuple[str, ...]
    ended: bytes

    def steps(self) -> Iterator[Done]:
        """Each, as if it had been played by itself."""
        raw, at = self.before, 0
        outcomes: list[Outcome] = []
        while at < len(self.ended):
            result, fault, number, count, what, error, more, changed = ENDED.unpack_from(self.ended, at)
            at += ENDED.size
            values = struct.unpack_from(f"={count}Q", self.ended, at)
            at += 8 * count
            if error:
                outcomes.append(Outcome(errno_name(error), pages=result))
            else:
                outcomes.append(answered(result, fault, number, values, call=what == CALL))
            if more:
                continue
            found = []
            for _ in range(changed):
                part, size = _PART.unpack_from(self.ended, at)
                at += _PART.size
                who, region = divmod(part, len(self.regions))
                found.append((self.who[who], self.regions[region], self.ended[at : at + size]))
                at += size
            raw = raw.after(found)
            yield Done(together(outcomes), raw)
            outcomes = []


@dataclass(frozen=True)
class Record:
    """`start`: what was to be seen before the first step. `addresses` of regions; `features` of the kernel, as
    model.rules has them.

    `entries` may end early: `broken` then says why (a hang, an agent that died).
    """

    features: frozenset[str]
    addresses: dict[str, int]
    start: Raw
    taken: tuple[Entry | Stretch, ...]
    broken: str = ""
    log: str = ""

    @functools.cached_property
    def entries(self) -> tuple[Entry, ...]:
        """What was taken, step by step."""
        entries: list[Entry] = []
        for one in self.taken:
            entries.extend(one.steps() if isinstance(one, Stretch) else [one])
        return tuple(entries)
