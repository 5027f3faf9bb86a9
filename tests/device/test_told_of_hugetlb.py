# SPDX-License-Identifier: GPL-2.0
"""Section 8: reserved huge pages (hugetlb), whose page tables have functions of their own, and may be shared."""

import errno
import mmap
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from facilities.machine import frames
from facilities.poison import MADV_HWPOISON, mended, poisoned
from facilities.syscalls import punch
from facilities.told import Mapped, blank, entries, logs, reads_zero, refused, same, stale, told
from facilities.userfault import MINOR_HUGETLBFS, Userfault

from dmirror.events import CLEAR, PROTECTION_VMA, UNMAP
from dmirror.memory import HUGE_PAGES, MREMAP_FIXED, MREMAP_MAYMOVE, NONE, PAGE, READ, RW, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child, in_child
from dmirror.running import release_matches
from dmirror.threads import Task
from dmirror.uapi import lib

pytestmark = pytest.mark.needs(capability="steer")

HUGE = HUGE_PAGES * PAGE
PUD = 1 << 30
MFD_HUGETLB, MAP_NORESERVE = 4, 0x4000  # linux/memfd.h, asm-generic/mman-common.h
ACCESSES = pytest.mark.parametrize("access", ["read", "write"])
WRITE = pytest.mark.parametrize("access", ["write"])
EVERY_PART = pytest.mark.parametrize(
    ("part", "access"), [((0, 2), "write"), ((1, 2), "read"), ((1, 2), "write")], ids=["both", "second-read", "second"]
)


NESTED = release_matches(os.uname().release, "<6.12")
"""Whether __unmap_hugepage_range() tells UNMAP, too, inside of what it is called for (6.1 hugetlb.c:5344)."""


def unmapped(event, first, last):
    """What is told when pages are unmapped."""
    return [(event, first, last)] + [(UNMAP, first, last)] * NESTED


def file(length):
    """The descriptor of a file of huge pages."""
    fd = os.memfd_create("dmirror", MFD_HUGETLB)
    os.ftruncate(fd, length)
    return fd


@contextmanager
def mapping(nhuge, flags, fd=-1, *, align=HUGE):
    with Region._map(nhuge * HUGE_PAGES, RW, flags, fd, align=align) as memory:
        yield memory


@pytest.fixture
def two(mirror, mirror2, access):
    """Two private huge pages that two devices map."""
    with Region.hugetlb(2) as memory:
        some = Mapped(memory.fill(1), [mirror, mirror2])
        some.access(access)
        yield some


def pages(part):
    return part[0] * HUGE_PAGES, part[1] * HUGE_PAGES


@EVERY_PART
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-01")
def test_munmap(two, part):
    first, last = pages(part)
    two.expect(two.memory[first:last].unmap, unmapped(UNMAP, first, last), range(first, last))
    for mirror in two.mirrors:
        assert refused(mirror.read, two.memory) == (errno.EFAULT, first)
    if first:
        assert Mapped(two.memory[:first], two.mirrors).same() and two.memory[:first].matches(1)


@EVERY_PART
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-02")
def test_dontneed(two, part):
    first, last = pages(part)
    span = two.memory[first:last]
    two.expect(lambda: span.advise(mmap.MADV_DONTNEED), unmapped(CLEAR, first, last), range(first, last))
    assert all(reads_zero(mirror, span) for mirror in two.mirrors)
    assert two.same() and blank(span) and two.writes(two.memory, 5)


@EVERY_PART
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-05")
def test_mprotect(two, part):
    first, last = pages(part)
    span = two.memory[first:last]
    two.expect(lambda: span.protect(READ), [(PROTECTION_VMA, first, last)], range(first, last))
    for mirror in two.mirrors:
        for page in (0, len(span) - 1):
            assert refused(mirror.write, span[page], 2) == (errno.EPERM, 0)
        assert mirror.read(two.memory).data.matches(1)
        assert not any(page.mapped_write for page in mirror.page_info(span))
    two.expect(lambda: span.protect(NONE), [(PROTECTION_VMA, first, last)], range(first, last))
    for mirror in two.mirrors:
        assert refused(mirror.read, span) == (errno.EFAULT, 0)
    span.protect(RW)
    assert two.same() and two.memory.matches(1) and two.writes(two.memory, 5)


