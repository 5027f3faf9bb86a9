# SPDX-License-Identifier: GPL-2.0
"""Section 1: subscriptions: which hear of an event, how they begin and end, and when a reader has to wait for them."""

import errno
import mmap
from contextlib import ExitStack

import pytest

from dmirror.events import CLEAR, FINISH, RELEASE, UNMAP
from dmirror.memory import PAGE
from dmirror.mirror import Mirror, MirrorError
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

TWO_PASS = pytest.mark.needs(capability="two_pass")
INTERVALS = ["interval", pytest.param("two_pass", marks=TWO_PASS)]


def drop(span):
    """Zap the page table, which raises CLEAR; the mmap lock is shared at most, so that others can read and zap."""
    span.advise(mmap.MADV_DONTNEED)


def told(log, watch, region):
    """What a watch was told of the region: events and first pages."""
    return [(event.type, (event.start - region.addr) // PAGE) for event in log.select(over=region, watch=watch.id)]


@pytest.mark.contract("N-06")
@pytest.mark.parametrize(
    ("part", "hears"),
    [
        pytest.param(slice(3, 4), (False, False), id="before"),
        pytest.param(slice(4, 5), (True, False), id="first-of-left"),
        pytest.param(slice(5, 6), (True, False), id="last-of-left"),
        pytest.param(slice(6, 7), (False, True), id="first-of-right"),
        pytest.param(slice(8, 9), (False, False), id="behind"),
        pytest.param(slice(5, 7), (True, True), id="both"),
        pytest.param(slice(0, 16), (True, True), id="all"),
    ],
)
def test_an_event_reaches_the_subscriptions_that_it_overlaps_and_no_other(mirror, mirror2, region, part, hears):
    with (
        mirror.watch(region[4:6]) as left,
        mirror.watch(region[6:8]) as right,
        mirror.watch(kind="plain") as plain,
        mirror.events(buf=region) as log,
        mirror2.events(buf=region) as other,
    ):
        region[part].unmap()
    for watch, times in zip((left.id, right.id, plain.id, 0), (*hears, True, True), strict=True):
        log.expect(UNMAP, over=region, watch=watch, times=int(times))
        # Each is told the range of the event, not its own share of it.
        log.expect(UNMAP, region[part], watch=watch, times=int(times))
    other.expect(UNMAP, region[part])


@pytest.mark.contract("N-06")
def test_a_subscription_of_two_bytes_hears_of_the_pages_that_they_lie_in(mirror, region):
    watch = mirror.own("WATCH", start=region[5].addr - 1, length=2).id
    with mirror.events(buf=region) as log:
        for page in (3, 4, 5, 6):
            drop(region[page])
    mirror.own("UNWATCH", id=watch)
    assert [event.start for event in log.select(CLEAR, over=region, watch=watch)] == [region[4].addr, region[5].addr]


@pytest.mark.contract("N-07")
@pytest.mark.parametrize(
    ("start", "length"),
    [
        pytest.param(0x10000, 0, id="empty"),
        pytest.param(0, 0, id="empty-at-0"),
        pytest.param(2**64 - PAGE, PAGE + 1, id="one-too-many"),
        pytest.param(PAGE + 1, 2**64 - PAGE, id="one-too-far"),
        pytest.param(2**64 - 1, 2**64 - 1, id="far-too-far"),
    ],
)
def test_a_subscription_that_is_empty_or_wraps_is_refused(mirror, start, length):
    with pytest.raises(MirrorError) as caught:
        mirror.own("WATCH", start=start, length=length)
    assert caught.value.errno == errno.EOVERFLOW


@pytest.mark.contract("N-07")
@pytest.mark.parametrize(("start", "length"), [(2**64 - PAGE, PAGE), (0, 2**64 - 1), (2**64 - 1, 1)])
def test_a_subscription_may_end_with_the_last_byte_that_there_is(mirror, start, length):
    mirror.own("UNWATCH", id=mirror.own("WATCH", start=start, length=length).id)


@pytest.mark.contract("N-07")
def test_nobody_can_subscribe_to_an_address_space_that_is_gone(mirror, mirrored):
    with mirrored() as other:
        other.leave()
        with pytest.raises(MirrorError) as caught, other.mirror.watch(other.memory):
            pass
        assert caught.value.errno == errno.ESRCH


@pytest.mark.contract("N-08")
@pytest.mark.parametrize("device", [0, 1])
def test_who_subscribes_during_an_invalidation_waits_for_its_end(mirror, region, device):
    """The page is gone after it: a reader that did not wait would have mapped it for good."""
    region.fill(1)
    with mirror.hold("invalidate", region[3], events=(CLEAR,)) as held, Task(drop, region[3]):
        held.wait()
        with Mirror(device) as late:
            with Task(late.read, region[3]) as reading:
                reading.wait_asleep()
                held.resume()
                assert reading.result().data.zero()
            # Nor was it lost: the next event finds it.
            with late.events(buf=region) as log:
                drop(region[3])
            log.expect(CLEAR, region[3], pages=1)


@pytest.mark.contract("N-08")
@pytest.mark.parametrize("kind", INTERVALS)
def test_a_subscription_made_during_an_invalidation_hears_of_the_next(mirror, mirror2, region, kind):
    region.fill(1)
    with (
        mirror2.events(buf=region) as log,
        mirror.hold("invalidate", region[3], events=(CLEAR,)) as held,
        Task(drop, region[3]) as dropping,
    ):
        held.wait()
        with mirror2.watch(region, kind=kind) as watch:
            held.resume()
            dropping.result()
            drop(region[4])
        drop(region[5])
    passes = [CLEAR] if kind == "interval" else [CLEAR, FINISH]
    assert told(log, watch, region) == [(type, 4) for type in passes]


@pytest.mark.contract("N-08")
@pytest.mark.contract("N-09")
def test_a_subscription_may_come_and_go_during_an_invalidation(mirror, mirror2, region):
    """It is not in the tree yet when it goes: there is nobody to wait for."""
    region.fill(1)
    with (
        mirror2.events(buf=region) as log,
        mirror.hold("invalidate", region[3], events=(CLEAR,)) as held,
        Task(drop, region[3]) as dropping,
    ):
        held.wait()
        with mirror2.watch(region) as watch:
            pass
        assert held.state().state == "held"
        held.resume()
        dropping.result()
        drop(region[4])
    assert told(log, watch, region) == []


@pytest.mark.contract("N-09")
@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("interval", []),
        pytest.param("two_pass", [FINISH], marks=TWO_PASS),
        ("plain", [RELEASE]),  # mmu_notifier_unregister() calls it itself
    ],
)
def test_the_end_of_a_subscription_waits_for_its_callback(mirror, region, kind, rest):
    region.fill(1)
    with ExitStack() as watching:
        watch = watching.enter_context(mirror.watch(None if kind == "plain" else region, kind=kind))
        with (
            mirror.events(buf=region) as log,
            mirror.hold("invalidate", region[3], watch=watch, events=(CLEAR,)) as held,
            Task(drop, region[3]) as dropping,
        ):
            held.wait()
            with Task(watching.close) as ending:
                ending.wait_asleep()
                held.resume()
            dropping.result()
            drop(region[4])
    assert [event.type for event in log.select(over=region, watch=watch.id)] == [CLEAR, *rest]


