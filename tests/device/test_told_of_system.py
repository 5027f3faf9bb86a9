# SPDX-License-Identifier: GPL-2.0
"""Section 8: what the kernel does to pages by itself or for all: reclaim, migration, merging, collapse, poison."""

import ctypes
import errno
import mmap
import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from facilities.disks import swap
from facilities.ksm import MADV_MERGEABLE, MADV_UNMERGEABLE, merging, wait_merged
from facilities.machine import frames, kpageflags, mapcounts, setting, settle_lru, smaps, status, vmstat
from facilities.poison import MADV_HWPOISON, MADV_SOFT_OFFLINE, mended, poisoned
from facilities.syscalls import MPOL_BIND, MPOL_MF_MOVE, move_pages, syscall
from facilities.told import Mapped, alone, blank, covers, entries, logs, mapped, reads_zero, refused, same, stale, told

from dmirror.events import CLEAR, PROTECTION_VMA
from dmirror.memory import HUGE_PAGES, MADV_COLLAPSE, MADV_PAGEOUT, PAGE, READ, RW, Region, Span
from dmirror.mirror import Mirror
from dmirror.process import PATIENCE, Child, in_child
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

MADV_FREE = 8  # asm-generic/mman-common.h
MPOL_MF_MOVE_ALL = 4  # linux/mempolicy.h
MLOCKED = 1 << 33  # KPF_MLOCKED, linux/kernel-page-flags.h
ACCESSES = pytest.mark.parametrize("access", ["read", "write"])
SWAP_TYPES = 5  # MAX_SWAPFILES_SHIFT, linux/swap.h
THP = Path("/sys/kernel/mm/transparent_hugepage")


def split(span, pid=None):
    """Split the huge pages of a process in a span (mm/huge_memory.c, split_huge_pages_write)."""
    Path("/sys/kernel/debug/split_huge_pages").write_text(f"{pid or os.getpid()},{span.addr:#x},{span.end:#x}")


def nodes(span):
    """The node of each page."""
    return move_pages([span[page].addr for page in range(len(span))], None)


def move(span, node):
    """move_pages(2)."""
    assert move_pages([span[page].addr for page in range(len(span))], node) == [node] * len(span)


@contextmanager
def pages_that_may_collapse(mirrors, access):
    """Small pages, filled with seed 1, where a huge one may be; nobody asked khugepaged to look at them."""
    with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
        some = Mapped(memory.fill(1), mirrors)
        some.access(access)
        yield some


