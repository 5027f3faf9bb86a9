# SPDX-License-Identifier: GPL-2.0
"""Section 8: system calls on private memory. Each tells every mirror once, with the exact range, and no neighbour.

Directly afterwards the devices have no entries there; then they see the same memory as the CPU, with its permission.
"""

import ctypes
import errno
import mmap
import os

import pytest
from facilities.scan import write_protect, written
from facilities.syscalls import process_vm_read, process_vm_write
from facilities.told import Mapped, alone, blank, content, covers, entries, logs, mapped, reads_zero, refused, told
from facilities.userfault import WP_ASYNC, WP_UNPOPULATED, Userfault

from dmirror.events import CLEAR, PROTECTION_PAGE, PROTECTION_VMA, SOFT_DIRTY, UNMAP
from dmirror.memory import HUGE_PAGES, MREMAP_FIXED, MREMAP_MAYMOVE, NONE, PAGE, READ, RW, Region, Span
from dmirror.mirror import Mirror
from dmirror.process import Child, in_child
from dmirror.uapi import lib

pytestmark = pytest.mark.needs(capability="steer")

# asm-generic/mman-common.h, linux/mman.h
MADV_FREE, MADV_DONTFORK, MADV_COLD, MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = (
    8,
    10,
    20,
    24,
    102,
    103,
)
MREMAP_DONTUNMAP = 4
SOFT_DIRTY_BIT = 1 << 55

DEVICE_THP = pytest.mark.needs(capability="device_thp")
HUGE_DEVICE = pytest.param("huge-device-write", marks=DEVICE_THP)


def kinds(*names):
    """What `some` is: a kind of memory, and the access by which the devices come to map it."""
    return pytest.mark.parametrize("some", names, indirect=True)


SMALL = kinds("ram-read", "ram-write", "device-write")
THP = kinds("huge-read", "huge-write", HUGE_DEVICE)
EVERY = kinds("ram-read", "ram-write", "device-write", "huge-write", HUGE_DEVICE)


@pytest.fixture
def some(request, mirror, mirror2):
    kind, _, access = request.param.rpartition("-")
    with mapped(kind, access, [mirror, mirror2]) as made:
        yield made


@pytest.fixture
def sixteen(mirror, mirror2):
    with mapped("ram", "write", [mirror, mirror2]) as made:
        yield made


