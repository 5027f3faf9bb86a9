# SPDX-License-Identifier: GPL-2.0
"""Section 6: device memory as others see it, and who leaves it alone: reclaim, compaction, KSM, NUMA, swapoff."""

import ctypes
import errno
import mmap
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from facilities.disks import swap, swap_used
from facilities.machine import frames, mincore, setting, smaps, status
from facilities.syscalls import MPOL_BIND, MPOL_MF_MOVE, move_pages, syscall

from dmirror.memory import HUGE_PAGES, MADV_COLLAPSE, MADV_PAGEOUT, PAGE, Region
from dmirror.mirror import Mirror
from dmirror.process import PATIENCE, Child, in_child
from dmirror.running import release_matches

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")
MADV_COLD = 20  # uapi/asm-generic/mman-common.h


@pytest.fixture(params=["small", pytest.param("huge", marks=THP)])
def resident(request, mirror):
    """Memory on the device in a mapping of its own, filled with 1: sixteen pages, or a huge one."""
    with Region.huge(1) if request.param == "huge" else Region.anonymous(16, align=16 * PAGE) as memory:
        memory.advise(mmap.MADV_DONTDUMP)
        assert mirror.migrate(memory.fill(1)).moved == len(memory)
        mirror.write(memory, 1)
        yield memory


# -- what is said of it -----------------------------------------------------------------------------------------


@pytest.mark.contract("A-08")
def test_device_pages_are_resident_and_not_swapped_for_who_asks(mirror, resident):
    fields = smaps(resident)
    names = ("Rss", "Pss", "Anonymous", "Swap", "SwapPss", "Locked")
    assert [fields[name] for name in names] == [len(resident)] * 3 + [0] * 3
    assert mincore(resident) == [True] * len(resident)
    pages = mirror.page_info(resident)
    # Not present, in "swap", not of a file; of what type of swap is nobody's business, but which page it is.
    assert {word >> 61 for word in resident.pagemap()} == {0b010}
    assert [(word & (1 << 55) - 1) >> 5 for word in resident.pagemap()] == [page.pfn for page in pages]
    resident[1].touch()
    assert smaps(resident)["Rss"] == len(resident)
    assert mincore(resident) == [True] * len(resident)


NOT_SHARED = pytest.mark.xfail(
    release_matches(os.uname().release, ">=7.2"),
    strict=True,
    reason="smaps_pmd_entry() says present=false of a huge device-private entry, and smaps_account() then takes it for "
    "mapped once (7.3 fs/proc/task_mmu.c:1108)",
)


@pytest.mark.contract("A-08")
@pytest.mark.parametrize("huge", [False, pytest.param(True, marks=[THP, NOT_SHARED])], ids=["small", "huge"])
def test_a_device_page_that_two_processes_share_counts_half_for_each(mirror, huge):
    with Region.huge(1) if huge else Region.anonymous(16, align=16 * PAGE) as memory:
        memory.advise(mmap.MADV_DONTDUMP)
        assert mirror.migrate(memory.fill(1)).moved == len(memory)
        fields = smaps(memory)
        assert fields["Private_Clean"] + fields["Private_Dirty"] == len(memory)
        with Child(lambda line: line.receive()) as other:
            for pid in ("self", other.pid):
                fields = smaps(memory, pid)
                assert (fields["Rss"], fields["Pss"]) == (len(memory), len(memory) / 2)
                assert fields["Shared_Clean"] + fields["Shared_Dirty"] == len(memory)
            other.line.send()
            other.result()
            other.wait()
        assert smaps(memory)["Pss"] == len(memory)


@pytest.mark.contract("A-01")
@pytest.mark.parametrize("kind", ["small", "huge"])
def test_the_counts_of_a_process_are_even_when_it_ends(kind):
    """Whatever happened to its device pages: the kernel complains of an address space that goes with a count left."""

    def scenario(own, memory, other, evict):
        moved = own.migrate(memory).moved
        assert moved == len(memory)
        memory[:8].touch()
        own.migrate_to_system(memory[8:16])
        memory[16:24].advise(mmap.MADV_DONTNEED)
        own.migrate(memory[:32])
        memory[32:40].unmap()
        memory[40:48].move(other[:8])
        memory[48:56].protect(mmap.PROT_READ)
        own.migrate(memory[64:])

        def child():
            memory[80:96].fill(2)
            own_too = Mirror(0)
            own_too.migrate(memory[64:])
            own_too.write(memory[96:112], 3)
            memory[112:120].advise(mmap.MADV_DONTNEED)
            return memory[64:80].matches(1)

        assert in_child(child) is True
        memory[64:80].fill(4)
        own.migrate(memory[64:])
        if evict:
            own.release()
        return memory[64:80].matches(4) and memory[80:].matches(1) and memory[56:64].matches(1)

    def run():
        with Mirror(0) as own:
            results = []
            for evict in (False, True):
                memory = Region.huge(1) if kind == "huge" else Region.anonymous(256)
                other = Region.anonymous(8)
                results.append(scenario(own, memory.fill(1), other, evict))
            return results

    assert in_child(run) == [True, True]


