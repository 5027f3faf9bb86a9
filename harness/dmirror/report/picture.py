# SPDX-License-Identifier: GPL-2.0
"""A picture of an event log: pages down, time across, below them the threads; made of what dmirror.timeline left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from dmirror.timeline import COLUMNS

# In units of the picture, which are pixels where it is shown at its own size.
_GUTTER = 100
_COLUMN, _PAUSE = 15.0, 5.0  # an event's share of the width, and what a pause adds to it for each power of ten
_LETTER = 5.6
_LANE = 15
_GAP = 8  # between two areas
_MOST_ROWS = 64

DEVICE, SYSTEM, MAPPED, EXCLUSIVE = "device", "system", "mapped", "exclusive"
SOME_DEVICE, SOME_SYSTEM = "some on device", "some in system"
PLACES = {
    DEVICE: "in device memory",
    SYSTEM: "in system memory",
    MAPPED: "in system memory, mapped by the device",
    EXCLUSIVE: "exclusive to the device",
    SOME_DEVICE: "some of them in device memory",
    SOME_SYSTEM: "some of them in system memory",
}
"""Where pages are, as far as the events tell."""


class Event(NamedTuple):
    """What dmirror.timeline.COLUMNS says."""

    ns: int
    thread: int
    type: str
    first: int
    end: int
    outcome: str
    owner: str
    pages: int
    said: str
    times: int

    @property
    def told(self) -> bool:
        """Whether the kernel told it, rather than the driver did it."""
        return bool(self.outcome)

    @property
    def kind(self) -> str:
        """How it is drawn."""
        if not self.told:
            return "failed" if self.said[:1] == "E" else "action"
        if self.outcome.startswith("watch"):
            return "watch"
        return "filtered" if self.outcome.startswith(("filtered", "refused")) else "told"

    @property
    def label(self) -> str:
        parts = [self.type, self.owner, "" if self.outcome == "obeyed" else self.outcome]
        return " ".join(filter(None, [*parts, f"{self.times}x" if self.times > 1 else ""]))


assert Event._fields == COLUMNS


@dataclass(frozen=True)
class Mark:
    """An event at `x`: a band from `top` to `bottom` where it has pages, and a sign in its thread's lane."""

    x: float
    top: float
    bottom: float
    lane: float
    event: Event
    title: str