class TestUnmapping:
    @SMALL
    @pytest.mark.contract("I-01")
    @pytest.mark.parametrize("part", [(0, 16), (4, 8), (15, 16)], ids=["all", "some", "last"])
    def test_munmap_tells_what_is_unmapped(self, some, part):
        first, last = part
        some.expect(some.memory[first:last].unmap, [(UNMAP, first, last)], range(first, last))
        for mirror in some.mirrors:
            assert refused(mirror.read, some.memory) == (errno.EFAULT, first)
            assert refused(mirror.write, some.memory[last - 1], 2) == (errno.EFAULT, 0)
        for rest in (some.memory[:first], some.memory[last:]):
            if len(rest):
                assert Mapped(rest, some.mirrors).same() and rest.matches(1)

    @pytest.mark.contract("I-01")
    def test_one_munmap_of_several_mappings_is_one_event(self, sixteen, mirror, mirror2):
        memory = sixteen.memory
        memory[4:8].protect(READ)
        memory[10].unmap()
        mirror.read(memory[:10])
        mirror2.read(memory[:10])
        with logs(mirror, mirror2, buf=memory) as started:
            memory[2:14].unmap()
            assert sixteen.entries() == [[0, 1, 14, 15]] * 2
            assert [told(log, memory) for log in started] == [[(UNMAP, 2, 14)]] * 2

    @pytest.mark.contract("I-01")
    def test_mapping_over_a_mapping_unmaps_it(self, sixteen):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
        part = sixteen.memory[4:8]
        sixteen.expect(lambda: lib.dm_mmap(part.addr, part.bytes, RW, flags, -1, 0), [(UNMAP, 4, 8)], range(4, 8))
        assert all(reads_zero(mirror, part) for mirror in sixteen.mirrors)
        assert sixteen.same() and sixteen.writes(part, 5)

    @SMALL
    @pytest.mark.contract("I-02")
    @pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, MADV_DONTNEED_LOCKED], ids=["dontneed", "locked"])
    @pytest.mark.parametrize("part", [(0, 16), (4, 8)], ids=["all", "some"])
    def test_dontneed_tells_what_is_dropped(self, some, advice, part):
        first, last = part
        span = some.memory[first:last]
        some.expect(lambda: span.advise(advice), [(CLEAR, first, last)], range(first, last))
        assert all(reads_zero(mirror, span) for mirror in some.mirrors)
        assert some.same() and blank(span)
        assert some.writes(some.memory, 5)

    @pytest.mark.contract("I-02")
    def test_dontneed_over_several_mappings_tells_of_each(self, sixteen):
        sixteen.memory[4:8].protect(READ)
        sixteen.access("read")
        events = [(CLEAR, 2, 4), (CLEAR, 4, 8), (CLEAR, 8, 12)]
        sixteen.expect(lambda: sixteen.memory[2:12].advise(mmap.MADV_DONTNEED), events, range(2, 12))
        assert sixteen.same()

    @SMALL
    @pytest.mark.contract("I-02")
    @pytest.mark.needs(kernel=">=6.13")
    def test_guarded_pages_are_cleared_and_kept_from_the_device(self, some):
        guarded = some.memory[4:8]
        some.expect(lambda: guarded.advise(MADV_GUARD_INSTALL), [(CLEAR, 4, 8)], range(4, 8))
        for mirror in some.mirrors:
            assert refused(mirror.read, some.memory) == (errno.EFAULT, 4)
            assert refused(mirror.write, guarded[3], 2) == (errno.EFAULT, 0)
        guarded.advise(MADV_GUARD_REMOVE)
        assert all(reads_zero(mirror, guarded) for mirror in some.mirrors)
        assert some.same() and some.writes(some.memory, 5)

    @SMALL
    @pytest.mark.contract("I-03")
    def test_pages_that_may_be_dropped_are_announced(self, some):
        """They are clean from then on: what the device writes without a fault would be lost."""
        some.expect(lambda: some.memory[4:8].advise(MADV_FREE), [(CLEAR, 4, 8)], range(4, 8))
        assert some.memory.matches(1) and some.same() and some.writes(some.memory, 5)
        some.memory.advise(21)  # MADV_PAGEOUT
        assert some.memory.matches(5 + len(some.mirrors) - 1)