class TestReclaim:
    @ACCESSES
    @pytest.mark.contract("I-09")
    def test_a_page_that_goes_to_swap_is_announced(self, mirror, mirror2, access):
        with swap(), mapped("ram", access, [mirror, mirror2]) as some:
            memory = some.memory
            settle_lru(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                memory[4:8].advise(MADV_PAGEOUT)
                assert some.entries() == [[page for page in range(16) if page not in range(4, 8)]] * 2
                events = [(CLEAR, page, page + 1) for page in range(4, 8)]
                assert [sorted(told(log, memory)) for log in started] == [events] * 2
            assert frames(memory[4:8]) == [None] * 4
            assert smaps(memory)["Swap"] == 4
            assert mirror.read(memory).data.matches(1) and mirror2.read(memory).data.matches(1)
            assert some.same() and some.writes(memory, 5)

    @pytest.mark.contract("I-09")
    def test_what_a_device_wrote_goes_to_swap_and_comes_back(self, mirror, mirror2):
        with swap(), mapped("ram", "write", [mirror, mirror2]) as some:
            for seed in (2, 3, 4):
                mirror.write(some.memory, seed)
                settle_lru(some.memory)
                some.memory.advise(MADV_PAGEOUT)
                assert some.entries() == [[], []]
                assert frames(some.memory) == [None] * 16
                assert mirror2.read(some.memory).data.matches(seed)
                assert some.memory.matches(seed)

    @ACCESSES
    @pytest.mark.contract("I-09")
    def test_a_huge_page_that_is_reclaimed_is_announced(self, mirror, mirror2, access):
        with swap(), mapped("huge", access, [mirror, mirror2]) as some:
            memory = some.memory
            settle_lru(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                memory.advise(MADV_PAGEOUT)
                assert some.entries() == [[], []]
                assert all(covers(told(log, memory), CLEAR, 0, HUGE_PAGES) for log in started)
            assert frames(memory) == [None] * HUGE_PAGES
            assert some.same() and memory.matches(1) and some.writes(memory, 5)

    @ACCESSES
    @pytest.mark.contract("I-09")
    def test_shared_memory_that_goes_to_swap_is_announced(self, mirror, mirror2, access):
        with swap(), Region.memfd(16) as memory:
            some = Mapped(memory.fill(1), [mirror, mirror2])
            some.access(access)
            settle_lru(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                memory[4:8].advise(MADV_PAGEOUT)
                assert some.entries() == [[page for page in range(16) if page not in range(4, 8)]] * 2
                events = [(CLEAR, page, page + 1) for page in range(4, 8)]
                assert [sorted(told(log, memory)) for log in started] == [events] * 2
            assert smaps(memory)["Swap"] == 4
            assert some.same() and memory.matches(1) and some.writes(memory, 5)

    @pytest.mark.contract("I-09")
    @pytest.mark.contract("I-03")
    def test_a_clean_page_that_is_discarded_is_announced(self, mirror, mirror2):
        with mapped("ram", "write", [mirror, mirror2]) as some:
            settle_lru(some.memory)
            some.memory.advise(MADV_FREE)
            settle_lru(some.memory)
            some.access("read")
            with logs(mirror, mirror2, buf=some.memory) as started:
                some.memory[4:8].advise(MADV_PAGEOUT)
                assert some.entries() == [[page for page in range(16) if page not in range(4, 8)]] * 2
                events = [(CLEAR, page, page + 1) for page in range(4, 8)]
                assert [sorted(told(log, some.memory)) for log in started] == [events] * 2
            assert reads_zero(mirror, some.memory[4:8]) and reads_zero(mirror2, some.memory[4:8])
            assert some.same() and blank(some.memory[4:8]) and some.writes(some.memory, 5)


class TestMigration:
    @ACCESSES
    @pytest.mark.contract("I-10")
    @pytest.mark.parametrize("kind", ["ram", "huge"])
    def test_pages_that_move_to_another_node_are_announced(self, mirror, mirror2, kind, access):
        with mapped(kind, access, [mirror, mirror2]) as some:
            memory = some.memory
            (here,) = set(nodes(memory[:1]))
            if kind == "ram":
                move(memory, here)
                some.access(access)
            before = frames(memory)
            part = memory[4:8] if kind == "ram" else memory
            first, last = part.first - memory.first, part.first - memory.first + len(part)
            with logs(mirror, mirror2, buf=memory) as started:
                move(part if kind == "ram" else part[0], 1 - here)
                assert some.entries() == [[page for page in range(len(memory)) if page not in range(first, last)]] * 2
                events = [(CLEAR, page, page + 1) for page in range(4, 8)] if kind == "ram" else [(CLEAR, 0, 512)]
                assert [told(log, memory) for log in started] == [events] * 2
            after = frames(memory)
            assert [page for page in range(len(memory)) if after[page] != before[page]] == list(range(first, last))
            assert some.same() and memory.matches(1) and some.writes(memory, 5)

    @ACCESSES
    @pytest.mark.contract("I-10")
    def test_shared_pages_that_move_are_announced_in_every_mapping(self, mirror, mirror2, access):
        fd = os.memfd_create("dmirror")
        os.ftruncate(fd, 16 * PAGE)
        with Region.of_file(fd, 16) as memory, Region.of_file(fd, 16) as again:
            memory.fill(1)
            both = [Mapped(span, [mirror, mirror2]) for span in (memory, again)]
            for some in both:
                some.access(access)
            here = nodes(memory)[4]
            with logs(mirror, mirror2, memory=memory, again=again) as started:
                assert move_pages([memory[4].addr], 1 - here) in ([1 - here], [-errno.EACCES])
                moved = nodes(memory[4]) == [1 - here]
                events = [(CLEAR, 4, 5)] if moved else []
                left = [page for page in range(16) if not (moved and page == 4)]
                for some in both:
                    assert some.entries() == [left] * 2
                    assert [told(log, some.memory) for log in started] == [events] * 2
            assert all(some.same() for some in both) and again.matches(1) and both[0].writes(memory, 5)
            assert again.matches(6)
        os.close(fd)

    @ACCESSES
    @pytest.mark.contract("I-10")
    def test_pages_that_are_bound_to_another_node_are_announced(self, mirror, mirror2, access):
        with mapped("ram", access, [mirror, mirror2]) as some:
            memory = some.memory
            move(memory, 0)
            some.access(access)
            with logs(mirror, mirror2, buf=memory) as started:
                syscall("mbind", memory.addr, memory.bytes, MPOL_BIND, bytes([2, *[0] * 7]), 64, MPOL_MF_MOVE)
                assert some.entries() == [[], []]
                assert [told(log, memory) for log in started] == [[(CLEAR, page, page + 1) for page in range(16)]] * 2
            assert nodes(memory) == [1] * 16
            assert some.same() and memory.matches(1) and some.writes(memory, 5)

    @pytest.mark.contract("I-10")
    @pytest.mark.contract("I-07")
    @pytest.mark.parametrize("kind", ["ram", "huge"])
    def test_pages_that_two_processes_share_are_announced_in_both(self, mirror, mirror2, kind):
        with mapped(kind, "write", [mirror, mirror2]) as some:
            memory = some.memory
            move(memory[:1] if kind == "huge" else memory, 0)

            def child(line):
                with Mirror(0) as own, own.events(buf=memory) as log:
                    own.read(memory)
                    line.send()
                    line.receive()
                    return entries(own, memory), told(log, memory), same(own, memory) and memory.matches(1)

            with Child(child) as other:
                other.line.receive()
                some.access("read")
                mask = bytes([2, *[0] * 7])
                events = [(CLEAR, 0, HUGE_PAGES)] if kind == "huge" else [(CLEAR, page, page + 1) for page in range(16)]
                some.expect(
                    lambda: syscall("mbind", memory.addr, memory.bytes, MPOL_BIND, mask, 64, MPOL_MF_MOVE_ALL),
                    events,
                    range(len(memory)),
                )
                assert set(nodes(memory)) == {1}
                other.line.send()
                assert other.result() == ([], events, True)
            assert some.same() and memory.matches(1)

    @pytest.mark.contract("I-10")
    def test_compaction_never_leaves_a_device_with_a_page_that_moved(self, mirror, mirror2):
        """Which pages it moves is its own affair."""
        with Region.anonymous(2048) as memory:
            memory.fill(1)
            # Holes, so that there is something to compact.
            for page in range(0, 2048, 2):
                memory[page].advise(mmap.MADV_DONTNEED)
            spans = [memory[page] for page in range(1, 257, 2)]
            for span in spans:
                mirror.write(span, 1)
                mirror2.read(span)
            before = [frames(span) for span in spans]
            Path("/proc/sys/vm/compact_memory").write_text("1")
            for span, old in zip(spans, before, strict=True):
                assert stale(mirror, span) == stale(mirror2, span) == []
                if frames(span) != old:
                    assert entries(mirror, span) == entries(mirror2, span) == []
                mirror.write(span, 3)
                assert mirror2.read(span).data.matches(3) and span.matches(3)


class TestLocked:
    @pytest.mark.contract("I-21")
    def test_locked_pages_migrate_and_are_locked_when_they_are_back(self, mirror, mirror2):
        libc = ctypes.CDLL(None)
        with mapped("ram", "write", [mirror, mirror2]) as some:
            memory = some.memory
            assert libc.mlock(ctypes.c_void_p(memory.addr), ctypes.c_size_t(memory.bytes)) == 0
            assert all(kpageflags(pfn) & MLOCKED for pfn in frames(memory))
            locked = status("VmLck")
            assert mirror.migrate(memory).moved == 16
            assert (status("VmLck"), smaps(memory)["Locked"]) == (locked, 16)
            assert mirror2.read(memory).data.matches(1)
            assert memory.matches(1)
            assert all(kpageflags(pfn) & MLOCKED for pfn in frames(memory))
            assert (status("VmLck"), smaps(memory)["Locked"]) == (locked, 16)
            assert some.same() and some.writes(memory, 5)
            assert libc.munlock(ctypes.c_void_p(memory.addr), ctypes.c_size_t(memory.bytes)) == 0
            assert not any(kpageflags(pfn) & MLOCKED for pfn in frames(memory))


class TestMerging:
    @contextmanager
    def merged(self, mirrors, access, npages=4):
        """Pages of equal content, and each mirror's log from before they are merged on."""
        with alone(npages) as memory:
            pages = [Span(memory[page].addr, 1) for page in range(npages)]
            for page in pages:
                page.fill(1)
            for mirror in mirrors:
                for page in pages:
                    mirror.write(page, 1) if access == "write" else mirror.read(page)
            with logs(*mirrors, buf=memory) as started, merging():
                memory.advise(MADV_MERGEABLE)
                wait_merged(memory)
                yield memory, pages, started

    @ACCESSES
    @pytest.mark.contract("I-11")
    def test_pages_that_are_merged_are_announced_twice(self, mirror, mirror2, access):
        """Once before a page is write-protected, for its content may not change; once before it is replaced.

        The one that the others are replaced by is write-protected only.
        """
        with self.merged([mirror, mirror2], access) as (memory, pages, started):
            assert [entries(each, memory) for each in (mirror, mirror2)] == [[], []]
            for log in started:
                events = told(log, memory)
                assert covers(events, CLEAR, 0, 4)
                times = sorted(events.count((CLEAR, page, page + 1)) for page in range(4))
                assert len(events) == sum(times) and times == [1, 2, 2, 2], log.table()
            assert mapcounts(frames(memory)[:1]) == [4]
            some = Mapped(memory, [mirror, mirror2])
            assert some.same()
            assert not any(page.mapped_write for page in mirror.page_info(memory))
            assert refused(mirror.poke, pages[1], 2) is not None

    @pytest.mark.contract("I-11")
    @pytest.mark.parametrize("writer", ["cpu", "device", "other-device"])
    def test_who_writes_to_a_merged_page_gets_a_copy(self, mirror, mirror2, writer):
        with self.merged([mirror, mirror2], "write") as (memory, pages, _):
            some = Mapped(memory, [mirror, mirror2])
            for each in some.mirrors:
                each.read(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                if writer == "cpu":
                    pages[1].fill(7)
                else:
                    (mirror if writer == "device" else mirror2).write(pages[1], 7)
                assert [told(log, memory)[:1] for log in started] == [[(CLEAR, 1, 2)]] * 2
            assert pages[1].matches(7) and all(pages[page].matches(1) for page in (0, 2, 3))
            assert stale(mirror, memory) == stale(mirror2, memory) == []
            for each in some.mirrors:
                assert each.read(pages[1]).data.matches(7)
                assert all(each.read(pages[page]).data.matches(1) for page in (0, 2, 3))

    @pytest.mark.contract("I-11")
    def test_pages_that_are_separated_are_announced(self, mirror, mirror2):
        with self.merged([mirror, mirror2], "read") as (memory, _, _):
            some = Mapped(memory, [mirror, mirror2])
            for each in some.mirrors:
                each.read(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                memory.advise(MADV_UNMERGEABLE)
                assert some.entries() == [[], []]
                assert all(covers(told(log, memory), CLEAR, 0, 4) for log in started)
            assert len(set(frames(memory))) == 4
            assert some.same() and some.writes(memory, 5)


class TestCollapse:
    @ACCESSES
    @pytest.mark.contract("I-12")
    def test_small_pages_that_become_a_huge_one_are_announced(self, mirror, mirror2, access):
        with pages_that_may_collapse([mirror, mirror2], access) as some:
            some.expect(lambda: some.memory.advise(MADV_COLLAPSE), [(CLEAR, 0, HUGE_PAGES)], range(HUGE_PAGES))
            assert {page.order for page in mirror.page_info(some.memory)} == {9}
            assert some.same() and some.memory.matches(1) and some.writes(some.memory, 5)

    @pytest.mark.contract("I-12")
    def test_khugepaged_announces_a_collapse(self, mirror, mirror2):
        with (
            setting(THP / "khugepaged/scan_sleep_millisecs", 1),
            setting(THP / "khugepaged/alloc_sleep_millisecs", 1),
            setting(THP / "khugepaged/pages_to_scan", 1 << 20),
            pages_that_may_collapse([mirror, mirror2], "write") as some,
        ):
            memory = some.memory
            with logs(mirror, mirror2, buf=memory) as started:
                memory.advise(mmap.MADV_HUGEPAGE)
                for log in started:
                    log.wait_for(CLEAR, memory)
                    assert told(log, memory) == [(CLEAR, 0, HUGE_PAGES)]
            assert some.entries() == [[], []]
            # The event comes before the huge page: what reads now waits for it.
            assert some.same() and memory.matches(1)
            assert {page.order for page in mirror.page_info(memory)} == {9}
            assert some.writes(memory, 5)

    @pytest.mark.parametrize("access", ["write"])
    @pytest.mark.needs(kernel=">=6.2")  # until then MADV_COLLAPSE takes no shared memory
    @pytest.mark.contract("I-13")
    def test_shared_memory_that_becomes_huge_is_announced_in_every_mapping(self, mirror, mirror2, access):
        """The page tables of all mappings are taken away, not only those of the caller's."""
        size = HUGE_PAGES * PAGE
        fd = os.memfd_create("dmirror")
        os.ftruncate(fd, size)
        with (
            Region._map(HUGE_PAGES, RW, mmap.MAP_SHARED, fd, align=size) as memory,
            Region._map(HUGE_PAGES, RW, mmap.MAP_SHARED, fd, align=size) as again,
        ):
            memory.fill(1)
            both = [Mapped(span, [mirror, mirror2]) for span in (memory, again)]
            for some in both:
                some.access(access)
            with logs(mirror, mirror2, memory=memory, again=again) as started:
                memory.advise(MADV_COLLAPSE)
                for some in both:
                    assert some.entries() == [[], []]
                    for log in started:
                        events = told(log, some.memory)
                        assert (CLEAR, 0, HUGE_PAGES) in events
                        assert covers(events, CLEAR, 0, HUGE_PAGES)
            for some in both:
                assert some.same() and some.memory.matches(1)
            assert both[0].writes(memory, 5) and again.matches(6)
        os.close(fd)

    @ACCESSES
    @pytest.mark.needs(kernel=">=6.12")
    @pytest.mark.contract("I-13")
    def test_a_huge_page_of_a_file_that_is_mapped_in_parts_is_announced_when_it_is_mapped_whole(
        self, mirror, mirror2, access
    ):
        """The page cache has it huge already: nothing but the page table changes."""
        size = HUGE_PAGES * PAGE
        fd = os.memfd_create("dmirror")
        os.ftruncate(fd, size)
        with Region._map(HUGE_PAGES, RW, mmap.MAP_SHARED, fd, align=size) as memory:
            memory.fill(1).advise(MADV_COLLAPSE)
            # While it is two mappings, neither of which covers it, it is faulted in by small entries.
            memory[:8].protect(READ)
            memory.touch()
            memory.protect(RW)
            some = Mapped(memory, [mirror, mirror2])
            some.access(access)
            assert {page.order for page in mirror.page_info(memory)} == {0}
            with logs(mirror, mirror2, memory=memory) as started:
                memory.advise(MADV_COLLAPSE)
                assert some.entries() == [[], []]
                for log in started:
                    assert told(log, memory) == [(CLEAR, 0, HUGE_PAGES)]
            assert some.same() and memory.matches(1)
            assert {page.order for page in mirror.page_info(memory)} == {9}
        os.close(fd)


class TestSplit:
    @ACCESSES
    @pytest.mark.contract("I-14")
    @pytest.mark.contract("H-13")
    def test_a_huge_page_that_is_split_is_announced(self, mirror, mirror2, access):
        with mapped("huge", access, [mirror, mirror2]) as some:
            memory = some.memory
            assert {page.order for page in mirror.page_info(memory)} == {9}
            settle_lru(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                split(memory)
                assert some.entries() == [[], []]
                for log in started:
                    events = told(log, memory)
                    assert events and set(events) == {(CLEAR, 0, HUGE_PAGES)}
            assert {page.order for page in mirror.page_info(memory)} == {0}
            assert some.same() and memory.matches(1) and some.writes(memory, 5)


class TestHinting:
    """NUMA balancing makes pages inaccessible to see who uses them, on a machine of two nodes."""

    @pytest.fixture
    def fast(self):
        """Scans follow each other as fast as they can; a process takes that over when it is made.

        Before 6.15 that takes CONFIG_SCHED_DEBUG; without it, it begins after a second.
        """
        debug = Path("/sys/kernel/debug/sched/numa_balancing")
        with ExitStack() as stack:
            if debug.exists():
                for name, value in (("scan_delay_ms", 1), ("scan_period_min_ms", 1), ("scan_period_max_ms", 2)):
                    stack.enter_context(setting(debug / name, value))
            yield

    @contextmanager
    def hinted(self, mirrors, kind):
        """When pages of this process have been made inaccessible: the memory, and a log for each mirror."""
        with mapped(kind, "write", mirrors) as some, logs(*mirrors, buf=some.memory) as started:
            with setting("/proc/sys/kernel/numa_balancing", 1):
                # Only who runs is scanned, on the way back from an interrupt.
                ends = time.monotonic() + PATIENCE / 2
                while not started[0].select(PROTECTION_VMA, over=some.memory):
                    assert time.monotonic() < ends, (vmstat("numa_pte_updates"), started[0].table())
                    sum(range(20000))
                    started[0].read()
            yield some, started

    def resolves(self, some, started):
        first, memory = some.mirrors[0], some.memory
        whole = list(range(len(memory)))
        for log in started:
            assert told(log, memory)[0] == (PROTECTION_VMA, 0, len(memory))
        assert some.entries() == [[], []]
        assert not any(page.valid or page.error for page in first.page_info(memory))
        hinted = vmstat("numa_hint_faults")
        assert all(each.read(memory).data.matches(1) for each in some.mirrors)
        assert vmstat("numa_hint_faults") > hinted
        assert some.entries() == [whole, whole]
        assert some.same() and memory.matches(1) and some.writes(memory, 5)

    @pytest.mark.contract("I-19")
    @pytest.mark.contract("H-16")
    @pytest.mark.parametrize("kind", ["ram", "huge"])
    def test_pages_with_a_hint_are_announced_and_a_device_fault_resolves_it(self, mirror, fast, kind):
        def run():
            # Memory of a process of one thread would be left alone where that thread runs.
            waiting = threading.Event()
            with Task(waiting.wait), ExitStack() as stack:
                stack.callback(waiting.set)
                mirrors = [stack.enter_context(Mirror(device)) for device in (0, 1)]
                some, started = stack.enter_context(self.hinted(mirrors, kind))
                self.resolves(some, started)
            return True

        assert in_child(run)


class TestPoison:
    """Pages that are broken, or about to be: the kernel takes them from whoever has them."""

    def in_child(self, kind, run):
        """run(mapped memory) in a process of its own, which gives the page frames that are to be mended."""

        def child():
            with Mirror(0) as first, Mirror(1) as second, mapped(kind, "write", [first, second]) as some:
                return run(some)

        with mended() as broken:
            broken.extend(in_child(child))
            assert broken

    @pytest.mark.contract("I-20")
    @pytest.mark.contract("H-06")
    @pytest.mark.parametrize("kind", ["ram", "device"])
    def test_a_broken_page_is_announced_and_kept_from_the_device(self, mirror, kind):
        def run(some):
            memory = some.memory
            pfn = frames(memory)[3]
            with logs(*some.mirrors, buf=memory) as started:
                signal.signal(signal.SIGBUS, lambda *_: None)  # some kernels send it to who calls
                memory[3].advise(MADV_HWPOISON)
                assert entries(some.mirrors[0], memory) == [page for page in range(16) if page != 3]
                for log in started:
                    log.expect(CLEAR, memory[3], watch=0)
                    if kind == "ram":
                        assert told(log, memory) == [(CLEAR, 3, 4)]
            for each in some.mirrors:
                assert refused(each.read, memory) == (errno.EFAULT, 3)
                assert refused(each.write, memory[3], 2) == (errno.EFAULT, 0)
                assert not each.page_info(memory)[3].valid
                assert each.read(memory[:3]).data.matches(1) and each.read(memory[4:]).data.matches(1)
            assert memory[:3].matches(1) and memory[4:].matches(1)
            # The entry in the page table has the page frame also of a page that came back from the device first.
            now = (memory.pagemap()[3] & (1 << 55) - 1) >> SWAP_TYPES
            assert pfn in (now, None) and poisoned(now)
            return [now]

        self.in_child(kind, run)

    @pytest.mark.contract("I-20")
    def test_a_page_that_goes_out_of_use_is_announced_and_replaced(self, mirror):
        def run(some):
            memory = some.memory
            pfn = frames(memory)[3]
            with logs(*some.mirrors, buf=memory) as started:
                memory[3].advise(MADV_SOFT_OFFLINE)
                assert entries(some.mirrors[0], memory) == [page for page in range(16) if page != 3]
                for log in started:
                    log.expect(CLEAR, memory[3], watch=0)
                    assert told(log, memory) == [(CLEAR, 3, 4)]
            assert frames(memory)[3] not in (pfn, None)
            assert all(each.read(memory).data.matches(1) for each in some.mirrors)
            assert some.same() and memory.matches(1) and some.writes(memory, 5)
            return [pfn]

        self.in_child("ram", run)
