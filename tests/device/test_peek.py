# SPDX-License-Identifier: GPL-2.0
"""What the device has, without a fault: PEEK, POKE, and which page that is."""

import errno

import pytest

from dmirror.memory import HUGE_PAGES, READ, RW, Data, Region
from dmirror.mirror import Mirror, MirrorError

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")


def quiet(mirror, before):
    """Whether the device page table is what it was, and no fault was taken."""
    counts = mirror.counters() - before
    return not (counts.faults or counts.entries_installed or counts.entries_dropped)


class TestPeek:
    def test_what_the_device_has(self, still):
        one = still()
        one.mirror.read(one.memory)
        before = one.mirror.counters()
        assert one.mirror.peek(one.memory).matches(1)
        assert quiet(one.mirror, before)

    def test_what_the_device_has_on_the_device(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        assert mirror.peek(region).matches(1)
        assert mirror.snapshot(region).picture() == "D" * 16

    def test_nothing_is_enoent_and_says_where(self, mirror, region):
        mirror.read(region[:5].fill(1))
        data = Data(16)
        with pytest.raises(MirrorError) as caught:
            mirror.peek(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 5)
        with pytest.raises(MirrorError) as caught:
            mirror.peek(region[5:])
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert data.zero()
        assert mirror.snapshot(region).picture() == "rrrrr" + "." * 11

    def test_what_the_cpu_stored_since(self, mirror, region):
        mirror.read(region.fill(1))
        region.fill(2)
        assert mirror.peek(region).matches(2)

    def test_another_mirror_of_the_device_has_entries_of_its_own(self, mirror, region):
        mirror.read(region.fill(1))
        with Mirror(0) as other, pytest.raises(MirrorError) as caught:
            other.peek(region)
        assert caught.value.errno == errno.ENOENT

    def test_an_exclusive_page_stays_exclusive(self, mirror, region):
        mirror.exclusive(region.fill(1))
        assert mirror.peek(region).matches(1)
        assert all(page.mapped_atomic for page in mirror.page_info(region))
        assert region.matches(1)

    @THP
    def test_any_page_of_a_huge_one(self, mirror):
        with Region.huge(1) as huge:
            mirror.migrate_to_device(huge.fill(1))
            for page in (0, 1, 63, 255, 511):
                assert mirror.peek(huge[page]).matches(1)


class TestPoke:
    def test_what_the_cpu_then_loads(self, still):
        one = still()
        one.mirror.write(one.memory, 1)
        before = one.mirror.counters()
        one.mirror.poke(one.memory, 2)
        assert quiet(one.mirror, before)
        assert one.load() == Data.pattern(one.memory, 2).word(0)

    def test_on_the_device(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        mirror.poke(region[3], 2)
        assert mirror.snapshot(region).picture() == "D" * 16
        assert region[:3].matches(1) and region[3].matches(2) and region[4:].matches(1)

    def test_nothing_is_enoent_and_says_where(self, mirror, region):
        mirror.write(region[:5], 1)
        with pytest.raises(MirrorError) as caught:
            mirror.poke(region, 2)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 5)
        assert region[:5].matches(2) and region[5:].zero()

    @pytest.mark.parametrize("what", ["read-only", "zero-page", "exclusive"])
    def test_what_the_device_may_not_write_is_eperm_and_says_where(self, mirror, region, what):
        region[:4].fill(1)
        mirror.write(region[:4], 1)
        if what != "zero-page":
            region[4:].fill(1)
        if what == "read-only":
            region[4:].protect(READ)
        if what == "exclusive":
            mirror.exclusive(region[4:])
        else:
            mirror.read(region[4:])
        with pytest.raises(MirrorError) as caught:
            mirror.poke(region, 2)
        assert (caught.value.errno, caught.value.pages) == (errno.EPERM, 4)
        region.protect(RW)
        assert region[:4].matches(2)
        assert region[4:].zero() if what == "zero-page" else region[4:].matches(1)


class TestPageInfo:
    """Which page the CPU has for an address, which one holds the data, and which one the device uses."""

    def test_a_page_that_is_nowhere(self, mirror, region):
        (page,) = mirror.page_info(region[0])
        assert (page.pfn, page.backing, page.mapped) == (0, 0, 0)
        assert not (page.valid or page.error)

    def test_system_memory(self, mirror, region):
        mirror.read(region[:8].fill(1))
        region[8:].fill(1)
        pages = mirror.page_info(region)
        assert all(page.valid and page.write and page.device is None for page in pages)
        assert all(page.mapped == page.backing == page.pfn != 0 for page in pages[:8])
        assert all(page.backing == page.pfn != 0 and page.mapped == 0 for page in pages[8:])
        assert len({page.pfn for page in pages}) == 16

    def test_the_zero_page(self, mirror, region):
        mirror.read(region)
        pages = mirror.page_info(region)
        assert all(page.zero and not page.write and not page.mapped_write for page in pages)
        assert len({page.pfn for page in pages} | {page.mapped for page in pages}) == 1

    def test_device_memory(self, mirror, region):
        """The core has the device page, which is no memory; what the device uses is the page behind it."""
        mirror.migrate_to_device(region.fill(1))
        pages = mirror.page_info(region)
        assert {page.device for page in pages} == {0}
        assert all(page.pfn != page.backing == page.mapped != 0 for page in pages)
        assert all(page.mapped_device and page.mapped_write for page in pages)
        for name in ("pfn", "backing", "index"):
            assert len({getattr(page, name) for page in pages}) == 16
        (first, second) = (page for page in pages[:2])
        assert second.pfn - first.pfn == second.index - first.index

    def test_device_memory_that_the_device_does_not_map(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        before = mirror.page_info(region)
        region.protect(READ)
        region.protect(RW)
        for page, was in zip(mirror.page_info(region), before, strict=True):
            assert (page.pfn, page.backing, page.mapped) == (was.pfn, was.backing, 0)

    def test_memory_of_another_device(self, mirror, mirror2, region):
        """Snapshots do not see it, until one asks as its owner."""
        mirror2.migrate_to_device(region.fill(1))
        assert {(page.valid, page.device) for page in mirror.page_info(region)} == {(False, None)}
        pages = mirror.walk(region, owner="other").pages
        assert {(page.valid, page.device, page.mapped) for page in pages} == {(True, 1, 0)}
        assert [page.index for page in pages] == [page.index for page in mirror2.page_info(region)]

    def test_coherent_memory(self, coherent):
        with Region.anonymous(4) as region:
            coherent.migrate_to_device(region.fill(1))
            pages = coherent.page_info(region)
            assert {page.device for page in pages} == {2}
            assert all(page.pfn == page.backing == page.mapped != 0 for page in pages)

    def test_an_exclusive_page(self, mirror, region):
        mirror.exclusive(region[3].fill(1))
        (page,) = mirror.page_info(region[3])
        assert not page.valid
        assert page.mapped and page.mapped_atomic and not page.mapped_write

    def test_what_cannot_be_mapped(self, mirror, region):
        region[3].unmap()
        assert [page.error for page in mirror.page_info(region[2:5])] == [False, True, False]

    def test_huge_pages(self, mirror):
        with Region.huge(1) as huge:
            mirror.read(huge.fill(1))
            pages = mirror.page_info(huge)
            assert {page.order for page in pages} == {9}
            assert [page.pfn for page in pages] == [page.mapped for page in pages]
            assert [page.pfn for page in pages] == list(range(pages[0].pfn, pages[0].pfn + HUGE_PAGES))

    @THP
    def test_huge_device_pages(self, mirror):
        with Region.huge(1) as huge:
            mirror.migrate_to_device(huge.fill(1))
            pages = mirror.page_info(huge)
            assert {page.order for page in pages} == {9}
            assert [page.index for page in pages] == list(range(pages[0].index, pages[0].index + HUGE_PAGES))
            assert all(page.mapped == page.backing for page in pages)

    def test_it_changes_nothing(self, still):
        one = still()
        one.mirror.read(one.memory[:8])
        before = one.mirror.counters()
        with one.mirror.events() as log:
            one.mirror.page_info(one.memory)
            assert log.read() == []
        assert quiet(one.mirror, before)