class TestProtection:
    @SMALL
    @pytest.mark.contract("I-05")
    @pytest.mark.parametrize("part", [(0, 16), (4, 8), (15, 16)], ids=["all", "some", "last"])
    def test_mprotect_to_read_only_takes_the_right_to_write(self, some, part):
        first, last = part
        span = some.memory[first:last]
        some.expect(lambda: span.protect(READ), [(PROTECTION_VMA, first, last)], range(first, last))
        assert some.refuse(span, errno.EPERM)
        assert all(mirror.read(some.memory).data.matches(1) for mirror in some.mirrors)
        for mirror in some.mirrors:
            infos = mirror.page_info(some.memory)
            assert [info.mapped_write for info in infos[first:last]] == [False] * len(span)
            assert refused(mirror.poke, span, 2) == (errno.EPERM, 0)
            assert mirror.counters().entries_present == len(some.memory)
        assert some.same() and some.memory.matches(1)
        assert some.refuse(span, errno.EPERM)
        span.protect(RW)
        assert some.writes(some.memory, 5)

    @SMALL
    @pytest.mark.contract("I-05")
    def test_mprotect_to_none_takes_everything(self, some):
        span = some.memory[4:8]
        some.expect(lambda: span.protect(NONE), [(PROTECTION_VMA, 4, 8)], range(4, 8))
        for mirror in some.mirrors:
            assert refused(mirror.read, span) == (errno.EFAULT, 0)
            assert refused(mirror.write, span, 2)[0] in (errno.EFAULT, errno.EPERM)
            assert mirror.snapshot(span).where == ["error"] * 4
        span.protect(RW)
        assert some.same() and some.memory.matches(1) and some.writes(some.memory, 5)

    @kinds("ram-read", "device-read")
    @pytest.mark.contract("I-05")
    def test_mprotect_to_writable_lets_the_device_write(self, some):
        some.memory[4:8].protect(READ)
        some.access("read")
        some.expect(lambda: some.memory[4:8].protect(RW), [(PROTECTION_VMA, 4, 8)], range(4, 8))
        assert some.writes(some.memory, 5)

    @pytest.mark.contract("I-05")
    def test_mprotect_does_not_tell_of_what_is_so_already(self, sixteen):
        sixteen.memory[4:8].protect(READ)
        sixteen.access("read")
        events = [(PROTECTION_VMA, 0, 4), (PROTECTION_VMA, 8, 16)]
        sixteen.expect(lambda: sixteen.memory.protect(READ), events, [*range(4), *range(8, 16)])
        assert sixteen.refuse(sixteen.memory, errno.EPERM)
        sixteen.expect(lambda: sixteen.memory.protect(READ), [], [0, 1, 2, 3, *range(8, 16)])

    @pytest.mark.contract("I-05")
    def test_mprotect_is_lazy_where_there_are_no_page_tables(self, mirror):
        with alone(16, align=1 << 30) as memory, mirror.events(buf=memory) as log:
            memory.protect(READ)
            assert told(log, memory) == []
            memory.protect(RW)
            memory.store(1)
            memory[8:].protect(READ)
            assert told(log, memory) == [(PROTECTION_VMA, 8, 16)]


class TestMoving:
    @EVERY
    @pytest.mark.contract("I-06")
    def test_mremap_tells_of_the_old_place(self, some):
        """Once when the pages leave, and once when what they left is unmapped."""
        memory = some.memory
        with alone(len(memory), align=memory.bytes) as target:
            some.expect(lambda: memory.move(target), [(UNMAP, 0, len(memory))] * 2, range(len(memory)))
            for mirror in some.mirrors:
                assert refused(mirror.read, memory) == (errno.EFAULT, 0)
            moved = Mapped(Span(target.addr, len(memory)), some.mirrors)
            assert moved.same() and moved.memory.matches(1)
            assert moved.writes(moved.memory, 5)

    @EVERY
    @pytest.mark.contract("I-06")
    def test_mremap_that_unmaps_nothing_tells_of_the_old_place_too(self, some):
        memory = some.memory
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
        with alone(len(memory), align=memory.bytes) as target:

            def move():
                assert lib.dm_mremap(memory.addr, memory.bytes, memory.bytes, flags, target.addr) == target.addr

            some.expect(move, [(UNMAP, 0, len(memory))], range(len(memory)))
            assert all(reads_zero(mirror, memory) for mirror in some.mirrors)
            moved = Mapped(Span(target.addr, len(memory)), some.mirrors)
            assert moved.same() and moved.memory.matches(1) and moved.writes(moved.memory, 5)
            assert some.same() and blank(memory)

    @SMALL
    @pytest.mark.contract("I-06")
    def test_mremap_of_a_part_over_what_the_devices_map(self, some):
        """What was at the new place is unmapped, and the devices see there what came."""
        with alone(4) as target:
            target.fill(7)
            there = Mapped(target, some.mirrors)
            there.access("write")
            target.fill(7)
            with logs(*some.mirrors, buf=target) as started:
                some.memory[4:8].move(target)
                left = [page for page in range(16) if page not in range(4, 8)]
                assert some.entries() == [left] * len(some.mirrors)
                assert [told(log, some.memory) for log in started] == [[(UNMAP, 4, 8)] * 2] * len(started)
                assert [entries(mirror, target) for mirror in some.mirrors] == [[]] * len(some.mirrors)
                assert [told(log, target) for log in started] == [[(UNMAP, 0, 4)]] * len(started)
            assert there.same()
            assert content(target) != content(some.memory[:4])
            assert Span(target.addr, 4, 4).matches(1)
            for mirror in some.mirrors:
                assert refused(mirror.read, some.memory) == (errno.EFAULT, 4)

    @pytest.mark.contract("I-06")
    def test_the_place_that_mremap_moves_to_is_unmapped_first(self, sixteen):
        with alone(16) as source:
            source.fill(3)
            sixteen.expect(lambda: source.move(sixteen.memory), [(UNMAP, 0, 16)], range(16))
            assert sixteen.same() and sixteen.memory.matches(3)

    @pytest.mark.contract("I-06")
    def test_a_mapping_that_shrinks_tells_of_what_it_loses(self, sixteen):
        memory = sixteen.memory
        sixteen.expect(
            lambda: lib.dm_mremap(memory.addr, memory.bytes, 10 * PAGE, 0, 0), [(UNMAP, 10, 16)], range(10, 16)
        )
        assert refused(sixteen.mirrors[0].read, memory) == (errno.EFAULT, 10)

    @THP
    @pytest.mark.contract("I-06")
    @pytest.mark.contract("I-14")
    def test_mremap_of_a_part_of_a_huge_page_splits_it(self, some):
        with alone(8) as target:
            whole = (CLEAR, 0, HUGE_PAGES)  # once for the mapping of the huge page, once for the mapping as such
            events = [(UNMAP, 128, 136), whole, whole, (UNMAP, 128, 136)]
            some.expect(lambda: some.memory[128:136].move(target), events, range(HUGE_PAGES))
            moved = Mapped(Span(target.addr, 8, 128), some.mirrors)
            assert moved.same() and moved.memory.matches(1) and moved.writes(moved.memory, 5)
            for mirror in some.mirrors:
                assert refused(mirror.read, some.memory) == (errno.EFAULT, 128)
            assert some.memory[:128].matches(1) and some.memory[136:].matches(1)


