# SPDX-License-Identifier: GPL-2.0
"""The event log on the client's side: decoding, reading, matchers and what their failures show."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest
from fake import FakeMirror, record

from dmirror import eventlog
from dmirror.events import CLEAR, FREE, KERNEL_EVENTS, MIGRATE, MIGRATE_SETUP, OVERRUN, TYPES, UNMAP, Event
from dmirror.memory import PAGE, Span
from dmirror.uapi import ffi, lib

BUF = Span(0x7F0000000000, 16)
FILTERED = lib.DMIRROR_EVENT_BLOCKABLE | lib.DMIRROR_EVENT_FILTERED
OWN, OTHER = lib.DMIRROR_EVENT_OWNER_OWN, lib.DMIRROR_EVENT_OWNER_OTHER


def decode(**fields: Any) -> Event:
    return Event.decode(ffi.new("struct dmirror_event *", fields), {"buf": BUF})


def test_every_type_of_the_header_has_a_name() -> None:
    numbers = {
        name.removeprefix("DMIRROR_EVENT_"): getattr(lib, name)
        for name in dir(lib)
        if name.startswith("DMIRROR_EVENT_") and not name.startswith("DMIRROR_EVENT_OWNER")
    }
    for flag in ("BLOCKABLE", "FILTERED", "REFUSED"):
        del numbers[flag]
    assert numbers | {"unknown": 0} == TYPES
    assert [TYPES[name] for name in KERNEL_EVENTS] == list(range(9))


def test_every_field_is_decoded() -> None:
    numbers = {"seq": 1, "time": 2, "start": 3, "end": 4, "interval_seq": 5, "pages": 6, "index": 7, "result": -8}
    event = decode(**numbers, tid=9, type=7, flags=lib.DMIRROR_EVENT_REFUSED, owner=3, watch=10)
    assert {name: getattr(event, name) for name in numbers} == numbers
    assert (event.tid, event.type, event.owner, event.watch) == (9, MIGRATE, "none", 10)
    assert (event.blockable, event.filtered, event.refused) == (False, False, True)
    assert decode(type=1).owner is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (record(17, MIGRATE, BUF[2:4], owner=1, flags=3), "#17 MIGRATE [buf+0x2000, buf+0x4000) owner=own filtered"),
        (record(18, MIGRATE_SETUP, BUF[:4], pages=4), "#18 MIGRATE_SETUP [buf, buf+0x4000) pages=4"),
        (record(1, CLEAR, BUF, pages=3), "#1 CLEAR [buf, buf+0x10000) dropped=3"),
        (record(1, UNMAP, Span(PAGE, 1)), "#1 UNMAP [0x1000, 0x2000)"),
        (record(1, UNMAP, Span(BUF.end, 1)), "#1 UNMAP [0x7f0000010000, 0x7f0000011000)"),
        (record(1, UNMAP, BUF, flags=lib.DMIRROR_EVENT_REFUSED), "#1 UNMAP [buf, buf+0x10000) refused atomic"),
        (record(1, UNMAP, BUF, watch=2), "#1 UNMAP [buf, buf+0x10000) watch 2"),
        (record(1, "FAULT", BUF[0], pages=1, index=2), "#1 FAULT [buf, buf+0x1000) pages=1 retries=2"),
        (record(1, "FAULT", BUF[0], result=-errno.ENOMEM), "#1 FAULT [buf, buf+0x1000) pages=0 ENOMEM"),
        (record(1, FREE, pages=1, index=12), "#1 FREE pages=1 index=12"),
        (record(9, OVERRUN, pages=5), "#9 OVERRUN lost=5"),
        (record(1, "unheard of", BUF), "#1 unknown [buf, buf+0x10000)"),
    ],
)  # fmt: skip
def test_an_event_prints_as_a_sentence(fields: dict[str, Any], text: str) -> None:
    assert repr(decode(**fields)) == text


def test_a_range_is_relative_to_the_region_that_it_is_in() -> None:
    behind = Span(BUF.end, 1)
    both = {"buf": BUF, "behind": behind}
    across = Span(BUF[15].addr, 2)
    events = (
        Event.decode(ffi.new("struct dmirror_event *", record(1, UNMAP, span)), both) for span in (behind, across)
    )
    assert [event.place for event in events] == ["[behind, behind+0x1000)", "[buf+0xf000, behind+0x1000)"]


def test_reading_gives_what_is_new_and_the_end_of_the_block_the_rest() -> None:
    mirror = FakeMirror()
    with mirror.events(buf=BUF, records=64) as log:
        assert log.read() == []
        mirror.log(record(1, MIGRATE, BUF), record(2, UNMAP, BUF))
        assert [event.seq for event in log.read()] == [1, 2]
        assert log.read() == []
        mirror.log(record(3, CLEAR, BUF))
    assert [event.seq for event in log.seen] == [1, 2, 3]
    assert mirror.calls == [("LOG", {"flags": lib.DMIRROR_LOG_START, "records": 64}), ("LOG", {})]
    assert log.read() == []


def test_reading_ends_with_what_was_logged_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that come as fast as they are read keep nobody there."""
    monkeypatch.setattr(eventlog, "_AT_ONCE", 2)
    mirror = FakeMirror()
    with mirror.events() as log:
        mirror.log(*(record(seq, UNMAP, BUF) for seq in range(1, 4)))
        mirror.log(*(record(seq, UNMAP, BUF, time=1 << 62) for seq in range(4, 8)))
        assert [event.seq for event in log.read()] == [1, 2, 3, 4]
    assert len(log.seen) == 7


