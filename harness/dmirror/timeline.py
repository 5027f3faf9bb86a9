# SPDX-License-Identifier: GPL-2.0
"""Event logs as plain data, left behind for a report that draws them: see dmirror.report.picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmirror.events import Event
    from dmirror.memory import Span

PROPERTY = "dmirror-log"
"""The property of a pytest report that has one log of the test."""

COLUMNS = ("ns", "thread", "type", "first", "end", "outcome", "owner", "pages", "said", "times")
"""What the list that stands for an event has.

`ns` since `since`; `thread` is an index of `threads`; [`first`, `end`) are pages, counted through all `areas`, both -1
for an event without addresses; `outcome`, `owner` and `said` are those of Event, empty for none; `times` counts equal
events without addresses in a row, of which `pages` is the sum.
"""

_MOST_EVENTS = 400
_FROM_THE_START = 100  # of them, where there are more: a failure is near the end
# A log of 65536 takes a guest without an accelerator seconds to go through.
_MOST_LOOKED_AT = 2000
_FIRST_LOOKED_AT = 500
_MOST_AREAS = 8
_MOST_LOGS = 6

_logs: deque[dict[str, Any]] = deque(maxlen=_MOST_LOGS)
_holds: deque[tuple[int, int, int, str]] = deque(maxlen=32)


def plain(
    events: Sequence[Event], regions: Mapping[str, Span], *, device: int, lost: int, began: int = 0
) -> dict[str, Any]:
    """A finished log as a dict that JSON can hold, of at most some ten thousand bytes.

    `areas` are [name, address, pages] of the memory under test: the named regions, else what the driver worked on, else
    what the kernel told of. Events at other addresses are only counted (`elsewhere`), as are those of a long log's
    middle (`left_out`, which come before the event number `gap`). `holds` are [ns, ns, tid, point], from when somebody
    was seen to be held to when he was let go, if that was after the log had `began` (CLOCK_MONOTONIC, ns).
    """
    since = events[0].time if events else 0
    skipped = max(0, len(events) - _MOST_LOOKED_AT)
    if skipped:
        events = [*events[:_FIRST_LOOKED_AT], *events[_FIRST_LOOKED_AT + skipped :]]
    areas = _areas(events, regions)
    threads: dict[int, int] = {}
    rows: list[list[Any]] = []
    elsewhere = 0
    gap = _FROM_THE_START
    for number, event in enumerate(events):
        if skipped and number == _FIRST_LOOKED_AT:
            gap = min(gap, len(rows))
        pages = _pages(event, areas)
        if pages is None:
            elsewhere += 1
            continue
        row = [
            event.time - since,
            threads.setdefault(event.tid, len(threads)),
            event.type,
            *pages,
            event.outcome,
            event.owner or "",
            event.pages,
            event.said,
            1,
        ]
        if pages[0] < 0 and rows and rows[-1][1:7] == row[1:7]:
            rows[-1][7] += event.pages
            rows[-1][9] += 1
        else:
            rows.append(row)
    left_out = max(0, len(rows) - _MOST_EVENTS)
    del rows[gap : gap + left_out]
    return {
        "device": device,
        "areas": [[name, start, (end - start) // PAGESIZE] for start, end, name in areas],
        "since": since,
        "threads": list(threads),
        "events": rows,
        "holds": [[start - since, end - since, tid, point] for start, end, tid, point in _holds if end >= began],
        "elsewhere": elsewhere,
        "left_out": left_out + skipped,
        "gap": gap,
        "lost": lost,
    }


def keep(log: dict[str, Any]) -> None:
    """Leave a log to who takes it; of many, the last few."""
    _logs.append(log)


def held(began: int, ended: int, tid: int, point: str) -> None:
    """Somebody was held, from and to CLOCK_MONOTONIC in ns."""
    _holds.append((began, ended, tid, point))


def take() -> list[dict[str, Any]]:
    """What was kept since the last call."""
    taken = list(_logs)
    _logs.clear()
    _holds.clear()
    return taken


def _areas(events: Iterable[Event], regions: Mapping[str, Span]) -> list[tuple[int, int, str]]:
    if regions:
        return _merged([(span.addr, span.end, name) for name, span in regions.items()])
    for told in (False, True):
        ranges = [
            (event.start, event.end, "")
            for event in events
            if event.told is told and event.start < event.end < 1 << 63  # not the end of an address space
        ]
        if ranges:
            return _merged(ranges)[:_MOST_AREAS]
    return []


def _merged(ranges: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """By address, overlapping ones as one; named ones that only touch stay two."""
    found: list[tuple[int, int, str]] = []
    for start, end, name in sorted(ranges, key=lambda one: (one[0], -one[1])):
        if found and (start < found[-1][1] or (start == found[-1][1] and not name)):
            found[-1] = (found[-1][0], max(end, found[-1][1]), found[-1][2])
        else:
            found.append((start, end, name))
    return found


def _pages(event: Event, areas: Iterable[tuple[int, int, str]]) -> tuple[int, int] | None:
    """The pages that it is about, counted through all areas; None where it is about others."""
    if event.start == event.end == 0:
        return -1, -1
    before, first, last = 0, None, 0
    for start, end, _ in areas:
        if event.start < end and event.end > start:
            first = before + (max(event.start, start) - start) // PAGESIZE if first is None else first
            last = before + (min(event.end, end) - start + PAGESIZE - 1) // PAGESIZE
        before += (end - start) // PAGESIZE
    return None if first is None else (first, last)