class TestSplitting:
    """A part of a huge page: the mirrors are told CLEAR of all of it, and of the part what befalls that."""

    PART = (128, 256)

    @THP
    @pytest.mark.contract("I-14")
    def test_by_munmap(self, some):
        part = some.memory[slice(*self.PART)]
        some.expect(part.unmap, [(CLEAR, 0, HUGE_PAGES), (UNMAP, *self.PART)], range(HUGE_PAGES))
        for mirror in some.mirrors:
            assert refused(mirror.read, some.memory) == (errno.EFAULT, 128)
        for rest in (some.memory[:128], some.memory[256:]):
            assert Mapped(rest, some.mirrors).same() and rest.matches(1)
            assert Mapped(rest, some.mirrors).writes(rest, 5)

    @THP
    @pytest.mark.contract("I-14")
    def test_by_dontneed(self, some):
        part = some.memory[slice(*self.PART)]
        events = [(CLEAR, *self.PART), (CLEAR, 0, HUGE_PAGES)]
        some.expect(lambda: part.advise(mmap.MADV_DONTNEED), events, range(HUGE_PAGES))
        assert some.same() and blank(part) and some.memory[:128].matches(1) and some.memory[256:].matches(1)
        assert some.writes(some.memory, 5)

    @THP
    @pytest.mark.contract("I-14")
    @pytest.mark.contract("I-05")
    def test_by_mprotect(self, some):
        part = some.memory[slice(*self.PART)]
        events = [(CLEAR, 0, HUGE_PAGES), (PROTECTION_VMA, *self.PART)]
        some.expect(lambda: part.protect(READ), events, range(HUGE_PAGES))
        assert some.same() and some.memory.matches(1)
        for mirror in some.mirrors:
            for page in (128, 255):
                assert refused(mirror.write, part[page - 128], 2) == (errno.EPERM, 0)
        for rest in (some.memory[:128], some.memory[256:]):
            assert Mapped(rest, some.mirrors).writes(rest, 5)

    @THP
    @pytest.mark.contract("I-01")
    def test_no_split_where_all_of_it_goes(self, some):
        some.expect(some.memory.unmap, [(UNMAP, 0, HUGE_PAGES)], range(HUGE_PAGES))

    @THP
    @pytest.mark.contract("I-02")
    def test_no_split_where_all_of_it_is_dropped(self, some):
        some.expect(lambda: some.memory.advise(mmap.MADV_DONTNEED), [(CLEAR, 0, HUGE_PAGES)], range(HUGE_PAGES))
        assert all(reads_zero(mirror, some.memory) for mirror in some.mirrors)
        assert some.same()

    @THP
    @pytest.mark.contract("I-05")
    def test_no_split_where_all_of_it_is_protected(self, some):
        some.expect(lambda: some.memory.protect(READ), [(PROTECTION_VMA, 0, HUGE_PAGES)], range(HUGE_PAGES))
        for mirror in some.mirrors:
            for page in (0, 255, 511):
                assert refused(mirror.write, some.memory[page], 2) == (errno.EPERM, 0)
            assert not any(page.mapped_write for page in mirror.page_info(some.memory))
        assert some.same() and some.memory.matches(1)
        some.access("read")
        some.expect(lambda: some.memory.protect(RW), [(PROTECTION_VMA, 0, HUGE_PAGES)], range(HUGE_PAGES))
        assert some.writes(some.memory, 5)