@ACCESSES
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-06")
def test_mremap(two):
    """CLEAR of what moves, then UNMAP of where it was."""
    memory = two.memory
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    with Region.anonymous(len(memory), prot=NONE, align=HUGE) as target:

        def move():
            assert lib.dm_mremap(memory.addr, memory.bytes, memory.bytes, flags, target.addr) == target.addr

        two.expect(move, [(CLEAR, 0, len(memory)), *unmapped(UNMAP, 0, len(memory))], range(len(memory)))
        for mirror in two.mirrors:
            assert refused(mirror.read, memory) == (errno.EFAULT, 0)
        moved = Mapped(Span(target.addr, len(memory)), two.mirrors)
        assert moved.same() and moved.memory.matches(1) and moved.writes(moved.memory, 5)


WRITERS = ("parent-cpu", "parent-device", "child-cpu", "child-device")


@WRITE
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-07")
@pytest.mark.contract("I-08")
@pytest.mark.parametrize("writer", WRITERS)
def test_fork_and_the_first_write_after_it(two, writer):
    memory = two.memory
    part = memory[HUGE_PAGES:]

    def child(line):
        line.receive()
        if writer == "child-cpu":
            part.fill(2)
        elif writer == "child-device":
            with Mirror(0) as own:
                own.write(part, 2)
        line.send()
        line.receive()
        with Mirror(1) as own:
            seen = own.read(part).data
            return [seed for seed in (1, 2) if part.matches(seed) and seen.matches(seed)] + [memory[:512].matches(1)]

    begun = []
    try:
        two.expect(lambda: begun.append(Child(child)), [(CLEAR, 0, len(memory))], range(len(memory)))
        for mirror in two.mirrors:
            mirror.read(memory)
            assert not any(page.mapped_write for page in mirror.page_info(memory))
        with logs(*two.mirrors, buf=memory) as started:
            begun[0].line.send()
            begun[0].line.receive()
            if writer == "parent-cpu":
                part.fill(2)
            elif writer == "parent-device":
                two.mirrors[0].write(part, 2)
            if writer.startswith("parent"):
                for log in started:
                    assert told(log, memory)[0] == (CLEAR, HUGE_PAGES, 2 * HUGE_PAGES)
                    assert set(told(log, memory)) == {(CLEAR, HUGE_PAGES, 2 * HUGE_PAGES)}
                assert entries(two.mirrors[1], memory) == list(range(HUGE_PAGES))
            else:
                assert [told(log, memory) for log in started] == [[], []]
        mine, theirs = (2, 1) if writer.startswith("parent") else (1, 2)
        assert part.matches(mine) and memory[:HUGE_PAGES].matches(1)
        assert two.same()
        begun[0].line.send()
        assert begun[0].result() == [theirs, True]
    finally:
        for other in begun:
            other.__exit__(None, None, None)


