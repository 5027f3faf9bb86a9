# SPDX-License-Identifier: GPL-2.0
"""Section 3 where migration meets reclaim: dirty pages, the swap cache, swapped-out pages, locked memory."""

import ctypes
import mmap
import os

import pytest
from facilities.disks import swap, swap_used
from facilities.kin import Offspring
from facilities.machine import frames, kpageflags, settle_lru, smaps, status, vmstat, vmstat_now

from dmirror.memory import HUGE_PAGES, MADV_PAGEOUT, PAGE, READ, RW, Region
from dmirror.mirror import Mirror
from dmirror.running import release_matches

pytestmark = pytest.mark.needs(capability="steer")
RELEASE = os.uname().release
THP = pytest.mark.needs(capability="device_thp")

# linux/kernel-page-flags.h
REFERENCED, DIRTY, SWAPCACHE, UNEVICTABLE = 1 << 2, 1 << 4, 1 << 13, 1 << 18
MADV_FREE = 8  # asm-generic/mman-common.h
BACK = ["touch", "to-system", "release"]


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16, align=16 * PAGE) if request.param == "small" else Region.huge(1) as region:
        yield region


def bring_back(mirror, memory, way):
    {"touch": memory.touch, "to-system": lambda: mirror.migrate_to_system(memory), "release": mirror.release}[way]()
    assert set(mirror.snapshot(memory).where) == {"ram"}


def flagged(memory, flag):
    """Whether each page frame has a flag; of a huge page, whether the first has it."""
    pages = memory[:1] if len(memory) == HUGE_PAGES else memory
    return [kpageflags(pfn) & flag != 0 for pfn in frames(pages)]


# -- dirty --------------------------------------------------------------------------------------------------------


@pytest.mark.contract("M-11")
@pytest.mark.contract("M-03")
@pytest.mark.parametrize("why", ["skipped", "referenced", "held"])
def test_a_page_that_stays_is_as_dirty_as_its_entry_said(mirror, memory, why):
    """Its data were free to go until the CPU stored again, of which only the entry knows."""
    memory.fill(1)
    memory.advise(MADV_FREE)
    settle_lru(memory)
    memory.fill(2)
    if why == "skipped":
        mirror.migrate(memory, skip=range(len(memory)))
    elif why == "referenced":
        mirror.migrate(memory, reference=range(len(memory)))
    else:
        with memory[:1].in_a_pipe():
            mirror.migrate(memory)
    memory[:1].touch() if mirror.snapshot(memory[:1]).where == ["local"] else None
    memory.advise(MADV_PAGEOUT)
    assert memory.matches(2)


@pytest.mark.contract("M-11")
@pytest.mark.parametrize("way", BACK)
def test_a_page_that_moved_is_as_dirty_as_its_entry_said(mirror, memory, way):
    memory.fill(1)
    memory.advise(MADV_FREE)
    settle_lru(memory)
    memory.fill(2)
    assert mirror.migrate(memory).moved == len(memory)
    bring_back(mirror, memory, way)
    assert all(flagged(memory, DIRTY))
    memory.advise(MADV_PAGEOUT)
    assert memory.matches(2)


@pytest.mark.contract("M-11")
def test_a_shared_page_that_another_process_moved_is_as_dirty_as_its_entry_said(mirror, memory):
    memory.fill(1)
    memory.advise(MADV_FREE)
    settle_lru(memory)
    memory.fill(2)
    with Offspring(memory) as child:
        assert child("to-device") == len(memory)
        assert child("to-system") == len(memory)
        child("advise", MADV_PAGEOUT)
        assert child("cpu-sees", 2)
        child.leave()
    memory.advise(MADV_PAGEOUT)
    assert memory.matches(2)


@pytest.mark.contract("M-11")
@pytest.mark.parametrize("way", ["to-system", "release", "close"])
def test_a_coherent_page_stored_to_in_place_is_dirty_when_it_is_back(coherent, way):
    with Region.anonymous(16) as memory, Mirror(coherent.device) as own:
        memory.fill(1)
        memory.advise(MADV_FREE)
        settle_lru(memory)
        assert own.migrate(memory).moved == 16
        memory.fill(2)
        if way == "close":
            own.close()
        elif way == "release":
            coherent.release()
        else:
            assert own.migrate_to_system(memory) == 16
        assert coherent.snapshot(memory).where == ["ram"] * 16
        memory.advise(MADV_PAGEOUT)
        assert memory.matches(2)


@pytest.mark.contract("M-12")
@pytest.mark.parametrize(
    "way",
    [
        "touch",
        "to-system",
        pytest.param(
            "release",
            marks=pytest.mark.xfail(
                release_matches(RELEASE, ">=6.12") and release_matches(RELEASE, "<7.2"),
                strict=True,
                reason="try_to_migrate_one() asks pte_dirty() of a device entry (6.12 mm/rmap.c:2449)",
            ),
        ),
    ],
)
def test_a_page_that_nobody_wrote_is_clean_when_it_is_back(mirror, memory, way):
    """The entry of a device page has no dirty bit, and what stands there is none."""
    assert mirror.migrate(memory).moved == len(memory)
    bring_back(mirror, memory, way)
    assert not any(flagged(memory, DIRTY))
    memory.fill(2)
    assert memory.matches(2)