WRITERS = ("parent-cpu", "parent-device", "parent-other-device", "child-cpu", "child-device")


class TestFork:
    @EVERY
    @pytest.mark.contract("I-07")
    @pytest.mark.parametrize("writer", WRITERS)
    def test_fork_takes_the_right_to_write_and_the_first_writer_gets_a_copy(self, some, mirror2, writer):
        memory = some.memory

        def child(line):
            line.receive()
            if writer == "child-cpu":
                memory.fill(2)
            elif writer == "child-device":
                with Mirror(0) as own:
                    own.write(memory, 2)
            line.send()
            line.receive()
            with Mirror(1) as own:
                seen = own.read(memory).data
                return [seed for seed in (1, 2) if memory.matches(seed) and seen.matches(seed)]

        begun = []
        try:
            # Its end tells of nothing here.
            some.expect(lambda: begun.append(Child(child)), [(PROTECTION_PAGE, 0, len(memory))], range(len(memory)))
            begun[0].line.send()
            begun[0].line.receive()
            if not writer.startswith("child"):
                assert not any(page.write for page in some.mirrors[0].page_info(memory))
            if writer == "parent-cpu":
                memory.fill(2)
            elif writer.startswith("parent"):
                (some.mirrors[0] if writer == "parent-device" else mirror2).write(memory, 2)
            mine, theirs = (2, 1) if writer.startswith("parent") else (1, 2)
            assert memory.matches(mine)
            assert all(mirror.read(memory).data.matches(mine) for mirror in some.mirrors)
            begun[0].line.send()
            assert begun[0].result() == [theirs]
            assert memory.matches(mine)
        finally:
            for other in begun:
                other.__exit__(None, None, None)

    @pytest.mark.contract("I-07")
    @pytest.mark.contract("I-27")
    def test_fork_tells_nothing_of_what_it_does_not_copy(self, sixteen):
        sixteen.memory.advise(MADV_DONTFORK)
        sixteen.expect(lambda: in_child(lambda: 1), [], [])
        assert sixteen.writes(sixteen.memory, 5)

    @pytest.mark.contract("I-07")
    @pytest.mark.contract("I-27")
    def test_fork_tells_nothing_of_shared_memory(self, mirror, mirror2):
        with Region.shared(16) as memory:
            shared = Mapped(memory.fill(1), [mirror, mirror2])
            shared.access("write")
            shared.expect(lambda: in_child(lambda: bool(memory.fill(2))), [], [])
            assert mirror.peek(memory).matches(2) and mirror2.peek(memory).matches(2)


def by_the_cpu(page, mirror2):
    page.fill(9)


def by_another_device(page, mirror2):
    mirror2.write(page, 9)


