# SPDX-License-Identifier: GPL-2.0
"""Holds, vectors, injections and watches on the client's side: what they ask the driver for, and how they read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake import FakeMirror

from dmirror import holds, inject, timeline
from dmirror.calls import MirrorError, request
from dmirror.counters import STAYED, Counters
from dmirror.events import KERNEL_EVENTS
from dmirror.holds import POINTS, HoldOver
from dmirror.inject import sweep
from dmirror.memory import Span
from dmirror.mirror import CAPABILITIES
from dmirror.uapi import ffi, lib
from dmirror.vectors import PageInfo, Word

BUF = Span(0x7F0000000000, 4)


def new(kind: str, **fields: Any) -> Any:
    return ffi.new(f"struct dmirror_{kind} *", fields)


def constants(prefix: str) -> set[int]:
    return {getattr(lib, name) for name in dir(lib) if name.startswith(prefix)}


def test_the_names_cover_the_header() -> None:
    assert set(CAPABILITIES.values()) == constants("DMIRROR_CAP_")
    assert len(STAYED) == len(constants("DMIRROR_STAYED_"))
    for number, reason in enumerate(STAYED):
        assert getattr(lib, f"DMIRROR_STAYED_{reason.upper()}") == number
    assert sorted(POINTS.values()) == list(range(lib.DMIRROR_HOLD_CPU_END + 1))


def test_counters_are_by_name_and_are_subtracted_by_name() -> None:
    before = Counters.decode(new("counters", faults=1, seen=list(range(9)), stayed=[1] * 6))
    after = Counters.decode(new("counters", faults=3, seen=[10] * 9, stayed=[1] * 5 + [5]))
    assert before.seen == {name: number for number, name in enumerate(KERNEL_EVENTS)}
    assert (after - before).seen["MIGRATE"] == 3
    assert (after - before).stayed == dict.fromkeys(STAYED, 0) | {"core": 4}
    assert (after - before).faults == 2


def test_a_failed_call_says_what_it_was_and_how_far_it_came() -> None:
    with open("/dev/null") as nothing, pytest.raises(MirrorError) as caught:
        request(nothing.fileno(), "hmm_dmirror0", "PEEK", BUF)
    assert (caught.value.errno, caught.value.pages) == (errno.ENOTTY, 0)
    assert caught.value.strerror == f"PEEK of {BUF} on hmm_dmirror0: Inappropriate ioctl for device after 0 pages"


class HoldDriver:
    """The driver's side of one hold: `state` is how it stands, the pipe says when somebody is held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = "armed"
        self.resumed = 0
        self.fd, self.held = os.pipe()
        calls = SimpleNamespace(dm_ioctl=self._resume, DMIRROR_HOLD_RESUME=lib.DMIRROR_HOLD_RESUME)
        monkeypatch.setattr(holds, "request", self._state)
        monkeypatch.setattr(holds, "lib", calls)
        self.mirror = FakeMirror(lambda name, fields: new("hold", fd=self.fd))

    def _state(self, fd: int, on: str, name: str) -> Any:
        assert (fd, name) == (self.fd, "HOLD_STATE")
        state = getattr(lib, f"DMIRROR_HOLD_{self.state.upper()}")
        return new("hold_state", state=state, tid=42, passages=3, start=BUF.addr, end=BUF.end)

    def _resume(self, fd: int, number: int, argument: Any) -> int:
        assert (fd, number) == (self.fd, lib.DMIRROR_HOLD_RESUME)
        self.resumed += 1
        if self.state == "held":
            self.state = "resumed"
        return 0

    def come(self, state: str = "held") -> None:
        self.state = state
        os.write(self.held, b".")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> HoldDriver:
    return HoldDriver(monkeypatch)