def test_waiting_ends_with_the_record() -> None:
    mirror = FakeMirror()
    with mirror.events(buf=BUF) as log:
        mirror.log(record(1, UNMAP, BUF))
        later = threading.Timer(0.05, lambda: mirror.log(record(2, MIGRATE, BUF[:2]), record(3, MIGRATE, BUF[:4])))
        later.start()
        assert log.wait_for(MIGRATE, BUF[:4]).seq == 3
        later.join()
        assert log.wait_for(UNMAP).seq == 1


def test_waiting_in_vain_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "PATIENCE", 0.05)
    mirror = FakeMirror()
    with mirror.events(buf=BUF) as log:
        mirror.log(record(1, UNMAP, BUF))
        with pytest.raises(TimeoutError, match=r"no MIGRATE at \[buf, buf\+0x1000\)(.|\n)*UNMAP"):
            log.wait_for(MIGRATE, BUF[0])
    with pytest.raises(TimeoutError, match="before the log was stopped"):
        log.wait_for(MIGRATE)


@pytest.fixture
def log():
    """Three migrations and what is around them."""
    mirror = FakeMirror()
    with mirror.events(buf=BUF) as opened:
        mirror.log(
            record(1, MIGRATE, BUF[:4], owner=OWN, flags=FILTERED, pages=2),
            record(2, MIGRATE_SETUP, BUF[:4], pages=4),
            record(3, MIGRATE, BUF[2:4], owner=OWN, flags=FILTERED),
            record(4, MIGRATE, BUF[8:], owner=OTHER, pages=8),
            record(5, UNMAP, Span(PAGE, 1)),
        )
        yield opened


@pytest.mark.parametrize(
    ("criteria", "found"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"type": MIGRATE}, [1, 3, 4]),
        ({"type": (MIGRATE, UNMAP)}, [1, 3, 4, 5]),
        ({"type": MIGRATE, "span": BUF[:4]}, [1]),
        ({"type": MIGRATE, "span": BUF[:3]}, []),
        ({"over": BUF[3]}, [1, 2, 3]),
        ({"over": BUF[4:8]}, []),
        ({"over": BUF}, [1, 2, 3, 4]),
        ({"type": MIGRATE, "over": BUF, "owner": "own"}, [1, 3]),
        ({"filtered": False, "pages": 8}, [4]),
        ({"owner": None}, [2, 5]),
    ],
)
def test_records_are_selected_by_type_range_and_fields(log, criteria: dict[str, Any], found: list[int]) -> None:
    log.read()
    assert [event.seq for event in log.select(**criteria)] == found


def test_expecting_reads_and_counts(log) -> None:
    assert [event.seq for event in log.expect(MIGRATE, over=BUF, owner="own", times=2)] == [1, 3]
    assert log.expect(UNMAP, over=BUF, times=0) == []
    for times in (0, 2):
        with pytest.raises(AssertionError, match=f"wanted {times} of UNMAP; found 1"):
            log.expect(UNMAP, times=times)


def test_a_failed_expectation_shows_the_log_and_what_nearly_matched(log) -> None:
    with pytest.raises(AssertionError) as caught:
        log.expect(MIGRATE, BUF[:4], owner="own", filtered=True, times=2)
    assert str(caught.value).splitlines() == [
        "wanted 2 of MIGRATE at [buf, buf+0x4000) owner=own filtered=True; found 1",
        "   seq  µs  thread  event          range                      owner  outcome   pages  result",
        "*    1   0      42  MIGRATE        [buf, buf+0x4000)          own    filtered      2",
        "     2   1      42  MIGRATE_SETUP  [buf, buf+0x4000)                               4",
        "~    3   2      42  MIGRATE        [buf+0x2000, buf+0x4000)   own    filtered      0          <- range",
        "~    4   3      42  MIGRATE        [buf+0x8000, buf+0x10000)  other  obeyed        8          "
        "<- range, owner=other, filtered=False",
        "     5   4      42  UNMAP          [0x1000, 0x2000)                  obeyed        0",
    ]


def test_an_empty_log_says_so() -> None:
    with FakeMirror().events() as log, pytest.raises(AssertionError, match="found 0\n\\(the log is empty\\)"):
        log.expect(MIGRATE)


@pytest.mark.parametrize(
    ("criteria", "error", "text"),
    [
        ({"type": "MIGRAT"}, ValueError, "did you mean 'MIGRATE'"),
        ({"type": MIGRATE, "filterd": True}, TypeError, "no filterd; it has seq, "),
        ({"type": MIGRATE, "owner": "mine"}, ValueError, "own, other, none or None, not 'mine'"),
    ],
)
def test_a_misspelt_criterion_is_no_match_but_an_error(log, criteria, error, text: str) -> None:
    for look in (log.select, log.wait_for, lambda **rest: log.expect(times=0, **rest)):
        with pytest.raises(error, match=text):
            look(**criteria)


def test_nothing_can_be_expected_of_a_log_with_losses() -> None:
    mirror = FakeMirror()
    with mirror.events(buf=BUF) as log:
        mirror.log(record(1, MIGRATE, BUF), record(7, OVERRUN, pages=5))
        with pytest.raises(AssertionError, match="5 records were lost, MIGRATE perhaps among them"):
            log.expect(MIGRATE)
        assert log.expect(OVERRUN)[0].pages == log.lost == 5
