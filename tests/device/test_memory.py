# SPDX-License-Identifier: GPL-2.0
"""The memory of a device: its allocator by order, what it evicts when it is full, what a close brings back."""

import errno
import random

import pytest

from dmirror.memory import HUGE_PAGES, PAGE, Data, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child
from dmirror.uapi import ffi

pytestmark = pytest.mark.needs(capability="eviction")
THP = pytest.mark.needs(capability="device_thp")


def usage(mirror):
    """Folios in use on the device: of one page, huge."""
    counters = mirror.counters()
    assert counters.dev_pages_in_use == counters.dev_small_in_use + HUGE_PAGES * counters.dev_huge_in_use
    return counters.dev_small_in_use, counters.dev_huge_in_use


@pytest.fixture
def small_device(mirror, driver):
    """A device-private device of 256 MiB, as empty as the module is new."""
    mirror.close()
    driver.unload()
    driver.load("devmem_mib=256")
    yield lambda: Mirror(0)
    driver.unload()
    driver.load()


class TestOrders:
    """The counters of each order are exact at every step."""

    def test_small_pages(self, mirror, region):
        with Mirror(0) as other:
            other.migrate_to_device(region.fill(1))
            assert usage(mirror) == (len(region), 0)
            other.migrate_to_system(region[:5])
            assert usage(mirror) == (len(region) - 5, 0)
            region[5].touch()
            assert usage(mirror) == (len(region) - 6, 0)
        assert usage(mirror) == (0, 0)

    @THP
    def test_a_huge_folio_as_a_whole(self, mirror):
        with Region.huge(2) as region:
            mirror.migrate_to_device(region.fill(1))
            assert usage(mirror) == (0, 2)
            mirror.migrate_to_system(region[:HUGE_PAGES])
            assert usage(mirror) == (0, 1)
            region[HUGE_PAGES:].touch()
            assert usage(mirror) == (0, 0)
            assert region.matches(1)

    @THP
    @pytest.mark.contract("T-11")
    @pytest.mark.contract("D-17")
    def test_a_folio_that_is_split_comes_together_again(self, small_device):
        """Order 9, its parts, and order 9 again: more often than the device has huge pages, so that none is lost."""
        with small_device() as mirror:
            for seed in range(mirror.devmem_pages() // HUGE_PAGES + 10):
                with Region.huge(1) as region:
                    mirror.migrate_to_device(region.fill(seed))
                    assert usage(mirror) == (0, 1)
                    mirror.migrate_to_system(region[3:4])
                    assert usage(mirror) == (HUGE_PAGES - 1, 0)
                    assert region[:5].matches(seed)
                    assert usage(mirror) == (HUGE_PAGES - 5, 0)
            with Region.anonymous(1) as page, Region.huge(1) as region:
                mirror.migrate_to_device(page.fill(1))
                mirror.migrate_to_device(region.fill(1))
                assert usage(mirror) == (1, 1)

    @THP
    @pytest.mark.contract("T-05")
    def test_what_unmapping_leaves_of_a_huge_folio(self, mirror):
        with Region.huge(1) as region:
            mirror.migrate_to_device(region.fill(1))
            region[100:200].unmap()
            region[0].touch()  # the folio is split now at the latest
            small, huge = usage(mirror)
            assert (small <= HUGE_PAGES - 1, huge) == (True, 0)
            assert region[:100].matches(1) and region[200:].matches(1)
        assert usage(mirror) == (0, 0)


@pytest.fixture(params=["private", "coherent"])
def full(request):
    """Opens a mirror on a device of 256 MiB that is empty."""
    if request.param == "private":
        return request.getfixturevalue("small_device")
    device = request.getfixturevalue("coherent").device
    return lambda: Mirror(device)


def bring(mirror, region, *, at_once=8192):
    """Migrates a region in calls of a few MiB, without a copy of all of it at a time."""
    data = Data(at_once)
    for start in range(0, len(region), at_once):
        part = region[start : start + at_once]
        assert mirror.call("MIGRATE_TO_DEV", part.addr, len(part), data.buffer) == (len(part), 0)


class TestPressure:
    """A device that is full evicts what was migrated longest ago."""

    @pytest.mark.limit(180)
    def test_four_times_the_device_keeps_all_data(self, full):
        with full() as mirror:
            limit = mirror.devmem_pages()
            with Region.huge(4 * limit // HUGE_PAGES) as region:
                region.fill(1)
                before = mirror.counters()
                bring(mirror, region)
                delta = mirror.counters() - before
                assert delta.dev_pages_in_use == limit
                assert delta.dev_pages_displaced == delta.dev_pages_evicted == 3 * limit
                assert mirror.snapshot(region[-HUGE_PAGES:]).where == ["local"] * HUGE_PAGES
                assert mirror.snapshot(region[:HUGE_PAGES]).where == ["ram"] * HUGE_PAGES
                assert region.matches(1)

    @THP
    @pytest.mark.limit(180)
    def test_huge_folios_make_room_for_huge_folios(self, small_device):
        with small_device() as mirror:
            limit = mirror.devmem_pages()
            with Region.huge(2 * limit // HUGE_PAGES) as region:
                region.fill(1)
                bring(mirror, region)
                assert usage(mirror) == (0, limit // HUGE_PAGES)
                assert mirror.snapshot(region[:HUGE_PAGES])[0].order == "pmd"
                assert region.matches(1)

    @pytest.mark.limit(120)
    def test_the_least_recently_migrated_go_first(self, full):
        with full() as mirror:
            limit = mirror.devmem_pages()
            with Region.anonymous(limit, align=HUGE_PAGES * PAGE) as region, Region.anonymous(512) as more:
                bring(mirror, region)
                region[:HUGE_PAGES].fill(1)
                mirror.migrate_to_system(region[:HUGE_PAGES])  # a page that comes again is the youngest
                bring(mirror, region[:HUGE_PAGES])
                bring(mirror, more, at_once=512)
                where = mirror.snapshot(region).where
                assert where[:HUGE_PAGES] == ["local"] * HUGE_PAGES
                assert where[HUGE_PAGES : 2 * HUGE_PAGES] == ["ram"] * HUGE_PAGES
                assert where[2 * HUGE_PAGES :] == ["local"] * (limit - 2 * HUGE_PAGES)
                assert region[:HUGE_PAGES].matches(1)

    @pytest.mark.limit(120)
    def test_several_processes_share_a_device_that_is_too_small(self, full):
        """Each has half of the device's size; that every call finds room is what the grants are for."""

        def work(seed):
            with full() as mirror, Region.anonymous(mirror.devmem_pages() // 2, align=HUGE_PAGES * PAGE) as region:
                choices = random.Random(seed)
                region.fill(1)
                data = Data(1024)
                for _ in range(60):
                    start = choices.randrange(0, len(region) - 1024)
                    part = region[start : start + 1024]
                    try:
                        mirror.call("MIGRATE_TO_DEV", part.addr, len(part), data.buffer)
                    except MirrorError as error:
                        assert error.errno == errno.ENOENT  # others made room of it at once
                return region.matches(1)

        with Child(lambda _: work(1)) as one, Child(lambda _: work(2)) as two, Child(lambda _: work(3)) as three:
            assert [child.result() for child in (one, two, three)] == [True] * 3

    def test_a_page_that_is_held_does_not_make_room(self, coherent):
        """The device is full, and one page of the block that is to go has a reference: the other 511 go."""
        limit = coherent.devmem_pages()
        with Region.anonymous(limit, align=HUGE_PAGES * PAGE) as held, Region.anonymous(1) as more:
            bring(coherent, held)
            with held[0].in_a_pipe():
                before = coherent.counters()
                coherent.migrate_to_device(more.fill(2))
                assert (coherent.counters() - before).dev_pages_displaced == HUGE_PAGES - 1
                assert coherent.snapshot(held[0]).where == ["local"]
            assert more.matches(2)

    @pytest.mark.contract("D-06")
    def test_one_call_for_more_than_there_is(self, full):
        """It does not evict what it brought itself: ENOMEM, and the pages that fit are there."""
        with full() as mirror:
            limit = mirror.devmem_pages()
            with Region.anonymous(limit + 512, align=HUGE_PAGES * PAGE) as region, Region.anonymous(limit) as buffer:
                region[-1].fill(1)
                with pytest.raises(MirrorError) as caught:
                    mirror.call("MIGRATE_TO_DEV", region.addr, len(region), ffi.cast("void *", buffer.addr))
                assert (caught.value.errno, caught.value.pages) == (errno.ENOMEM, limit)
                assert mirror.counters().dev_pages_in_use == limit
                assert region[-1].matches(1)


@pytest.mark.contract("D-09")
class TestClose:
    """Closing a mirror brings back the pages that it migrated, and touches no others."""

    def test_its_own_pages_come_back(self, mirror, region):
        with Mirror(0) as other:
            other.migrate_to_device(region.fill(1))
            before = mirror.counters()
        delta = mirror.counters() - before
        assert (delta.dev_pages_evicted, delta.dev_cpu_faults) == (len(region), 0)
        assert mirror.snapshot(region).where == ["ram"] * len(region)
        assert region.matches(1)

    def test_pages_of_another_mirror_stay_and_see_no_event(self, mirror, region):
        """Page by page in turn, so that they are neighbours on the device too."""
        with Region.anonymous(len(region), align=region.bytes) as elsewhere:
            with Mirror(0) as other:
                for page in range(len(region)):
                    mirror.migrate_to_device(region[page].fill(1))
                    other.migrate_to_device(elsewhere[page].fill(2))
                before = mirror.counters()
            delta = mirror.counters() - before
            assert delta.dev_pages_evicted == len(elsewhere)
            assert delta.entries_dropped == 0
            assert mirror.snapshot(region).where == ["local"] * len(region)
            assert mirror.snapshot(elsewhere).where == ["ram"] * len(elsewhere)
            assert region.matches(1) and elsewhere.matches(2)

    def test_another_processes_pages_stay(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))

        def child(line):
            with Mirror(0) as own, Region.anonymous(16) as memory:
                own.migrate_to_device(memory.fill(2))
                before = own.counters().dev_pages_evicted
                own.close()
                with Mirror(0) as again:
                    return again.counters().dev_pages_evicted - before, memory.matches(2)

        with Child(child) as other:
            assert other.result() == (16, True)
        assert mirror.snapshot(region).where == ["local"] * len(region)

    def test_a_page_belongs_to_who_migrated_it_last(self, mirror, region):
        with Mirror(0) as other:
            other.migrate_to_device(region.fill(1))
            other.migrate_to_system(region)
            mirror.migrate_to_device(region)
        assert mirror.snapshot(region).where == ["local"] * len(region)
        assert region.matches(1)

    @pytest.mark.contract("C-03")
    def test_pages_shared_after_fork_come_back_for_both(self, mirror, region):
        other = Mirror(0)
        other.migrate_to_device(region.fill(1))

        def child(line):
            other.close()  # this process's copy of the descriptor
            line.receive()
            with Mirror(0) as own:
                where = own.snapshot(region).where
            shared = region.matches(1)
            region.fill(2)
            return where, shared

        with Child(child) as process:
            other.close()
            process.line.send()
            assert process.result() == (["ram"] * len(region), True)
        assert region.matches(1)

    @THP
    def test_parts_of_a_huge_folio_come_back(self, mirror):
        with Region.huge(1) as region:
            with Mirror(0) as other:
                other.migrate_to_device(region.fill(1))
                region[0].touch()
                assert usage(mirror) == (HUGE_PAGES - 1, 0) or usage(mirror) == (0, 0)
                other.migrate_to_device(region)
            assert usage(mirror) == (0, 0)
            assert region.matches(1)

    def test_of_a_coherent_device(self, coherent, region):
        with Mirror(coherent.device) as other:
            other.migrate_to_device(region.fill(1))
        assert coherent.snapshot(region).where == ["ram"] * len(region)
        assert region.matches(1)