def by_the_kernel(page, mirror2):
    assert process_vm_write(os.getpid(), page.addr, bytes(PAGE)) == PAGE
    page.fill(9)


COPIES = pytest.mark.parametrize("write", [by_the_cpu, by_another_device, by_the_kernel])


class TestCopyOnWrite:
    @COPIES
    @pytest.mark.contract("I-08")
    def test_a_copy_of_a_page_that_a_child_has_is_announced(self, sixteen, mirror2, write):
        memory = sixteen.memory
        with Child(lambda line: line.receive() or memory.matches(1)) as child:
            sixteen.access("read")
            with logs(*sixteen.mirrors, buf=memory) as started:
                write(memory[3], mirror2)
                assert [told(log, memory) for log in started] == [[(CLEAR, 3, 4)]] * 2
                rest = [page for page in range(16) if page != 3]
                assert [page for page in entries(sixteen.mirrors[0], memory)] == rest
            assert sixteen.same() and memory[3].matches(9)
            assert memory[:3].matches(1) and memory[4:].matches(1)
            child.line.send()
            assert child.result()

    @COPIES
    @pytest.mark.contract("I-08")
    def test_a_page_that_replaces_the_zero_page_is_announced(self, mirror, mirror2, write):
        with alone(16) as memory:
            memory.touch()
            zero = Mapped(memory, [mirror, mirror2])
            zero.access("read")
            with logs(mirror, mirror2, buf=memory) as started:
                write(memory[3], mirror2)
                assert [told(log, memory) for log in started] == [[(CLEAR, 3, 4)]] * 2
                assert entries(mirror, memory) == [page for page in range(16) if page != 3]
            assert zero.same() and memory[3].matches(9) and blank(memory[:3]) and blank(memory[4:])
            assert zero.writes(memory, 5)

    @COPIES
    @pytest.mark.contract("I-08")
    def test_a_copy_of_a_private_file_page_is_announced(self, mirror, mirror2, write):
        with Region.file(16, private=True) as memory:
            memory.touch()
            private = Mapped(memory, [mirror, mirror2])
            private.access("read")
            with logs(mirror, mirror2, buf=memory) as started:
                write(memory[3], mirror2)
                assert [told(log, memory) for log in started] == [[(CLEAR, 3, 4)]] * 2
                assert entries(mirror, memory) == [page for page in range(16) if page != 3]
            assert private.same() and memory[3].matches(9)

    @COPIES
    @pytest.mark.contract("I-08")
    @pytest.mark.contract("I-14")
    def test_a_copy_of_a_part_of_a_huge_page_splits_it(self, mirror, mirror2, write):
        with mapped("huge", "write", [mirror, mirror2]) as some:
            memory = some.memory
            with Child(lambda line: line.receive() or memory.matches(1)) as child:
                some.access("read")
                with logs(mirror, mirror2, buf=memory) as started:
                    write(memory[300], mirror2)
                    events = [(CLEAR, 0, HUGE_PAGES), (CLEAR, 300, 301)]
                    assert [told(log, memory) for log in started] == [events] * 2
                    assert entries(mirror, memory) == []
                assert some.same() and memory[300].matches(9)
                assert memory[:300].matches(1) and memory[301:].matches(1)
                child.line.send()
                assert child.result()

    @pytest.mark.contract("I-08")
    def test_what_replaces_the_huge_zero_page_is_announced(self, mirror, mirror2):
        with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            memory.advise(mmap.MADV_HUGEPAGE)
            memory.touch()
            zero = Mapped(memory, [mirror, mirror2])
            zero.access("read")
            with logs(mirror, mirror2, buf=memory) as started:
                memory[300].fill(9)
                for log in started:
                    # All of it, and in a kernel that splits it first then the page.
                    first, *more = told(log, memory)
                    assert first == (CLEAR, 0, HUGE_PAGES)
                    assert more in ([], [(CLEAR, 300, 301)])
                assert [entries(each, memory) for each in zero.mirrors] == [[], []]
            assert zero.same() and memory[300].matches(9) and blank(memory[:300]) and blank(memory[301:])