@pytest.mark.contract("A-01")
@pytest.mark.parametrize("kind", ["small", "huge"])
def test_a_child_has_as_much_resident_as_its_parent(mirror, kind):
    npages = 8 * HUGE_PAGES
    with Region.huge(8) if kind == "huge" else Region.anonymous(npages) as memory:
        memory.fill(1)
        part = memory[: npages // 2]
        assert mirror.migrate(part).moved == len(part)

        def child(line):
            line.receive()
            part.advise(mmap.MADV_DONTNEED)
            line.send()
            line.receive()

        with Child(child) as other:
            slack = 300  # of counts that are kept by the processor until 6.17, and what Python uses
            assert abs(status("RssAnon", other.pid) - status("RssAnon")) <= slack
            before = status("RssAnon", other.pid), status("RssAnon")
            other.line.send()
            other.line.receive()
            assert abs(before[0] - status("RssAnon", other.pid) - len(part)) <= slack
            assert abs(before[1] - status("RssAnon")) <= slack
            other.line.send()


# -- who leaves it alone ----------------------------------------------------------------------------------------


def with_swap(advice):
    def act(memory):
        with swap():
            memory.advise(advice)
            assert swap_used() == 0

    return act


def ask_move_pages(memory):
    assert move_pages([memory[page].addr for page in range(len(memory))], None) == [-errno.ENOENT] * len(memory)


def do_move_pages(memory):
    for node in (1, 0):
        asked = [memory[page].addr for page in range(len(memory))]
        assert move_pages(asked, node) == [-errno.ENOENT] * len(memory)


def do_mbind(memory):
    for node in (1, 0):
        mask = ctypes.c_uint64(1 << node)
        syscall("mbind", memory.addr, memory.bytes, MPOL_BIND, mask, 64, MPOL_MF_MOVE)


KSM = "/sys/kernel/mm/ksm"


def scan_for_same_pages(memory):
    # Memory with the same content that KSM does merge, to know that it was there.
    with Region.anonymous(32) as twins:
        for page in range(32):
            twins[page].store(1)
        memory.advise(mmap.MADV_MERGEABLE)
        twins.advise(mmap.MADV_MERGEABLE)
        with setting(f"{KSM}/pages_to_scan", 10000), setting(f"{KSM}/sleep_millisecs", 0), setting(f"{KSM}/run", 1):
            scans = Path(KSM, "full_scans")
            wanted, ends = int(scans.read_text()) + 4, time.monotonic() + PATIENCE
            while int(scans.read_text()) < wanted:  # nothing tells of a scan
                assert time.monotonic() < ends
                time.sleep(0.01)
            assert len(set(frames(twins))) == 1
            Path(KSM, "run").write_text("2")  # unmerges
        memory.advise(mmap.MADV_UNMERGEABLE)


def lock_when_faulted(memory):
    syscall("mlock2", memory.addr, memory.bytes, 1)  # MLOCK_ONFAULT
    syscall("munlock", memory.addr, memory.bytes)


def ask(memory):
    for name in ("smaps", "smaps_rollup", "numa_maps", "maps", "statm"):
        Path("/proc/self", name).read_text()
    memory.pagemap()
    mincore(memory)


ALONE = {
    "pageout": with_swap(MADV_PAGEOUT),
    "cold": with_swap(MADV_COLD),
    "willneed": lambda memory: memory.advise(mmap.MADV_WILLNEED),
    "move_pages-asks": ask_move_pages,
    "move_pages": do_move_pages,
    "mbind": do_mbind,
    "ksm": scan_for_same_pages,
    "compaction": lambda memory: Path("/proc/sys/vm/compact_memory").write_text("1"),
    "mlock-onfault": lock_when_faulted,
    "proc": ask,
}


@pytest.mark.contract("A-09")
@pytest.mark.parametrize("who", ALONE)
def test_device_memory_is_left_alone(mirror, resident, who):
    before, places = mirror.counters(), mirror.page_info(resident)
    with mirror.events(buf=resident) as log:
        ALONE[who](resident)
        assert mirror.page_info(resident) == places
    assert [event for event in log.select(over=resident) if event.told] == []
    delta = mirror.counters() - before
    gone = (delta.dev_cpu_faults, delta.dev_pages_faulted, delta.dev_pages_evicted, delta.dev_pages_freed)
    assert gone == (0, 0, 0, 0) and delta.dev_pages_in_use == 0 and delta.dev_huge_split == 0
    # It is the device's still, to read and to write, without a fault.
    assert mirror.peek(resident).matches(1)
    assert mirror.write(resident, 2).faults == 0
    assert resident.matches(2)


# -- who does not -----------------------------------------------------------------------------------------------


@contextmanager
def small_pages(mirror, on_device):
    """A range for a huge page, of small ones: those of `on_device` are on the device. The device reads all of it."""
    with Region.anonymous(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
        memory.fill(1)
        for part in on_device:
            assert mirror.migrate(memory[part]).moved == len(memory[part])
        mirror.write(memory, 1)
        yield memory


def collapsed(mirror, memory, counted, pages):
    """The memory is one huge page of system memory; all its device pages came back."""
    assert {(page.where, page.order) for page in mirror.snapshot(memory)} == {("ram", "pmd")}
    delta = mirror.counters() - counted
    assert (delta.dev_pages_in_use, delta.dev_pages_freed, delta.dev_pages_faulted) == (-pages, pages, pages)
    assert mirror.read(memory).data.matches(1)
    mirror.write(memory[100:200], 2)
    assert memory[:100].matches(1) and memory[100:200].matches(2) and memory[200:].matches(1)


@pytest.mark.contract("A-10")
@pytest.mark.parametrize(
    ("parts", "pages"),
    [
        # Where none is present and writable: SCAN_PAGE_RO in 6.1 and 6.12 (6.1 mm/khugepaged.c:1284).
        pytest.param((slice(0, HUGE_PAGES),), HUGE_PAGES, marks=pytest.mark.needs(kernel=">=7.2")),
        ((slice(1, HUGE_PAGES),), HUGE_PAGES - 1),
        ((slice(3, 7), slice(100, 140)), 44),
    ],
    ids=["all", "all-but-one", "some"],
)
def test_collapse_on_demand_brings_device_pages_back(mirror, parts, pages):
    with small_pages(mirror, parts) as memory:
        before = mirror.counters()
        memory.advise(MADV_COLLAPSE)
        collapsed(mirror, memory, before, pages)


KHUGEPAGED = "/sys/kernel/mm/transparent_hugepage/khugepaged"


@contextmanager
def khugepaged():
    with (
        setting(f"{KHUGEPAGED}/pages_to_scan", 100000),
        setting(f"{KHUGEPAGED}/alloc_sleep_millisecs", 0),
        setting(f"{KHUGEPAGED}/scan_sleep_millisecs", 0),  # the last, for it wakes it
    ):
        yield


def full_scans(count):
    scans = Path(KHUGEPAGED, "full_scans")
    wanted, ends = int(scans.read_text()) + count, time.monotonic() + PATIENCE
    while int(scans.read_text()) < wanted:  # nothing tells of a scan
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.contract("A-10")
@pytest.mark.parametrize(("pages", "collapses"), [(64, True), (65, False)])
def test_khugepaged_brings_back_as_many_as_it_would_swap_in(mirror, pages, collapses):
    """max_ptes_swap of them: one more, and it leaves them where they are."""
    with setting(f"{KHUGEPAGED}/max_ptes_swap", 64), small_pages(mirror, [slice(0, pages)]) as memory:
        before = mirror.counters()
        memory.advise(mmap.MADV_HUGEPAGE)
        with khugepaged():
            full_scans(3)
        if collapses:
            collapsed(mirror, memory, before, pages)
        else:
            assert mirror.snapshot(memory).picture() == "D" * pages + "r" * (HUGE_PAGES - pages)
            assert (mirror.counters() - before).dev_cpu_faults == 0
            assert memory.matches(1)


@pytest.mark.contract("A-11")
@pytest.mark.contract("M-15")
def test_swapoff_brings_back_what_is_in_swap_and_nothing_else(mirror, resident, region):
    with swap():
        region.fill(3).advise(MADV_PAGEOUT)
        assert {word >> 62 for word in region.pagemap()} == {0b01} and swap_used() >= region.bytes
        before, places = mirror.counters(), mirror.page_info(resident)
        # Swap and device memory in one migration: what is in swap is no hole.
        migration = mirror.migrate(region)
        assert (migration.collected, migration.moved) == (0, 0)
        assert {word >> 62 for word in region.pagemap()} == {0b01}
    assert swap_used() == 0
    assert mirror.snapshot(region).where == ["ram"] * len(region)
    assert mirror.page_info(resident) == places
    delta = mirror.counters() - before
    assert (delta.dev_cpu_faults, delta.dev_pages_in_use) == (0, 0)
    assert mirror.peek(resident).matches(1)
    assert region.matches(3) and resident.matches(1)


@pytest.mark.contract("A-11")
def test_pages_of_one_range_come_back_from_swap_and_from_the_device(mirror, block):
    """Neighbours in one page table: in swap, on the device, in system memory, holes."""
    block[:12].fill(1)
    with swap():
        block[0:4].advise(MADV_PAGEOUT)
        mirror.migrate(block[4:8])
        assert mirror.snapshot(block).picture() == "....DDDDrrrr...."
        assert {word >> 62 for word in block[:8].pagemap()} == {0b01}
        # Read-ahead of swap may not take the device's pages for its own.
        assert block[0].matches(1)
        assert mirror.snapshot(block[4:8]).picture() == "DDDD"
    assert mirror.snapshot(block).picture() == "rrrrDDDDrrrr...."
    assert block[:12].matches(1) and block[12:].zero()