@pytest.mark.contract("M-12")
@pytest.mark.parametrize("way", ["touch", "to-system"])
def test_what_the_device_wrote_elsewhere_makes_no_page_dirty(mirror, memory, way):
    """What it wrote to is free, and in use again."""
    with Region.anonymous(16) as before:
        assert mirror.migrate(before).moved == 16
        mirror.write(before, 1)
    assert mirror.migrate(memory).moved == len(memory)
    bring_back(mirror, memory, way)
    assert not any(flagged(memory, DIRTY))


@pytest.mark.contract("M-12")
def test_what_was_looked_at_elsewhere_makes_no_page_young(mirror, memory):
    """What the process looked at was unmapped on the device, whose page is free, and in use again."""
    with Region.anonymous(16) as before:
        with before.fill(1).in_a_pipe():
            assert all(flagged(before, REFERENCED))
        assert mirror.migrate(before).moved == 16
    memory.advise(mmap.MADV_DONTDUMP)  # a mapping of its own
    mirror.migrate(memory)
    mirror.migrate_to_system(memory)
    assert not any(flagged(memory, REFERENCED))
    assert smaps(memory)["Referenced"] == 0


@pytest.mark.contract("M-12")
def test_a_page_that_nobody_looked_at_is_not_young_when_it_is_back(mirror, memory):
    memory.advise(mmap.MADV_DONTDUMP)  # a mapping of its own
    mirror.migrate(memory)
    mirror.migrate_to_system(memory)
    assert smaps(memory)["Referenced"] == 0


# -- the swap cache -----------------------------------------------------------------------------------------------


@pytest.fixture
def swapped_in(region):
    """Sixteen pages that were read from swap: clean, and still with a place there."""
    with swap():
        region.fill(1).advise(MADV_PAGEOUT)
        assert frames(region) == [None] * 16 and in_swap(region)
        region.touch()
        assert all(flagged(region, SWAPCACHE)) and in_swap(region)
        yield region
        region.advise(mmap.MADV_DONTNEED)
    assert swap_used() == 0


CACHED = 2 * 2 * 64 * PAGE if release_matches(RELEASE, "<6.15") else 0
"""Bytes of swap that two processors may have in stock, to give out and given back (SWAP_SLOTS_CACHE_SIZE)."""


def in_swap(span):
    """That swap holds the span and nothing else."""
    return span.bytes <= swap_used() <= span.bytes + CACHED


MOVES = release_matches(RELEASE, ">=7.2")


@pytest.mark.contract("M-14")
@pytest.mark.parametrize("way", BACK)
def test_a_page_of_the_swap_cache_leaves_it_or_stays_as_a_whole(mirror, swapped_in, way):
    before = mirror.counters()
    moved = mirror.migrate(swapped_in).moved
    assert moved == 16 if MOVES else moved in (0, 16)
    delta = mirror.counters() - before
    assert delta.dev_pages_in_use == moved
    assert mirror.snapshot(swapped_in).picture() == ("D" if moved else "r") * 16
    # Its place in swap is free when it is on the device: what is there is old.
    assert in_swap(swapped_in[:0] if moved else swapped_in)
    mirror.write(swapped_in, 2)
    bring_back(mirror, swapped_in, way)
    assert swapped_in.matches(2)
    swapped_in.advise(MADV_PAGEOUT)
    assert in_swap(swapped_in)
    assert swapped_in.matches(2) and mirror.read(swapped_in).data.matches(2)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed


@pytest.mark.contract("M-14")
@pytest.mark.contract("M-04")
def test_a_page_of_the_swap_cache_that_is_skipped_is_as_it_was(mirror, swapped_in):
    before = frames(swapped_in)
    assert mirror.migrate(swapped_in, skip=range(16)).moved == 0
    assert frames(swapped_in) == before
    assert swapped_in.matches(1)
    swapped_in.advise(MADV_PAGEOUT)
    assert swapped_in.matches(1)


@pytest.mark.contract("M-14")
@pytest.mark.contract("M-05")
def test_a_page_whose_place_in_swap_is_anothers_too_stays(mirror, region):
    with swap():
        region.fill(1).advise(MADV_PAGEOUT)
        with Offspring(region) as child:
            region.touch()
            before, counted = frames(region), mirror.counters()
            migration = mirror.migrate(region)
            assert migration.moved == 0
            assert not any(words.final.migrate for words in migration.words)
            assert frames(region) == before
            delta = mirror.counters() - counted
            assert delta.dev_pages_allocated == delta.dev_pages_freed and delta.dev_pages_in_use == 0
            region.fill(2)
            assert child("cpu-sees", 1)
            child("cpu", 3)
            assert region.matches(2)
            child.leave()
        # Nobody else has it any more.
        assert mirror.migrate(region).moved == 16
        assert region.matches(2)
        region.advise(mmap.MADV_DONTNEED)
        assert in_swap(region[:0])