class TestTracking:
    """Who is interested in what is written."""

    @EVERY
    @pytest.mark.contract("I-15")
    def test_clear_refs_drops_everything_and_the_next_write_is_seen(self, some):
        memory = some.memory
        with logs(*some.mirrors, buf=memory) as started:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("4\n")
            assert some.entries() == [[]] * len(some.mirrors)
            for log in started:
                (event,) = log.expect(SOFT_DIRTY, watch=0)
                assert (event.start, event.end, event.blockable, event.filtered) == (0, (1 << 64) - 1, True, False)
                assert [kind for kind, _, _ in told(log, memory)] == [SOFT_DIRTY]
        for mirror in some.mirrors:
            mirror.read(memory)
        if memory.pagemap()[3] >> 62 & 1:
            return  # a page on a device says nothing of it
        assert not any(word & SOFT_DIRTY_BIT for word in memory.pagemap())
        some.mirrors[-1].write(memory[3], 9)
        if len(memory) <= 16:
            assert [page for page, word in enumerate(memory.pagemap()) if word & SOFT_DIRTY_BIT] == [3]
        assert memory.pagemap()[3] & SOFT_DIRTY_BIT
        assert some.same()

    @kinds("ram-read", "ram-write", "huge-write")
    @pytest.mark.contract("I-16")
    @pytest.mark.needs(kernel=">=6.7", config="CONFIG_PTE_MARKER_UFFD_WP")
    def test_a_scan_that_write_protects_is_announced_and_the_next_write_is_seen(self, some):
        memory = some.memory
        part = memory[4:8] if len(memory) == 16 else memory
        first = part.first - memory.first
        with Userfault(WP_ASYNC | WP_UNPOPULATED) as uffd:
            uffd.register_wp(memory)
            some.access("read")
            gone = range(first, first + len(part))
            some.expect(lambda: write_protect(part), [(PROTECTION_VMA, first, first + len(part))], gone)
            assert written(part) == []
            some.access("read")
            assert not any(page.mapped_write for page in some.mirrors[0].page_info(part))
            assert written(part) == []
            for mirror in some.mirrors:
                mirror.write(part[2], 9)
                assert 2 in written(part)
            if len(memory) == 16:
                assert written(part) == [2]
            assert some.same() and part[2].matches(9)

    @EVERY
    @pytest.mark.contract("I-17")
    def test_userfaultfd_write_protection_holds_for_the_device(self, some):
        memory = some.memory
        part = memory[4:8] if len(memory) == 16 else memory
        first, last = part.first - memory.first, part.first - memory.first + len(part)
        with Userfault() as uffd:
            uffd.register_wp(memory)
            some.expect(lambda: uffd.protect(part), [(PROTECTION_VMA, first, last)], range(first, last))
            assert all(mirror.read(memory).data.matches(1) for mirror in some.mirrors)
            assert not any(page.mapped_write for mirror in some.mirrors for page in mirror.page_info(part))
            on_device = some.mirrors[0].page_info(memory[0])[0].device is not None
            if not on_device:  # whence a write, which fails, brings it back
                for page in (0, len(part) - 1):
                    # Nobody can wait for the handler with the lock held.
                    assert some.refuse(part[page], errno.EFAULT)
            assert some.entries() == [list(range(len(memory)))] * len(some.mirrors)
            some.expect(lambda: uffd.allow(part), [(PROTECTION_VMA, first, last)], range(first, last))
            assert some.same() and memory.matches(1)
            assert some.writes(memory, 5)

    @kinds("ram-read", "ram-write", "huge-write")
    @pytest.mark.contract("I-18")
    @pytest.mark.needs(kernel=">=6.8")
    def test_userfaultfd_move_tells_of_the_source(self, some):
        memory = some.memory
        part = memory[4:8] if len(memory) == 16 else memory
        first, last = part.first - memory.first, part.first - memory.first + len(part)
        with alone(len(memory), align=memory.bytes) as target, Userfault() as uffd:
            uffd.catch_missing(target)
            place = target[first:last]
            with logs(*some.mirrors, buf=memory) as started:
                uffd.move(place, part)
                left = [page for page in range(len(memory)) if page not in range(first, last)]
                assert some.entries() == [left] * len(some.mirrors)
                assert all(covers(told(log, memory), CLEAR, first, last) for log in started)
                assert [told(log, place) for log in started] == [[]] * len(started)
            assert all(reads_zero(mirror, part) for mirror in some.mirrors)
            moved = Mapped(place, some.mirrors)
            assert moved.same() and Span(place.addr, len(place), first).matches(1)
            assert some.same() and blank(part)
            assert moved.writes(place, 5)


