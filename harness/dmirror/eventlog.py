# SPDX-License-Identifier: GPL-2.0
"""The event log of a mirror, and matchers for tests whose failure shows it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dmirror import timeline
from dmirror.calls import named
from dmirror.events import OVERRUN, OWNERS, TYPES, Event
from dmirror.memory import Span
from dmirror.process import PATIENCE
from dmirror.uapi import ffi, lib

if TYPE_CHECKING:
    from dmirror.steering import Steering

Types = str | Sequence[str] | None

_SIZE = ffi.sizeof("struct dmirror_event")
_AT_ONCE = 1024  # records a read(2) asks for
_FIELDS = tuple(one.name for one in fields(Event) if one.name not in ("type", "regions"))
_HEAD = ("seq", "µs", "thread", "event", "range", "owner", "outcome", "pages", "result")
_NUMBERS = ("seq", "µs", "thread", "pages")


class _Wanted(NamedTuple):
    """What a test looks for: types, the exact range, a range to overlap, values of fields."""

    types: tuple[str, ...]
    span: Span | None
    over: Span | None
    values: Mapping[str, Any]

    @classmethod
    def of(cls, types: Types, span: Span | None, over: Span | None, values: Mapping[str, Any]) -> _Wanted:
        every = (types,) if isinstance(types, str) else tuple(types or ())
        for name in every:
            named("event", TYPES, name)
        unknown = [name for name in values if name not in _FIELDS]
        if unknown:
            raise TypeError(f"an event has no {', '.join(unknown)}; it has {', '.join(_FIELDS)}")
        if values.get("owner") not in OWNERS.values():
            raise ValueError(f"the owner of an event is own, other, none or None, not {values['owner']!r}")
        return cls(every, span, over, values)

    def kind(self, event: Event) -> bool:
        return not self.types or event.type in self.types

    def differs(self, event: Event) -> list[str]:
        """In what an event of the type is not the one that is wanted."""
        what = []
        if self.span is not None and (event.start, event.end) != (self.span.addr, self.span.end):
            what.append("range")
        if self.over is not None and not event.over(self.over):
            what.append("range")
        what.extend(
            f"{name}={getattr(event, name)}" for name, value in self.values.items() if getattr(event, name) != value
        )
        return what

    def matches(self, event: Event) -> bool:
        return self.kind(event) and not self.differs(event)

    def describe(self, regions: Mapping[str, Span]) -> str:
        parts = [" or ".join(self.types) or "any event"]
        for word, span in (("at", self.span), ("over", self.over)):
            if span is not None:
                # An event that lies there says it in the words of the log.
                like = Event(0, 0, span.addr, span.end, 0, 0, 0, 0, 0, "", False, False, False, None, 0, regions)
                parts.append(f"{word} {like.place}")
        parts.extend(f"{name}={value}" for name, value in self.values.items())
        return " ".join(parts)


class EventLog:
    """The log of a mirror, on from the beginning of the `with` block to its end: see `Steering.events`.

    `seen` are the records read so far, in order. The interpreter makes events of its own elsewhere in the address
    space, so a test asks for a range: `span` for exactly this one, `over` for any that touches it.
    """

    def __init__(self, mirror: Steering, records: int, regions: Mapping[str, Span]) -> None:
        self.seen: list[Event] = []
        self._mirror = mirror
        self._records = records
        self._regions = dict(regions)
        self._running = False
        self._lost = 0
        self._began = 0

    def __enter__(self) -> Self:
        self._mirror.own("LOG", flags=lib.DMIRROR_LOG_START, records=self._records)
        self._running = True
        self._began = time.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        # A mirror that was closed took what was left along.
        if self._mirror.fd >= 0:
            self._lost = self._mirror.own("LOG").lost
            while self._take():
                pass
        timeline.keep(
            timeline.plain(self.seen, self._regions, device=self._mirror.device, lost=self.lost, began=self._began)
        )

    def _take(self) -> list[Event]:
        data = os.read(self._mirror.fd, _AT_ONCE * _SIZE)
        records = ffi.from_buffer("struct dmirror_event[]", data)
        new = [Event.decode(record, self._regions) for record in records]
        self.seen.extend(new)
        return new

    def _ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._mirror.fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read(self) -> list[Event]:
        """What was logged up to now and not read yet; does not block."""
        now = time.monotonic_ns()
        new: list[Event] = []
        while self._running and self._ready(0):
            part = self._take()
            new.extend(part)
            if not part or part[-1].time > now:
                break
        return new

    @property
    def lost(self) -> int:
        """Records lost for want of room, as far as read; when the log is stopped, all of them."""
        return max(self._lost, sum(event.pages for event in self.seen if event.type == OVERRUN))

    def wait_for(self, type: Types, span: Span | None = None, *, over: Span | None = None, **values: Any) -> Event:
        """The first record of that kind, waiting until there is one. TimeoutError with the log after PATIENCE."""
        wanted = _Wanted.of(type, span, over, values)
        until = time.monotonic() + PATIENCE
        looked = 0
        while True:
            self.read()
            for event in self.seen[looked:]:
                if wanted.matches(event):
                    return event
            looked = len(self.seen)
            left = until - time.monotonic()
            if not self._running or left <= 0:
                why = f"within {PATIENCE:.0f} s" if self._running else "before the log was stopped"
                raise TimeoutError(f"no {wanted.describe(self._regions)} {why}\n{self._table(wanted)}")
            self._ready(left)

    def select(
        self, type: Types = None, span: Span | None = None, *, over: Span | None = None, **values: Any
    ) -> list[Event]:
        """The records read so far of a type (several in a tuple, None: any), at exactly `span`, over any of `over`.

        `values` are fields of Event and what they equal: `filtered=True, owner="own"`.
        """
        wanted = _Wanted.of(type, span, over, values)
        return [event for event in self.seen if wanted.matches(event)]

    def expect(
        self, type: Types, span: Span | None = None, *, over: Span | None = None, times: int = 1, **values: Any
    ) -> list[Event]:
        """Read what there is and assert that exactly `times` records are as `select` takes them; returns them.

        The AssertionError shows the log: `*` before what matched, `~` before others of the type, with what differs.
        It is one, too, when records were lost, unless OVERRUN is what is looked for.
        """
        self.read()
        wanted = _Wanted.of(type, span, over, values)
        found = [event for event in self.seen if wanted.matches(event)]
        if self.lost and OVERRUN not in wanted.types:
            raise AssertionError(
                f"{self.lost} records were lost, {wanted.describe(self._regions)} perhaps among them: "
                f"give the log more than {self._records} records, or read it more often\n{self._table(wanted)}"
            )
        if len(found) != times:
            raise AssertionError(
                f"wanted {times} of {wanted.describe(self._regions)}; found {len(found)}\n{self._table(wanted)}"
            )
        return found

    def table(self) -> str:
        """The records read so far, one a line; times in µs since the first."""
        return self._table(None)

    def _table(self, wanted: _Wanted | None) -> str:
        if not self.seen:
            return "(the log is empty)"
        rows = [[" ", *_HEAD]]
        for event in self.seen:
            mark, note = " ", ""
            if wanted is not None and wanted.kind(event):
                note = ", ".join(wanted.differs(event))
                mark = "~" if note else "*"
            rows.append([mark, *_cells(event, self.seen[0].time), *([f"<- {note}"] if note else [])])
        return "\n".join(_aligned(rows))


def _cells(event: Event, since: int) -> Iterable[str]:
    yield str(event.seq)
    yield f"{(event.time - since) / 1000:.0f}"
    yield str(event.tid)
    yield event.type
    yield event.place
    yield event.owner or ""
    yield event.outcome
    yield str(event.pages)
    yield event.said


def _aligned(rows: list[list[str]]) -> Iterable[str]:
    right = [False, *(name in _NUMBERS for name in _HEAD)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(right))]
    for row in rows:
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=False)
        ]
        yield "  ".join([*cells, *row[len(widths) :]]).rstrip()
