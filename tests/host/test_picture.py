# SPDX-License-Identifier: GPL-2.0
"""The picture of an event log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmirror.report.picture import picture


def log_of(*events: list[Any], name: str = "buf", **fields: Any) -> dict[str, Any]:
    """As dmirror.timeline leaves it, of 16 pages: of each event its type, first, end, outcome, pages and thread."""
    rows = [
        [number * 1000, *(event[5:] or [0]), event[0], event[1], event[2], event[3], "", event[4], "", 1]
        for number, event in enumerate(events)
    ]
    log = {"device": 0, "areas": [[name, 1 << 40, 16]], "since": 0, "threads": [41, 42], "events": rows, "holds": []}
    return json.loads(json.dumps(log | {"elsewhere": 0, "left_out": 0, "gap": 100, "lost": 0} | fields))


@pytest.mark.parametrize(
    ("events", "places"),
    [
        ([["FAULT", 0, 4, "", 4]], ["mapped 0-4"]),
        ([["FAULT", 0, 4, "", 3]], []),
        ([["MIGRATE_PAGES", 0, 4, "", 4], ["MIGRATE_END", 0, 4, "", 4]], ["device 0-4"]),
        ([["MIGRATE_PAGES", 0, 4, "", 3], ["MIGRATE_END", 0, 4, "", 3]], ["some on device 0-4"]),
        (
            [["MIGRATE_PAGES", 0, 4, "", 4], ["FREE", -1, -1, "", 4], ["MIGRATE_END", 0, 4, "", 4]],
            ["device 0-4 ended 0", "system 0-4"],
        ),
        (
            [["MIGRATE_PAGES", 0, 4, "", 4], ["FREE", -1, -1, "", 4, 1], ["MIGRATE_END", 0, 4, "", 4]],
            ["device 0-4"],
        ),
        (
            [["MIGRATE_PAGES", 0, 4, "", 4], ["CPU_PAGES", 1, 2, "", 1]],
            ["device 1-2 ended 1", "device 0-1", "device 2-4", "system 1-2"],
        ),
        (
            [["MADE_EXCLUSIVE", 3, 4, "", 1], ["EXCLUSIVE", 3, 4, "obeyed", 1]],
            ["exclusive 3-4 ended 1", "system 3-4"],
        ),
        ([["FAULT", 0, 4, "", 4], ["UNMAP", 0, 4, "filtered", 4]], ["mapped 0-4"]),
        ([["FAULT", 0, 4, "", 4], ["UNMAP", 0, 4, "watch 1", 4]], ["mapped 0-4"]),
        ([["FAULT", 0, 4, "", 4], ["UNMAP", 0, 4, "obeyed", 4]], ["mapped 0-4 ended 1"]),
        ([["MIGRATE_PAGES", 0, 4, "", 4], ["RELEASE_DEVICE", -1, -1, "", 0]], ["device 0-4 ended 1", "system 0-4"]),
    ],
)
def test_it_follows_where_pages_are(events, places):
    drawn = picture(log_of(*events))
    end = drawn.width - 15
    found = []
    for place in drawn.places:
        rows = [(y - drawn.head) / 12 for y in (place.y, place.y + place.height)]
        ended = [number for number, mark in enumerate(drawn.marks) if mark.x == place.x + place.width]
        what = f"{place.name} {rows[0]:.0f}-{rows[1]:.0f}"
        found.append(what if place.x + place.width == end else f"{what} ended {ended[0]}")
    assert sorted(found) == sorted(places)


def test_events_stand_in_order_and_threads_in_lanes():
    drawn = picture(log_of(["FAULT", 0, 4, "", 4], ["CLEAR", 2, 3, "obeyed", 1, 1], ["FREE", -1, -1, "", 1]))
    xs = [mark.x for mark in drawn.marks]
    assert xs == sorted(set(xs)) and xs[-1] < drawn.width
    assert [mark.lane for mark in drawn.marks] == [drawn.threads[0][0], drawn.threads[1][0], drawn.threads[0][0]]
    assert [text for _, text in drawn.threads] == ["thread 41", "thread 42"]
    assert drawn.marks[1].bottom - drawn.marks[1].top == 12
    assert drawn.marks[2].bottom == drawn.marks[2].top
    assert [mark.event.kind for mark in drawn.marks] == ["action", "told", "action"]
    assert drawn.marks[1].title == "+1 µs, thread 42: CLEAR buf[2] 1 pages"


def test_what_is_not_shown_is_said():
    events = [["FAULT", 0, 4, "", 4]] * 3
    drawn = picture(log_of(*events, left_out=7, gap=2, elsewhere=5, lost=9))
    assert drawn.marks[1].x < drawn.gap < drawn.marks[2].x
    assert all(words in drawn.caption for words in ("7 left out", "5 at other addresses", "9 lost"))


def test_many_pages_share_rows():
    drawn = picture(log_of(["FAULT", 0, 512, "", 512], ["CLEAR", 511, 512, "obeyed", 1], areas=[["huge", 0, 512]]))
    assert drawn.row_pages == 8
    assert drawn.height < 800
    assert "a row is 8 pages" in drawn.caption


def test_who_was_held_stood_there_from_its_last_event_on():
    events = [["FAULT", 0, 4, "", 4], ["FAULT", 0, 4, "", 4, 1], ["FAULT", 0, 4, "", 4], ["FAULT", 0, 4, "", 4, 1]]
    holds = [[1999, 2000, 42, "migrate.begin"], [-5, 0, 41, "early"], [0, 1, 99, "of another process"]]
    drawn = picture(log_of(*events, holds=holds))
    (x, width, y, text), early = drawn.holds
    assert (x, x + width) == (drawn.marks[1].x, drawn.marks[2].x)
    assert (y, text) == (drawn.threads[1][0], "held at migrate.begin")
    assert early[0] < early[0] + early[1] == drawn.marks[0].x