@dataclass(frozen=True)
class Place:
    """Some rows, for some time in one place."""

    x: float
    y: float
    width: float
    height: float
    name: str

    @property
    def css(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def text(self) -> str:
        """Its name, where there is room for it."""
        return self.name if self.width > len(self.name) * _LETTER + 8 and self.height >= 9 else ""


@dataclass
class Picture:
    """Everything with its coordinates; `rows` are texts with the place of their line, `ticks` those of the time."""

    log: Mapping[str, Any]
    head: float = 0.0
    width: float = 0.0
    height: float = 0.0
    row_pages: int = 1
    areas: list[tuple[float, float, str]] = field(default_factory=list)
    labels: list[tuple[float, str]] = field(default_factory=list)
    threads: list[tuple[float, str]] = field(default_factory=list)
    holds: list[tuple[float, float, float, str]] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    gap: float | None = None  # where events are left out

    @property
    def caption(self) -> str:
        """What it shows, and what it does not."""
        pages = sum(pages for _, _, pages in self.log["areas"])
        parts = [f"device {self.log['device']}, {pages} pages", f"{len(self.marks)} events"]
        for name, text in (
            ("left_out", "{} left out in the middle"),
            ("elsewhere", "{} at other addresses not shown"),
            ("lost", "{} lost: the log was too short"),
        ):
            if self.log[name]:
                parts.append(text.format(self.log[name]))
        if self.row_pages > 1:
            parts.append(f"a row is {self.row_pages} pages")
        return "; ".join(parts)

    @property
    def table(self) -> str:
        """The events as text."""
        return "\n".join(mark.title for mark in self.marks)


def picture(log: Mapping[str, Any]) -> Picture:
    """Lays out one log."""
    events = [Event(*event) for event in log["events"]]
    xs = list(_across(events))
    made = Picture(log)
    made.head = max((len(event.label) for event in events), default=0) * _LETTER + 14
    made.width = (xs[-1] if xs else _GUTTER) + 2 * _COLUMN
    rows = _rows(made)
    bottom = made.areas[-1][1] if made.areas else made.head
    lanes = [bottom + _GAP + _LANE * (number + 0.5) for number in range(len(log["threads"]))]
    made.threads = [(y, f"thread {tid}") for y, tid in zip(lanes, log["threads"], strict=True)]
    made.height = bottom + _GAP + _LANE * len(lanes) + 18
    for x, event in zip(xs, events, strict=True):
        top, end = (rows[event.first][0], rows[event.end - 1][1]) if event.first >= 0 else (made.head, made.head)
        made.marks.append(Mark(x, top, end, lanes[event.thread], event, _sentence(event, log)))
    made.places = _places(events, xs, rows, made.width - _COLUMN)
    made.holds = list(_holds(log, events, xs, lanes))
    made.ticks = list(_ticks(events, xs))
    if log["left_out"] and 0 < log["gap"] < len(xs):
        made.gap = (xs[log["gap"] - 1] + xs[log["gap"]]) / 2
    return made


def _across(events: list[Event]) -> Iterator[float]:
    """Where each event stands: pauses are longer, but not by as much as they were."""
    x, before = _GUTTER + _COLUMN, 0
    for event in events:
        x += _COLUMN + _PAUSE * math.log10(max(1, (event.ns - before) / 10_000)) if event.ns else 0
        before = event.ns
        yield x


def _rows(made: Picture) -> list[tuple[float, float]]:
    """Top and bottom of every page's row; several pages share one where there are many."""
    pages = sum(pages for _, _, pages in made.log["areas"])
    made.row_pages = unit = max(1, math.ceil(pages / _MOST_ROWS))
    height = 12.0 if pages <= 24 else 7.0
    y, rows = made.head, []
    for name, start, count in made.log["areas"]:
        rows += [(y + page // unit * height, y + (page // unit + 1) * height) for page in range(count)]
        made.areas.append((y, rows[-1][1], name))
        made.labels.append((y + height / 2, name or f"{start:#x}"))
        if rows[-1][1] - y > 3 * height:
            made.labels.append((rows[-1][1] - height / 2, f"page {count - 1}"))
        y = rows[-1][1] + _GAP
    return rows


def _sentence(event: Event, log: Mapping[str, Any]) -> str:
    where = ""
    before = 0
    for name, start, pages in log["areas"]:
        first, end = max(event.first - before, 0), min(event.end - before, pages)
        if event.first >= 0 and first < end:
            where += f" {name or hex(start)}[{first}]" if end == first + 1 else f" {name or hex(start)}[{first}:{end}]"
        before += pages
    done = f" {event.pages} pages" if event.pages else ""
    said = f" {event.said}" if event.said and event.times == 1 else ""
    return f"+{event.ns / 1000:.0f} µs, thread {log['threads'][event.thread]}: {event.label}{where}{done}{said}"


def _holds(
    log: Mapping[str, Any], events: list[Event], xs: list[float], lanes: list[float]
) -> Iterator[tuple[float, float, float, str]]:
    for began, ended, tid, point in log["holds"]:
        if tid in log["threads"]:
            thread = log["threads"].index(tid)
            # It stood there from its own last event on; that somebody saw it comes later.
            own = [event.ns for event in events if event.thread == thread and event.ns <= began]
            start, end = (_at(ns, events, xs) for ns in (own[-1] if own else began, ended))
            yield start, max(end - start, 4.0), lanes[thread], f"held at {point}"


def _at(ns: int, events: list[Event], xs: list[float]) -> float:
    """Where a time stands: between the events around it; beside them if it is before or after all."""
    if ns < events[0].ns:
        return xs[0] - _COLUMN / 2
    for (x, event), (next_x, following) in pairwise(zip(xs, events, strict=True)):
        if ns < following.ns:
            return x + (ns - event.ns) / (following.ns - event.ns) * (next_x - x)
    return xs[-1] + _COLUMN / 2 * (ns > events[-1].ns)


def _ticks(events: list[Event], xs: list[float]) -> Iterator[tuple[float, str]]:
    free, before = 0.0, ""
    for x, event in zip(xs, events, strict=True):
        text = _time(event.ns)
        if x - len(text) * _LETTER / 2 >= free and text != before:
            free, before = x + len(text) * _LETTER / 2 + 12, text
            yield x, text


def _time(ns: int) -> str:
    us = ns / 1000
    return f"{us:.0f} µs" if us < 10_000 else f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def _places(events: list[Event], xs: list[float], rows: list[tuple[float, float]], end: float) -> list[Place]:
    """Follows each page through the events, and joins neighbours that were in one place for the same time."""
    where: list[tuple[str, float]] = [("", _GUTTER)] * len(rows)
    runs: dict[tuple[float, float, str], list[int]] = {}

    def change(page: int, name: str, x: float) -> None:
        before, since = where[page]
        if before == name:
            return
        if name == SYSTEM and (before, since) == ("", _GUTTER):
            before = DEVICE  # from where it comes now
        if before:
            runs.setdefault((since, x, before), []).append(page)
        where[page] = (name, x)

    back = _brought_back(events)
    for number, (event, x) in enumerate(zip(events, xs, strict=True)):
        pages = range(len(rows)) if event.type == "RELEASE_DEVICE" else range(event.first, event.end)
        for page in pages if event.first >= 0 or event.type == "RELEASE_DEVICE" else ():
            change(page, _next(event, where[page][0], back=number in back), x)
    for page in range(len(rows)):
        change(page, "", end)
    return [
        Place(start, rows[first][0], stop - start, rows[last][1] - rows[first][0], name)
        for (start, stop, name), pages in runs.items()
        for first, last in _neighbours(pages, rows)
    ]


def _neighbours(pages: list[int], rows: list[tuple[float, float]]) -> Iterator[tuple[int, int]]:
    """First and last of those that follow one another without a gap between their rows."""
    first = pages[0]
    for page, following in pairwise(pages):
        if rows[following][0] > rows[page][1]:
            yield first, page
            first = following
    yield first, pages[-1]


def _brought_back(events: list[Event]) -> set[int]:
    """The MIGRATE_PAGES whose pages came to system memory: as many device pages were freed as moved.

    The record of a migration does not say where to. Device pages that were allocated and not needed are freed, too.
    """
    found: set[int] = set()
    going: dict[int, tuple[int, int, int]] = {}  # by thread: number of its MIGRATE_PAGES, moved, freed
    for number, event in enumerate(events):
        if event.type == "MIGRATE_PAGES":
            going[event.thread] = (number, event.pages, 0)
        elif event.thread in going:
            at, moved, freed = going[event.thread]
            freed += event.pages if event.type == "FREE" else 0
            going[event.thread] = (at, moved, freed)
            if event.type == "MIGRATE_END":
                del going[event.thread]
                if freed >= moved > 0:
                    found.add(at)
    return found


def _next(event: Event, before: str, *, back: bool) -> str:
    """Where a page is after an event that is about it; empty where the events do not tell."""
    if event.told:
        return _after_notice(event, before)
    every = event.pages >= event.end - event.first
    after = before
    if event.type in ("MIGRATE_PAGES", "CPU_PAGES") and event.pages:
        if back or event.type == "CPU_PAGES":
            after = SYSTEM if every else SOME_SYSTEM
        else:
            after = DEVICE if every else SOME_DEVICE
    elif event.type == "FAULT" and every and before in ("", SYSTEM, SOME_SYSTEM):
        after = MAPPED
    elif event.type == "MADE_EXCLUSIVE":
        after = EXCLUSIVE
    elif event.type == "RELEASE_DEVICE" and before in (DEVICE, SOME_DEVICE):
        after = SYSTEM
    return after


def _after_notice(event: Event, before: str) -> str:
    if not event.outcome.startswith("obeyed"):
        return before
    if event.type in ("UNMAP", "CLEAR", "RELEASE"):
        return ""
    if event.type == "EXCLUSIVE" or event.type.startswith("PROTECTION"):
        return SYSTEM if before in (MAPPED, EXCLUSIVE) else before
    return "" if event.type == "MIGRATE" and before in (MAPPED, SYSTEM) else before