def test_a_hold_waits_and_lets_go(driver: HoldDriver) -> None:
    timeline.take()
    with driver.mirror.hold("invalidate", BUF, nth=3, events=("CLEAR", "MIGRATE"), limit=2.5) as hold:
        driver.come()
        state = hold.wait()
        assert (state.state, state.tid, state.passages, state.start, state.end) == ("held", 42, 3, BUF.addr, BUF.end)
        assert repr(state) == "held at invalidate, passed 3 times; thread 42 with [0x7f0000000000, 0x7f0000004000)"
        hold.resume()
        assert hold.state().state == "resumed"
    [(began, ended, *who)] = timeline.plain([], {}, device=0, lost=0)["holds"]
    assert began <= ended and who == [42, "invalidate"]
    name, fields = driver.mirror.calls[0]
    assert (name, fields["point"], fields["nth"], fields["limit"]) == ("HOLD", lib.DMIRROR_HOLD_INVALIDATE, 3, 2500)
    assert fields["events"] == 1 << lib.DMIRROR_EVENT_CLEAR | 1 << lib.DMIRROR_EVENT_MIGRATE
    assert (fields["start"], fields["end"], fields["watch"]) == (BUF.addr, BUF.end, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(driver.fd)


def test_nobody_comes_to_a_hold(driver: HoldDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "PATIENCE", 0.01)
    with (
        driver.mirror.hold("migrate.begin") as hold,
        pytest.raises(TimeoutError, match=r"armed at migrate\.begin, passed 3"),
    ):
        hold.wait()


def test_a_hold_that_is_over_holds_nobody(driver: HoldDriver) -> None:
    with driver.mirror.hold("migrate.begin") as hold:
        driver.come("killed")
        with pytest.raises(HoldOver, match=r"killed at migrate\.begin") as caught:
            hold.wait()
        assert caught.value.state.state == "killed"


def test_a_hold_that_expires_unnoticed_fails_the_test(driver: HoldDriver) -> None:
    with pytest.raises(HoldOver, match="expired"), driver.mirror.hold("migrate.begin"):
        driver.come("expired")
    assert driver.resumed == 1


def test_a_hold_that_expired_before_a_test_that_looks(driver: HoldDriver) -> None:
    with driver.mirror.hold("migrate.begin") as hold:
        driver.come("expired")
        assert hold.state().state == "expired"


def test_a_hold_that_expired_does_not_hide_an_error(driver: HoldDriver) -> None:
    with pytest.raises(ZeroDivisionError), driver.mirror.hold("migrate.begin"):
        driver.come("expired")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda mirror: mirror.hold("migrate.after_set_up"), "did you mean 'migrate.after_setup'"),
        (lambda mirror: mirror.hold("nowhere"), "'nowhere' is no hold point: fault.before_check, .*exclusive.after$"),
        (lambda mirror: mirror.hold("invalidate", events=("FAULT",)), "'FAULT' is no kernel event: UNMAP, CLEAR, "),
        (lambda mirror: mirror.hold("invalidate", events="CLEAR"), r"come in a tuple: \('CLEAR',\)"),
        (lambda mirror: mirror.migrate(BUF, to="host"), "'host' is no direction: device, system"),
        (lambda mirror: mirror.migrate(BUF, owner="mine"), "'mine' is no owner: own, other, none"),
        (lambda mirror: mirror.walk(BUF, default=("wrote",)), "did you mean 'write'"),
        (lambda mirror: mirror.inject("dev_alloc"), "did you mean 'device_alloc'"),
        (lambda mirror: mirror.watch(kind="twopass"), "did you mean 'two_pass'"),
    ],
)
def test_a_misspelt_name_is_refused_with_those_there_are(ask: Callable[[FakeMirror], object], text: str) -> None:
    mirror = FakeMirror()
    with pytest.raises(ValueError, match=text):
        ask(mirror)
    assert mirror.calls == []


@pytest.mark.parametrize(
    ("word", "text", "short"),
    [
        (0, "0", "0"),
        (0x123 << 8 | 7, "VALID|MIGRATE|WRITE pfn=0x123", "VMW- 0x123"),
        (0x1200 << 8 | 11, "VALID|MIGRATE|COMPOUND pfn=0x1200", "VM-C 0x1200"),
        (2, "MIGRATE", "-M-- 0x0"),
        (0x123 << 8 | 0x41, "VALID 0x40 pfn=0x123", "V--- 0x123"),
    ],
)
def test_a_word_prints_its_flags_and_its_page(word: int, text: str, short: str) -> None:
    assert (repr(Word(word)), Word(word).short) == (text, short)


