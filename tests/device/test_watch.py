# SPDX-License-Identifier: GPL-2.0
"""Watches: further subscriptions of a mirror, which are told and do nothing."""

import errno
import mmap

import pytest

from dmirror.events import CLEAR, END, FINISH, MIGRATE, UNMAP
from dmirror.memory import PAGE, Span
from dmirror.mirror import Mirror, MirrorError

pytestmark = pytest.mark.needs(capability="steer")
KINDS = [
    "interval",
    pytest.param("two_pass", marks=pytest.mark.needs(capability="two_pass")),
    "plain",
]


def over(kind, span):
    """What a watch of the kind is made for: a plain one is of all addresses."""
    return None if kind == "plain" else span


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_is_told_what_the_mirror_is_told(mirror, region, kind):
    region.fill(1)
    with mirror.watch(over(kind, region), kind=kind) as watch, mirror.events() as log:
        mirror.migrate_to_device(region)
        for number in (0, watch.id):
            log.expect(MIGRATE, region, watch=number, owner="own", blockable=True)
        mirror.migrate_to_system(region)
        region.advise(mmap.MADV_DONTNEED)
        for number in (0, watch.id):
            log.expect(CLEAR, region, watch=number, owner=None, blockable=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_drops_nothing(mirror, region, kind):
    mirror.read(region.fill(1))
    with mirror.watch(over(kind, region), kind=kind) as watch, mirror.events() as log:
        mirror.migrate(region[3:])
        log.expect(MIGRATE, region[3:], watch=0, pages=13, filtered=True)
        log.expect(MIGRATE, region[3:], watch=watch.id, pages=0, filtered=False)
    assert mirror.peek(region).matches(1)


def test_only_events_that_overlap_reach_an_interval(mirror, region):
    with (
        mirror.watch(region[:4]) as low,
        mirror.watch(region[4:8]) as high,
        mirror.events() as log,
    ):
        region.fill(1)
        for pages, told in (
            (slice(3, 4), (low,)),
            (slice(4, 5), (high,)),
            (slice(2, 6), (low, high)),
            (slice(8, 9), ()),
        ):
            region[pages].advise(mmap.MADV_DONTNEED)
            for watch in (low, high):
                log.expect(CLEAR, region[pages], watch=watch.id, times=int(watch in told))


def test_the_end_of_a_plain_notification_is_told(mirror, region):
    region.fill(1)
    with mirror.watch(kind="plain") as watch, mirror.events() as log:
        region[2:4].unmap()
        (first, last) = (log.expect(what, region[2:4], watch=watch.id)[0] for what in (UNMAP, END))
        assert first.seq < last.seq
        log.expect(END, region[2:4], watch=0, times=0)


@pytest.mark.needs(capability="two_pass")
def test_the_second_pass_comes_after_every_first_one(mirror, region):
    region.fill(1)
    with (
        mirror.watch(region, kind="two_pass") as first,
        mirror.watch(region, kind="two_pass") as second,
        mirror.events() as log,
    ):
        region[2:4].advise(mmap.MADV_DONTNEED)
        starts = [log.expect(CLEAR, region[2:4], watch=watch.id)[0] for watch in (first, second)]
        finishes = [log.expect(FINISH, region[2:4], watch=watch.id)[0] for watch in (first, second)]
        assert max(event.seq for event in starts) < min(event.seq for event in finishes)
        assert {event.interval_seq for event in finishes} == {event.interval_seq for event in starts}


def test_numbers_are_not_used_twice(mirror, region):
    with mirror.watch(region) as first, mirror.watch(region) as second:
        assert (first.id, second.id) == (1, 2)
    with mirror.watch(region) as third:
        assert third.id == 3


def test_a_watch_that_ended_is_told_nothing(mirror, region):
    region.fill(1)
    with mirror.events() as log:
        with mirror.watch(region) as watch:
            pass
        region.advise(mmap.MADV_DONTNEED)
        log.expect(CLEAR, region)
        log.expect(CLEAR, watch=watch.id, times=0)


def test_watches_end_with_the_mirror(mirror, region):
    with Mirror(0) as other:
        for kind in ("interval", "plain"):
            other.own("WATCH", **other.watch(over(kind, region), kind=kind)._fields)
    region.fill(1)
    region.advise(mmap.MADV_DONTNEED)


@pytest.mark.contract("N-07")
@pytest.mark.parametrize("span", [Span(0x10000, 0), Span(0x10000, (1 << 52) - 1)], ids=["empty", "wraps"])
def test_an_interval_that_is_none_is_eoverflow(mirror, span):
    with pytest.raises(MirrorError) as caught, mirror.watch(span):
        pass
    assert caught.value.errno == errno.EOVERFLOW


@pytest.mark.needs(kernel="<7.2")
@pytest.mark.parametrize("kind", ["two_pass", "unfinished"])
def test_a_kind_that_the_kernel_has_not_is_eopnotsupp(mirror, region, kind):
    with pytest.raises(MirrorError) as caught, mirror.watch(region, kind=kind):
        pass
    assert caught.value.errno == errno.EOPNOTSUPP


def test_a_watch_of_memory_that_is_not_mapped_yet(mirror, region):
    addr = region[4].addr
    region[4].unmap()
    with mirror.watch(Span(addr, 1)) as watch, mirror.events() as log:
        region[3].fill(1)
        region[3].move(Span(addr, 1))
        Span(addr, 1).advise(mmap.MADV_DONTNEED)
        (event,) = log.expect(CLEAR, over=Span(addr, 1), watch=watch.id)
        assert event.end - event.start == PAGE