@WRITE
@pytest.mark.contract("I-23")
@pytest.mark.contract("I-04")
@pytest.mark.parametrize("how", ["punch", "remove", "truncate"])
def test_a_file_that_loses_a_huge_page(mirror, mirror2, how, access):
    fd = file(2 * HUGE)
    with mapping(2, mmap.MAP_SHARED, fd) as memory, mapping(2, mmap.MAP_SHARED, fd) as again:
        memory.fill(1)
        both = [Mapped(span, [mirror, mirror2]) for span in (memory, again)]
        for some in both:
            some.access(access)
        with logs(mirror, mirror2, memory=memory, again=again) as started:
            if how == "truncate":
                os.ftruncate(fd, HUGE)
            elif how == "remove":
                memory[HUGE_PAGES:].advise(mmap.MADV_REMOVE)
            else:
                punch(fd, HUGE, HUGE)
            for some in both:
                assert some.entries() == [list(range(HUGE_PAGES))] * 2
                for log in started:
                    event = UNMAP if NESTED else CLEAR
                    assert set(told(log, some.memory)) == {(event, HUGE_PAGES, 2 * HUGE_PAGES)}
        for mirror_ in (mirror, mirror2):
            if how == "truncate":
                assert refused(mirror_.read, memory) == (errno.EFAULT, HUGE_PAGES)
                assert refused(mirror_.write, again[HUGE_PAGES], 3) == (errno.EFAULT, 0)
            else:
                assert reads_zero(mirror_, memory[HUGE_PAGES:])
            assert mirror_.read(memory[:HUGE_PAGES]).data.matches(1)
        assert memory[:HUGE_PAGES].matches(1)
        if how != "truncate":
            tail = memory[HUGE_PAGES:]
            assert Mapped(tail, [mirror, mirror2]).writes(tail, 5)
            assert again[HUGE_PAGES:].matches(6) and same(mirror, again[HUGE_PAGES:])
    os.close(fd)