def test_a_word_is_a_number_with_names() -> None:
    word = Word(0x123 << 8 | 5)
    assert (word.pfn, word.valid, word.migrate, word.write, word.compound) == (0x123, True, False, True, False)
    assert word == 0x12305


def test_a_migration_asks_page_by_page_and_decodes_what_came_back() -> None:
    def answer(name: str, fields: dict[str, Any]) -> Any:
        assert bytes(ffi.buffer(ffi.cast("char *", fields["how"]), 4)) == bytes([0, 1, 3, 0])
        words = ffi.cast("struct dmirror_words *", fields["words"])
        words[0].setup_src = 0x10003
        words[0].copied_dst = 0x20001
        words[3].final_dst = 0x30001
        return new("migrate", done=4, collected=3, moved=2)

    mirror = FakeMirror(answer)
    migration = mirror.migrate(
        BUF,
        to="device",
        owner="other",
        select=("system", "compound"),
        order="huge",
        skip=(1, 2),
        reference=[2],
        obey=True,
    )
    _, fields = mirror.calls[0]
    assert fields["flags"] == lib.DMIRROR_MIGRATE_TO_DEVICE | lib.DMIRROR_MIGRATE_OBEY
    assert fields["owner"] == lib.DMIRROR_OWNER_OTHER
    assert fields["select"] == lib.DMIRROR_SELECT_SYSTEM | lib.DMIRROR_SELECT_COMPOUND
    assert fields["order"] == lib.DMIRROR_ORDER_HUGE
    assert (migration.done, migration.collected, migration.moved) == (4, 3, 2)
    assert (migration.words[0].setup, migration.words[0].copied, migration.words[3].dst_final) == (
        0x10003,
        0x20001,
        0x30001,
    )
    assert migration.table().splitlines() == [
        f"{BUF}: done 4, collected 3, moved 2",
        "page  setup       copied      pages  dst_pages  final  dst_final",
        "0     VM-- 0x100  V--- 0x200  0      0          0      0",
        "1     0           0           0      0          0      0",
        "2     0           0           0      0          0      0",
        "3     0           0           0      0          0      V--- 0x300",
    ]


@pytest.mark.parametrize("page", [-1, 4])
def test_a_page_outside_of_the_span_is_refused(page: int) -> None:
    with pytest.raises(IndexError, match=f"page {page} is not in a span of 4 pages"):
        FakeMirror().migrate(BUF, skip=(page,))
    with pytest.raises(IndexError):
        FakeMirror().walk(BUF, requests={page: ("fault",)})


def test_a_walk_asks_page_by_page() -> None:
    def answer(name: str, fields: dict[str, Any]) -> Any:
        pages = ffi.cast("struct dmirror_page *", fields["pages"])
        assert [pages[page].flags for page in range(4)] == [0, 3, 0, 1]
        pages[0].flags = lib.DMIRROR_PAGE_VALID
        pages[0].pfn = pages[0].backing = 5
        return new("walk", retries=2)

    mirror = FakeMirror(answer)
    walk = mirror.walk(
        BUF, default=("fault",), mask=("write",), requests={1: ("fault", "write"), 3: ("fault",)}, once=True
    )
    _, fields = mirror.calls[0]
    assert (fields["flags"], fields["default_flags"], fields["mask"]) == (lib.DMIRROR_WALK_ONCE, 1, 2)
    assert (walk.retries, walk.pages[0].pfn, walk.pages[0].valid, walk.pages[1].valid) == (2, 5, True, False)


VALID, WRITE, DEVICE, MAPPED = (getattr(lib, f"DMIRROR_PAGE_{name}") for name in ("VALID", "WRITE", "DEVICE", "MAPPED"))
ON_DEVICE = MAPPED | lib.DMIRROR_PAGE_MAPPED_WRITE | lib.DMIRROR_PAGE_MAPPED_DEVICE


