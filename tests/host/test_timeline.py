# SPDX-License-Identifier: GPL-2.0
"""Event logs as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake import FakeMirror, record

from dmirror import timeline
from dmirror.events import CLEAR, FAULT, FREE, MIGRATE, RELEASE, UNMAP, Event
from dmirror.memory import PAGE, Span
from dmirror.uapi import ffi

BUF = Span(0x7F0000000000, 16)
EVERYTHING = Span(0, (1 << 52) - 1)
OTHER = Span(BUF.end + 64 * PAGE, 4)


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    timeline.take()


def logged(*records: dict[str, Any], **regions: Span) -> dict[str, Any]:
    """What the log of a mirror with these records leaves behind."""
    mirror = FakeMirror()
    with mirror.events(**regions):
        mirror.log(*records)
    [left] = timeline.take()
    return json.loads(json.dumps(left))


def decoded(seq: int, span: Span) -> Event:
    return Event.decode(ffi.new("struct dmirror_event *", record(seq, UNMAP, span)), {})


def cells(log: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(event[timeline.COLUMNS.index(name)] for name in names) for event in log["events"]]


def test_an_event_is_a_list_of_numbers_and_words() -> None:
    log = logged(record(1, MIGRATE, BUF[2:4], owner=2, flags=3, pages=2), buf=BUF)
    assert log["areas"] == [["buf", BUF.addr, 16]]
    assert log["threads"] == [42]
    [event] = log["events"]
    assert dict(zip(timeline.COLUMNS, event, strict=True)) == {
        "ns": 0,
        "thread": 0,
        "type": "MIGRATE",
        "first": 2,
        "end": 4,
        "outcome": "filtered",
        "owner": "other",
        "pages": 2,
        "said": "",
        "times": 1,
    }


def test_pages_are_counted_through_all_regions_and_the_rest_is_elsewhere() -> None:
    log = logged(
        record(1, UNMAP, Span(BUF[14].addr, 100)),
        record(2, UNMAP, EVERYTHING),
        record(3, UNMAP, Span(PAGE, 1)),
        record(4, UNMAP, Span(BUF.end, 1)),
        record(5, UNMAP, OTHER[3]),
        other=OTHER,
        buf=BUF,
        part=BUF[3],
    )
    assert [name for name, _, _ in log["areas"]] == ["buf", "other"]
    assert cells(log, "first", "end") == [(14, 20), (0, 20), (19, 20)]
    assert log["elsewhere"] == 2


@pytest.mark.parametrize(
    ("records", "areas"),
    [
        ([record(1, CLEAR, OTHER), record(2, FAULT, BUF[:2]), record(3, FAULT, BUF[2:4])], [["", BUF.addr, 4]]),
        ([record(1, CLEAR, OTHER), record(2, RELEASE, EVERYTHING)], [["", OTHER.addr, 4]]),
        ([record(1, FREE, pages=1)], []),
    ],
)
def test_without_regions_the_memory_is_what_the_driver_worked_on(records, areas) -> None:
    assert logged(*records)["areas"] == areas


def test_equal_events_without_addresses_are_one() -> None:
    log = logged(
        *(record(seq, FREE, pages=1, index=seq) for seq in range(1, 6)), record(6, FREE, tid=7, pages=512), buf=BUF
    )
    assert cells(log, "thread", "pages", "times", "first") == [(0, 5, 5, -1), (1, 512, 1, -1)]


@pytest.mark.parametrize("length", [400, 401, 800, 2000, 2001, 5000])
def test_a_long_log_keeps_its_beginning_and_its_end(length: int) -> None:
    events = [decoded(seq, BUF[seq % 16]) for seq in range(length)]
    log = timeline.plain(events, {"buf": BUF}, device=0, lost=0)
    assert log["left_out"] == length - 400
    times = [ns // 1000 for (ns,) in cells(log, "ns")]
    assert log["gap"] == 100
    assert times == [*range(100), *range(length - 300, length)]
    assert len(json.dumps(log)) < 40_000


def test_the_gap_is_where_something_is_left_out() -> None:
    events = [decoded(seq, BUF if seq % 10 == 0 else OTHER) for seq in range(5000)]
    log = timeline.plain(events, {"buf": BUF}, device=0, lost=0)
    times = [ns // 1000 for (ns,) in cells(log, "ns")]
    assert times[: log["gap"]] == [*range(0, 500, 10)]
    assert times[log["gap"] :] == [*range(3500, 5000, 10)]
    assert (log["left_out"], log["elsewhere"]) == (3000, 1800)


def test_of_many_logs_the_last_few_are_left_once() -> None:
    for number in range(9):
        mirror = FakeMirror()
        with mirror.events(**{f"region{number}": BUF}):
            pass
    assert [log["areas"][0][0] for log in timeline.take()] == [f"region{number}" for number in range(3, 9)]
    assert timeline.take() == []


def test_the_log_of_a_mirror_that_was_closed_is_left_too() -> None:
    mirror = FakeMirror()
    with mirror.events(buf=BUF) as log:
        mirror.log(record(1, UNMAP, BUF))
        log.read()
        mirror.fd = -1
    assert cells(timeline.take()[0], "type") == [(UNMAP,)]


def test_who_was_held_while_the_log_was_on_is_said() -> None:
    timeline.held(0, 1, 41, "before")
    mirror = FakeMirror()
    with mirror.events(buf=BUF):
        mirror.log(record(1, UNMAP, BUF, time=1 << 62))
        timeline.held((1 << 62) - 500, (1 << 62) + 1500, 42, "migrate.begin")
    assert timeline.take()[0]["holds"] == [[-500, 1500, 42, "migrate.begin"]]