class TestSharedTables:
    """Of a shared mapping of 1 GiB and more, processes share page tables: what happens to a page concerns them all."""

    @contextmanager
    def shared(self, mirrors, access):
        """Two pages of such a mapping, which another process maps as well."""
        fd = file(PUD)
        with mapping(PUD // HUGE, mmap.MAP_SHARED | MAP_NORESERVE, fd, align=PUD) as memory:
            near, far = memory[:HUGE_PAGES], memory[5 * HUGE_PAGES : 6 * HUGE_PAGES]
            near.fill(1)
            far.fill(1)

            def child(line):
                near.touch()
                far.touch()
                line.send()
                line.receive()
                return near.matches(1), far.matches(1)

            with Child(child) as other:
                other.line.receive()
                for mirror in mirrors:
                    for span in (near, far):
                        mirror.write(span, 1) if access == "write" else mirror.read(span)
                yield memory, near, far, other
        os.close(fd)

    @ACCESSES
    @pytest.mark.contract("I-23")
    def test_mprotect_of_one_page_drops_all_that_shared_a_table_with_it(self, mirror, mirror2, access):
        with self.shared([mirror, mirror2], access) as (memory, near, far, other):
            with logs(mirror, mirror2, buf=memory) as started:
                far.protect(READ)
                for log in started:
                    events = told(log, memory)
                    # Whose mapping is split, shares no more: then it is the protection of the part only.
                    assert events == [(CLEAR, 0, len(memory)), (PROTECTION_VMA, far.first, far.first + len(far))]
                for each in (mirror, mirror2):
                    assert each.counters().entries_present == 0
            for each in (mirror, mirror2):
                assert same(each, near) and same(each, far)
                assert refused(each.write, far[3], 2) == (errno.EPERM, 0)
                each.write(near, 1)
            other.line.send()
            assert other.result() == (True, True)

    @WRITE
    @pytest.mark.contract("I-23")
    def test_mprotect_of_all_of_it(self, mirror, mirror2, access):
        with self.shared([mirror, mirror2], access) as (memory, near, far, other):
            with logs(mirror, mirror2, buf=memory) as started:
                memory.protect(READ)
                assert [told(log, memory) for log in started] == [[(PROTECTION_VMA, 0, len(memory))]] * 2
                assert [each.counters().entries_present for each in (mirror, mirror2)] == [0, 0]
            for each in (mirror, mirror2):
                assert same(each, near) and same(each, far)
                assert refused(each.write, near[3], 2) == refused(each.write, far[3], 2) == (errno.EPERM, 0)
            other.line.send()
            assert other.result() == (True, True)

    @ACCESSES
    @pytest.mark.contract("I-23")
    def test_dontneed_of_one_page_is_told_of_all_that_shared_a_table_with_it(self, mirror, mirror2, access):
        with self.shared([mirror, mirror2], access) as (memory, near, far, other):
            with logs(mirror, mirror2, buf=memory) as started:
                far.advise(mmap.MADV_DONTNEED)
                for log in started:
                    log.expect(CLEAR, memory, watch=0)
                for each in (mirror, mirror2):
                    assert each.counters().entries_present == 0
            for each in (mirror, mirror2):
                assert same(each, near) and same(each, far) and stale(each, near) == stale(each, far) == []
                each.write(far, 1)
            other.line.send()
            assert other.result() == (True, True)

    @WRITE
    @pytest.mark.contract("I-23")
    def test_a_userfaultfd_ends_the_sharing_which_is_announced(self, mirror, mirror2, access):
        with self.shared([mirror, mirror2], access) as (memory, near, far, other):
            with logs(mirror, mirror2, buf=memory) as started, Userfault(MINOR_HUGETLBFS) as uffd:
                uffd.catch_minor(memory)
                for log in started:
                    log.expect(CLEAR, memory, watch=0)
                for each in (mirror, mirror2):
                    assert each.counters().entries_present == 0
            for each in (mirror, mirror2):
                assert same(each, near) and same(each, far)
                each.write(near, 1)
            other.line.send()
            assert other.result() == (True, True)


@contextmanager
def pool_kept():
    """As many reserved huge pages at the end as there were, where they were: one that is broken leaves the pool."""
    nodes = Path("/sys/devices/system/node").glob("node*/hugepages/hugepages-2048kB/nr_hugepages")
    before = {file: file.read_text() for file in nodes}
    try:
        yield
    finally:
        for file, count in before.items():
            file.write_text(count)
            assert file.read_text() == count


@pytest.mark.contract("I-20")
@pytest.mark.contract("I-23")
@pytest.mark.contract("H-06")
def test_a_broken_huge_page_is_announced_and_kept_from_the_device(mirror):
    def child():
        with Mirror(0) as first, Mirror(1) as second, Region.hugetlb(2) as memory:
            some = Mapped(memory.fill(1), [first, second])
            some.access("write")
            pfn = frames(memory)[HUGE_PAGES + 3]
            with logs(first, second, buf=memory) as started:
                signal.signal(signal.SIGBUS, lambda *_: None)  # some kernels send it to who calls
                memory[HUGE_PAGES + 3].advise(MADV_HWPOISON)
                assert some.entries() == [list(range(HUGE_PAGES))] * 2
                for log in started:
                    assert told(log, memory) == [(CLEAR, HUGE_PAGES, 2 * HUGE_PAGES)]
            for each in some.mirrors:
                assert refused(each.read, memory) == (errno.EFAULT, HUGE_PAGES)
                assert refused(each.write, memory[HUGE_PAGES], 2) == (errno.EFAULT, 0)
                assert same(each, memory[:HUGE_PAGES])
            assert memory[:HUGE_PAGES].matches(1)
            assert poisoned(pfn)
            return pfn

    with pool_kept(), mended() as broken:
        broken.append(in_child(child))


@pytest.mark.contract("H-17")
@pytest.mark.parametrize("how", ["punch", "truncate"])
def test_device_faults_and_holes_in_the_file_do_not_wait_for_each_other(mirror, how):
    """A fault that had the lock of the mapping would wait for a truncation that waits for that lock, for ever."""
    fd = file(2 * HUGE)
    with mapping(2, mmap.MAP_SHARED, fd) as memory:
        memory.fill(1)
        done = []

        def holes():
            for _ in range(40):
                if how == "punch":
                    punch(fd, 0, 2 * HUGE)
                else:
                    os.ftruncate(fd, 0)
                    os.ftruncate(fd, 2 * HUGE)
            done.append(True)

        with Task(holes) as task:
            while not done:
                for page in (0, HUGE_PAGES, 2 * HUGE_PAGES - 1):
                    try:
                        mirror.write(memory[page], 3)
                    except MirrorError as error:
                        assert error.errno in (errno.EFAULT, errno.EBUSY)
            task.result()
        assert stale(mirror, memory) == []
        assert same(mirror, memory)
    os.close(fd)