LIBC = ctypes.CDLL(None, use_errno=True)


def call(name, memory, *more):
    """A call of the C library on the memory."""
    assert getattr(LIBC, name)(ctypes.c_void_p(memory.addr), ctypes.c_size_t(memory.bytes), *more) == 0


def mincore(memory):
    vector = ctypes.create_string_buffer(len(memory))
    call("mincore", memory, vector)
    assert vector.raw[: len(memory)] == bytes([1] * len(memory))


def read_proc(memory):
    for name in ("maps", "smaps", "smaps_rollup", "status", "numa_maps"):
        with open(f"/proc/self/{name}", "rb") as file:
            file.read()
    memory.pagemap()


def forget_references(memory):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("1\n")


def beside(act):
    """On pages of a mapping next to it, those that are nearest."""

    def do(memory):
        for page in (Span(memory.addr - PAGE, 1), Span(memory.end, 1)):
            act(page)

    return do


HARMLESS = {
    "cpu-reads": lambda memory: memory.touch(),
    "cpu-writes": lambda memory: memory.fill(1),
    "proc": read_proc,
    "references": forget_references,
    "willneed": lambda memory: memory.advise(mmap.MADV_WILLNEED),
    "cold": lambda memory: memory.advise(MADV_COLD),
    "populate": lambda memory: memory.advise(22) or memory.advise(23),
    "nohugepage": lambda memory: memory.advise(mmap.MADV_NOHUGEPAGE),
    "mincore": mincore,
    "reads-from-outside": lambda memory: process_vm_read(os.getpid(), memory.addr, memory.bytes),
    "same-protection": lambda memory: memory.protect(RW),
    "protection-beside": beside(lambda page: page.protect(READ)),
    "faults-beside": beside(lambda page: page.protect(RW) or page.fill(1)),
    "unmapping-beside": beside(lambda page: page.unmap()),
}


BRING_BACK = ("cpu-reads", "cpu-writes", "reads-from-outside", "populate")
"""Of these, those that fault in pages that are on a device."""


class TestHarmless:
    @kinds("ram-write", "huge-write")
    @pytest.mark.contract("I-27")
    @pytest.mark.parametrize("how", HARMLESS)
    def test_what_changes_nothing_is_not_told(self, some, how):
        some.expect(lambda: HARMLESS[how](some.memory), [], [])
        for mirror in some.mirrors:
            assert mirror.read(some.memory).faults == 0
            assert mirror.write(some.memory, 1).faults == 0

    @kinds("device-write", HUGE_DEVICE)
    @pytest.mark.contract("I-27")
    def test_what_leaves_pages_on_the_device_is_not_told(self, some):
        memory = some.memory

        def act():
            for how, do in HARMLESS.items():
                if how not in BRING_BACK:
                    do(memory)

        some.expect(act, [], [])
        for mirror in some.mirrors:
            assert mirror.read(memory).faults == 0
            assert mirror.write(memory, 1).faults == 0

    @kinds("ram-write", "huge-write")
    @pytest.mark.contract("I-21")
    def test_locked_memory_keeps_its_entries(self, some):
        memory = some.memory
        some.expect(lambda: call("mlock", memory), [], [])
        assert all(mirror.write(memory, 1).faults == 0 for mirror in some.mirrors)
        some.expect(lambda: call("munlock", memory), [], [])
        assert some.same() and memory.matches(1)