@pytest.mark.parametrize(
    ("fields", "agrees", "text"),
    [
        ({}, True, "nothing; mapped nothing"),
        ({"flags": lib.DMIRROR_PAGE_ERROR}, True, "error; mapped nothing"),
        ({"pfn": 5, "backing": 5, "flags": VALID | lib.DMIRROR_PAGE_ZERO}, True, "zero page pfn=0x5 r; mapped nothing"),
        (
            {"pfn": 9, "backing": 5, "mapped": 5, "flags": VALID | WRITE | DEVICE | ON_DEVICE, "device": 1, "index": 3},
            True,
            "device 1 page 3 pfn=0x9 rw backing=0x5; mapped 0x5 rw device",
        ),
        (
            {"pfn": 5, "backing": 5, "mapped": 6, "flags": VALID | MAPPED | lib.DMIRROR_PAGE_MAPPED_ATOMIC, "order": 9},
            False,
            "ram pfn=0x5 r order=9; mapped 0x6 r atomic (they disagree)",
        ),
        ({"mapped": 6, "flags": MAPPED}, True, "nothing; mapped 0x6 r"),
    ],
)
def test_a_page_prints_both_sides(fields: dict[str, Any], agrees: bool, text: str) -> None:
    page = PageInfo.decode(new("page", **fields))
    assert (page.agrees, repr(page)) == (agrees, text)
    assert (page.device is None) == (page.index is None) == (not fields.get("flags", 0) & DEVICE)


class Failing:
    """A driver whose scenarios pass `points` points of failure; `at` is the one that fails."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.at = self.passed = self.failed = 0
        self.mirror = FakeMirror(self._inject)

    def _inject(self, name: str, fields: dict[str, Any]) -> Any:
        assert (name, fields["what"]) == ("INJECT", lib.DMIRROR_INJECT_COPY)
        counts = new("inject", passed=self.passed, failed=self.failed)
        if not fields["flags"] & lib.DMIRROR_INJECT_READ:
            self.at, self.passed, self.failed = fields["nth"], 0, 0
        return counts

    def work(self) -> None:
        for _ in range(self.points):
            self.passed += 1
            self.failed += self.passed == self.at


def test_an_injection_is_armed_for_its_block_and_keeps_its_counts() -> None:
    driver = Failing(5)
    with driver.mirror.inject("copy", nth=2) as injection:
        assert injection.counts() == (0, 0)
        driver.work()
        assert injection.counts() == (5, 1)
    assert driver.at == 0
    driver.work()
    assert injection.counts() == (5, 1)


def test_a_sweep_fails_each_point_once_and_ends_untouched() -> None:
    driver = Failing(3)
    seen = []

    def scenario(nth: int) -> None:
        driver.work()
        seen.append((nth, driver.failed))

    assert sweep(driver.mirror, "copy", scenario) == 3
    assert seen == [(1, 1), (2, 1), (3, 1), (4, 0)]


def test_a_sweep_says_which_failure_broke_the_scenario() -> None:
    driver = Failing(3)

    def scenario(nth: int) -> None:
        driver.work()
        assert nth != 2

    with pytest.raises(AssertionError) as caught:
        sweep(driver.mirror, "copy", scenario)
    assert caught.value.__notes__ == ["in the run where copy number 2 was to fail"]
    assert driver.at == 0


def test_a_sweep_without_an_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inject, "_SWEEP_MOST", 20)
    driver = Failing(100)
    with pytest.raises(RuntimeError, match="copy failed in each of 20 runs"):
        sweep(driver.mirror, "copy", lambda nth: driver.work())


def test_a_watch_is_there_for_its_block() -> None:
    mirror = FakeMirror(lambda name, fields: new("watch", id=3))
    with mirror.watch(BUF[1:3], kind="two_pass") as watch:
        assert watch.id == 3
    assert mirror.calls == [
        ("WATCH", {"kind": lib.DMIRROR_WATCH_TWO_PASS, "start": BUF[1].addr, "length": 8192}),
        ("UNWATCH", {"id": 3}),
    ]


def test_a_hold_can_be_of_a_watch(driver: HoldDriver) -> None:
    other = FakeMirror(lambda name, fields: new("watch", id=3))
    with other.watch() as watch, driver.mirror.hold("invalidate", watch=watch):
        assert driver.mirror.calls[0][1]["watch"] == 3
