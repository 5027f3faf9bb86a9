# SPDX-License-Identifier: GPL-2.0
"""Section 8: a mirror is told before the CPU page table changes, and until it has changed the device gets nothing.

The thread that invalidates is held in the callback of the second of two mirrors. Then the CPU still has what it had,
loads and stores without a fault; the first mirror, which was told already, lost its entries, and a device read of it
sleeps until the invalidation has ended: it sees the new state.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from facilities.disks import ext4, swap
from facilities.ksm import MADV_MERGEABLE, merging, wait_merged
from facilities.machine import frames, mapcounts, settle_lru, smaps
from facilities.syscalls import move_pages
from facilities.told import alone, content, entries, stale
from facilities.userfault import Userfault

from dmirror.events import CLEAR, PROTECTION_PAGE, PROTECTION_VMA, RELEASE, UNMAP
from dmirror.memory import (
    HUGE_PAGES,
    MADV_COLLAPSE,
    MADV_PAGEOUT,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NONE,
    PAGE,
    READ,
    Region,
    Span,
)
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child, in_child
from dmirror.quiet import fault_in
from dmirror.threads import Task
from dmirror.uapi import ffi, lib

pytestmark = pytest.mark.needs(capability="steer")

MADV_FREE, MREMAP_DONTUNMAP = 8, 4  # asm-generic/mman-common.h, linux/mman.h
UFFD_WP_BIT = 1 << 57


@contextmanager
def small():
    with alone(16) as memory:
        yield memory


@contextmanager
def huge():
    with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
        memory.advise(mmap.MADV_HUGEPAGE)
        memory.fill(1)
        memory.advise(mmap.MADV_NOHUGEPAGE)  # khugepaged has no business here
        yield memory


@contextmanager
def collapsible():
    with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
        yield memory.fill(1)  # small pages, which nobody asked khugepaged to look at


@contextmanager
def memfd():
    with Region.memfd(16) as memory:
        yield memory


@contextmanager
def hugetlb():
    with Region.hugetlb(1) as memory:
        yield memory


@contextmanager
def alike():
    """Two pages of the same content, the second of which is looked at."""
    with alone(2) as memory:
        memory.advise(mmap.MADV_NOHUGEPAGE)
        yield memory


def remap(memory):
    with Region.anonymous(len(memory)) as target:
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
        assert lib.dm_mremap(memory.addr, memory.bytes, memory.bytes, flags, target.addr) == target.addr
        assert target.matches(1)


def move(memory):
    there = move_pages([memory[page].addr for page in range(len(memory))], None)[0]
    assert move_pages([memory.addr], 1 - there) == [1 - there]


def split(memory):
    Path("/sys/kernel/debug/split_huge_pages").write_text(f"{os.getpid()},{memory.addr:#x},{memory.end:#x}")


@dataclass(frozen=True)
class Case:
    """What is done to `page` of the memory, the event before it, and what else shows that it is not done yet."""

    event: str
    act: Callable[[Span], object]
    make: Callable[[], object] = small
    page: int = 3
    readable: bool = True
    still: Callable[[Span], object] = lambda memory: True
    around: Callable[[], object] = nullcontext
    settled: bool = True
    """Whether no access can come in between: a page can be mapped again until it leaves its file."""


def write_protect(memory):
    with Userfault() as uffd:
        uffd.write_protect(memory)
        assert memory.pagemap()[3] & UFFD_WP_BIT


def userfault_move(memory):
    with alone(16) as target, Userfault() as uffd:
        uffd.catch_missing(target)
        uffd.move(target[3], memory[3])
        assert target[3].matches(1)


CASES = {
    "munmap": Case(UNMAP, lambda memory: memory[2:6].unmap(), readable=False),
    "munmap-huge": Case(UNMAP, lambda memory: memory.unmap(), huge, readable=False),
    "dontneed": Case(CLEAR, lambda memory: memory.advise(mmap.MADV_DONTNEED)),
    "dontneed-huge": Case(CLEAR, lambda memory: memory.advise(mmap.MADV_DONTNEED), huge),
    "free": Case(CLEAR, lambda memory: memory.advise(MADV_FREE), still=lambda memory: smaps(memory)["LazyFree"] == 0),
    "read-only": Case(PROTECTION_VMA, lambda memory: memory.protect(READ)),
    "read-only-huge": Case(PROTECTION_VMA, lambda memory: memory.protect(READ), huge),
    "no-access": Case(PROTECTION_VMA, lambda memory: memory.protect(NONE), readable=False),
    "mremap": Case(UNMAP, remap),
    "mremap-huge": Case(UNMAP, remap, huge),
    "split": Case(CLEAR, lambda memory: memory[8:].unmap(), huge),
    "split-by-hand": Case(CLEAR, split, huge),
    "hugetlb-munmap": Case(UNMAP, lambda memory: memory.unmap(), hugetlb, readable=False),
    "hugetlb-dontneed": Case(CLEAR, lambda memory: memory.advise(mmap.MADV_DONTNEED), hugetlb),
    "hugetlb-read-only": Case(PROTECTION_VMA, lambda memory: memory.protect(READ), hugetlb),
    "collapse": Case(CLEAR, lambda memory: memory.advise(MADV_COLLAPSE), collapsible),
    "pageout": Case(CLEAR, lambda memory: settle_lru(memory) or memory[3].advise(MADV_PAGEOUT), around=swap),
    "move-pages": Case(CLEAR, move, page=0),
    "uffd-wp": Case(
        PROTECTION_VMA, write_protect, still=lambda memory: not any(word & UFFD_WP_BIT for word in memory.pagemap())
    ),
    "uffd-move": Case(CLEAR, userfault_move),
    "remove": Case(CLEAR, lambda memory: memory.advise(mmap.MADV_REMOVE), memfd, settled=False),
}
SINCE = {"uffd-move": ">=6.8"}


def param(name):
    return pytest.param(name, marks=pytest.mark.needs(kernel=SINCE.get(name, ">=6.1")))


def attempt(mirror, span):
    """What the device reads, or None where it cannot."""
    try:
        return bytes(ffi.buffer(mirror.read(span).data.buffer))
    except MirrorError:
        return None


def look(case):
    """In a process of its own, for an access that should not fault is the end of it."""
    with Mirror(0) as first, Mirror(1) as second, case.make() as memory:
        page = memory[case.page]
        for mirror in (first, second):
            mirror.write(memory, 1)
        before = frames(memory)
        counts = mapcounts(before)
        with second.hold("invalidate", page, events=(case.event,)) as held, Task(case.act, memory) as task:
            assert held.wait().tid == task.tid
            assert entries(first, page) == [] and entries(second, page) == [0]
            assert mapcounts(before) == counts
            assert memory.matches(1)
            page.fill(2)
            page.fill(1)
            assert mapcounts(before) == counts
            assert case.still(memory)
            with Task(attempt, first, page) as reading:
                reading.wait_asleep()
                held.resume()
                task.result()
                seen = reading.result()
        if case.settled:
            assert seen == (content(page) if case.readable else None)
        assert stale(first, memory) == stale(second, memory) == []
    return True


@pytest.mark.contract("H-08")
@pytest.mark.parametrize("name", [param(name) for name in CASES])
def test_the_device_loses_a_page_before_the_cpu_does(mirror, name):
    case = CASES[name]

    def run():
        fault_in()
        return look(case)

    with case.around():
        assert in_child(run)


@pytest.mark.contract("I-08")
def test_a_copy_on_write_is_announced_before_the_copy_is_mapped(mirror):
    def run():
        with Mirror(0) as first, Mirror(1) as second, alone(16) as memory:
            memory.fill(1)
            with Child(lambda line: line.receive()) as child:
                first.read(memory)
                second.read(memory)
                (pfn,) = frames(memory[3])
                with second.hold("invalidate", memory[3], events=(CLEAR,)) as held, Task(memory[3].fill, 2) as task:
                    assert held.wait().tid == task.tid
                    assert entries(first, memory[3]) == [] and entries(second, memory[3]) == [0]
                    assert (frames(memory[3]), mapcounts([pfn])) == ([pfn], [2])
                    with Task(attempt, first, memory[3]) as reading:
                        reading.wait_asleep()
                        held.resume()
                        task.result()
                        reading.result()
                assert frames(memory[3]) != [pfn] and mapcounts([pfn]) == [1]
                assert stale(first, memory) == stale(second, memory) == []
                assert first.read(memory[3]).data.matches(2) and second.read(memory[3]).data.matches(2)
                child.line.send()
                child.result()
        return True

    assert in_child(run)


@pytest.mark.contract("I-07")
def test_fork_is_announced_before_the_pages_are_shared(still):
    def act(mirror, memory):
        with Child(lambda line: line.receive()) as child:
            child.line.send()
            child.result()

    one = still(act)
    one.mirror.write(one.memory, 1)
    one.mirror2.write(one.memory, 1)
    pfns = frames(one.memory, one.child.pid)
    counts = mapcounts(pfns)
    assert counts == [1] * 16
    with one.mirror2.hold("invalidate", one.memory, events=(PROTECTION_PAGE,)) as held:
        one.start()
        assert held.wait().tid == one.child.pid
        assert entries(one.mirror, one.memory) == []
        assert mapcounts(pfns) == counts
        held.resume()
        one.stopped()
    assert stale(one.mirror, one.memory) == stale(one.mirror2, one.memory) == []


@pytest.mark.contract("I-25")
def test_the_end_of_a_process_is_announced_before_its_pages_are_freed(still):
    one = still(lambda mirror, memory: os._exit(0))
    one.mirror.write(one.memory, 1)
    one.mirror2.write(one.memory, 1)
    pfns = frames(one.memory, one.child.pid)
    with one.mirror2.hold("invalidate", events=(RELEASE,)) as held:
        one.start()
        assert held.wait().tid == one.child.pid
        assert mapcounts(pfns) == [1] * 16
        assert one.mirror2.peek(one.memory).matches(1)
        held.resume()
        one.child.wait()
    assert entries(one.mirror, one.memory) == entries(one.mirror2, one.memory) == []


@pytest.mark.contract("I-11")
def test_a_merge_is_announced_before_the_pages_are_merged(mirror):
    def run():
        with Mirror(0) as first, Mirror(1) as second, alike() as memory:
            for page in (memory[0], memory[1]):
                Span(page.addr, 1).fill(1)
            for page in (memory[0], memory[1]):
                for each in (first, second):
                    each.write(Span(page.addr, 1), 1)
            before = frames(memory)
            with second.hold("invalidate", memory, events=(CLEAR,)) as held:
                memory.advise(MADV_MERGEABLE)
                with merging():
                    state = held.wait()
                    page = Span(state.start, 1)
                    assert entries(first, page) == [] and entries(second, page) == [0]
                    assert (frames(memory), mapcounts(before)) == (before, [1, 1])
                    page.store(page.load())  # no write-protection yet: this page would be another
                    assert frames(memory) == before
                    held.resume()
                    wait_merged(memory)
                    assert stale(first, memory) == stale(second, memory) == []
        return True

    assert in_child(run)


@pytest.mark.contract("I-22")
def test_write_back_is_announced_before_pages_are_write_protected(mirror, mirror2):
    with ext4() as root:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 16 * PAGE)
        with Region.of_file(fd, 16) as memory:
            memory.fill(1)
            for each in (mirror, mirror2):
                each.write(memory, 1)
            with (
                mirror2.hold("invalidate", memory, events=(PROTECTION_PAGE,)) as held,
                Task(os.fsync, fd) as task,
            ):
                page = Span(held.wait().start, 1)
                assert entries(mirror, page) == [] and entries(mirror2, page) == [0]
                assert mirror2.page_info(page)[0].write
                held.resume()
                task.result()
            assert stale(mirror, memory) == stale(mirror2, memory) == []
        os.close(fd)