@pytest.mark.contract("N-09")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first-closes", "last-closes"])
def test_closing_a_mirror_waits_for_an_invalidation_that_another_is_told_of(mirror, region, order):
    """It may have been told already, or be the next."""
    region.fill(1)
    with Mirror(0) as one, Mirror(0) as two:
        closing, staying = (one, two)[order[0]], (one, two)[order[1]]
        with (
            staying.events(buf=region) as log,
            staying.hold("invalidate", region[3], events=(CLEAR,)) as held,
            Task(drop, region[3]),
        ):
            held.wait()
            with Task(closing.close) as closed:
                closed.wait_asleep()
                held.resume()
            drop(region[4])
        log.expect(CLEAR, over=region, times=2)


@TWO_PASS
@pytest.mark.contract("N-11")
def test_second_passes_come_once_each_after_all_first_and_before_the_page_table_changes(mirror, mirror2, region):
    """The plain notifier comes after both, and is still before the change: there it is held."""
    region.fill(1)
    part = region[4:8]
    with (
        mirror.watch(region, kind="two_pass") as one,
        mirror.watch(part, kind="two_pass") as two,
        mirror.watch(region[:4], kind="two_pass") as elsewhere,
        mirror.watch(region) as single,
        mirror.watch(kind="plain") as plain,
        mirror.events(buf=region) as log,
        mirror.hold("invalidate", part, watch=plain, events=(CLEAR,)) as held,
        Task(drop, part) as dropping,
    ):
        held.wait()
        finished = log.expect(FINISH, part, times=2)
        assert {event.watch for event in finished} == {one.id, two.id}
        first = log.expect(CLEAR, part, times=5)
        assert {event.watch for event in first} == {0, one.id, two.id, single.id, plain.id}
        assert max(event.seq for event in first if event.watch != plain.id) < min(event.seq for event in finished)
        assert {event.interval_seq for event in (*first, *finished) if event.watch != plain.id} == {
            first[0].interval_seq
        }
        assert part.matches(1)
        held.resume()
        dropping.result()
        assert part.zero()
    log.expect(FINISH, over=region, times=2)
    assert told(log, elsewhere, region) == []


@TWO_PASS
@pytest.mark.contract("N-11")
def test_the_end_of_the_address_space_has_a_second_pass(mirror, mirrored):
    with mirrored() as other, other.mirror.watch(other.memory, kind="two_pass") as watch, other.mirror.events() as log:
        other.leave()
        (own,) = log.expect(RELEASE, watch=0)
        (first,) = log.expect(RELEASE, watch=watch.id)
        (second,) = log.expect(FINISH, watch=watch.id, interval_seq=first.interval_seq)
        assert max(first.seq, own.seq) < second.seq


@TWO_PASS
@pytest.mark.contract("N-12")
@pytest.mark.complains(r"WARNING: .* mmu_interval_notifier_insert\+")
def test_a_subscription_without_a_second_pass_is_warned_of_and_works(mirror, region):
    region.fill(1)
    with mirror.watch(region, kind="unfinished") as watch, mirror.events(buf=region) as log:
        drop(region[3])
    assert told(log, watch, region) == [(CLEAR, 3)]
    assert region[3].zero()


@pytest.mark.contract("N-13")
def test_a_reader_waits_for_the_last_of_several_invalidations(mirror, region):
    """The first is over for the mirror but not for a watch; another one comes and goes meanwhile."""
    region.fill(1)
    with (
        mirror.events(buf=region) as log,
        mirror.watch(region[:4]) as watch,
        mirror.hold("invalidate", region[:4], watch=watch, events=(CLEAR,)) as held,
        Task(drop, region[:4]),
    ):
        held.wait()
        drop(region[8:12])
        log.expect(CLEAR, region[:4], watch=0)
        log.expect(CLEAR, region[8:12], watch=0)
        with Task(mirror.read, region[12]) as reading:
            reading.wait_asleep()
            assert region[:4].matches(1)
            held.resume()
            assert reading.result().data.matches(1)
    assert mirror.read(region[:4]).data.zero()