@pytest.mark.contract("M-15")
@pytest.mark.contract("M-09")
@pytest.mark.parametrize("to", ["device", "system"])
def test_what_is_in_swap_is_neither_a_page_nor_a_hole(mirror, region, to):
    with swap():
        region.fill(1).advise(MADV_PAGEOUT)
        before, read = region.pagemap(), vmstat("pswpin")
        migration = mirror.migrate(region, to=to)
        assert (migration.collected, migration.moved) == (0, 0)
        assert {words.setup for words in migration.words} == {0}
        assert region.pagemap() == before and vmstat("pswpin") == read
        assert in_swap(region)
        assert region.matches(1)
        region.advise(mmap.MADV_DONTNEED)


@pytest.mark.contract("M-15")
def test_what_is_in_swap_between_pages_and_holes_stays_there_alone(mirror, block):
    with swap():
        block[4:8].fill(1).advise(MADV_PAGEOUT)
        block[8:].fill(1)
        migration = mirror.migrate(block)
        assert [words.setup.migrate for words in migration.words] == [True] * 4 + [False] * 4 + [True] * 8
        assert migration.moved == 12
        assert mirror.snapshot(block).picture() == "DDDD....DDDDDDDD"
        assert in_swap(block[4:8])
        # The device's own fault brings it in.
        assert mirror.read(block[4:8]).data.matches(1)
        assert block[4:].matches(1) and not block.load()
        block.advise(mmap.MADV_DONTNEED)


@pytest.mark.contract("M-03")
@pytest.mark.contract("M-05")
@pytest.mark.parametrize("why", ["skipped", "referenced", "held", "exclusive"])
def test_a_page_that_stayed_goes_to_swap_as_any_other(mirror, region, why):
    """It is on its LRU list again, and nothing holds it."""
    with swap():
        region.fill(1)
        if why == "skipped":
            assert mirror.migrate(region, skip=range(16)).moved == 0
        elif why == "referenced":
            assert mirror.migrate(region, reference=range(16)).moved == 0
        elif why == "held":
            with region.in_a_pipe():
                assert mirror.migrate(region).moved == 0
        else:
            mirror.make_exclusive(region)
            region.touch()
        settle_lru(region)
        region.advise(MADV_PAGEOUT)
        assert in_swap(region)
        assert frames(region) == [None] * 16
        assert region.matches(1)
        region.advise(mmap.MADV_DONTNEED)


@pytest.mark.contract("A-09")
@pytest.mark.contract("M-14")
@pytest.mark.parametrize("way", BACK)
def test_a_page_that_came_back_goes_to_swap_as_any_other(mirror, region, way):
    with swap():
        mirror.migrate(region.fill(1))
        region.advise(MADV_PAGEOUT)
        assert in_swap(region[:0]) and mirror.snapshot(region).picture() == "D" * 16
        mirror.write(region, 2)
        bring_back(mirror, region, way)
        region.advise(MADV_PAGEOUT)
        assert in_swap(region)
        assert mirror.read(region).data.matches(2) and region.matches(2)
        region.advise(mmap.MADV_DONTNEED)


# -- locked memory ------------------------------------------------------------------------------------------------


@pytest.mark.contract("M-07")
@pytest.mark.contract("A-01")
@pytest.mark.parametrize("way", BACK)
def test_locked_memory_is_locked_when_it_is_back_and_counted_once(mirror, memory, way):
    libc = ctypes.CDLL(None, use_errno=True)
    before, locked = vmstat_now("nr_mlock"), status("VmLck")
    memory.advise(mmap.MADV_DONTDUMP)  # a mapping of its own
    memory.fill(1)
    assert libc.mlock(ctypes.c_void_p(memory.addr), ctypes.c_size_t(memory.bytes)) == 0
    try:
        for _ in range(3):
            assert mirror.migrate(memory).moved == len(memory)
            assert status("VmLck") == locked + len(memory)
            bring_back(mirror, memory, way)
            assert smaps(memory)["Locked"] == len(memory)
        with pytest.raises(OSError):
            memory.advise(MADV_PAGEOUT)
        memory.protect(READ)
        memory.protect(RW)
        assert memory.matches(1)
    finally:
        assert libc.munlock(ctypes.c_void_p(memory.addr), ctypes.c_size_t(memory.bytes)) == 0
    assert status("VmLck") == locked
    settle_lru(memory)
    memory.advise(mmap.MADV_DONTNEED)
    assert vmstat_now("nr_mlock") <= before
