# SPDX-License-Identifier: GPL-2.0
"""Section 8: what happens to a file reaches the mirrors through every mapping of it, and only where it is mapped."""

import errno
import mmap
import os
from contextlib import ExitStack, contextmanager

import pytest
from facilities.disks import ext4
from facilities.machine import settle_lru
from facilities.syscalls import punch, syscall
from facilities.told import Mapped, entries, logs, reads_zero, refused, told
from facilities.uprobes import BREAKPOINT, NOP, text, uprobe

from dmirror.events import CLEAR, PROTECTION_PAGE, RELEASE, UNMAP
from dmirror.memory import MADV_PAGEOUT, PAGE, READ, Region
from dmirror.mirror import Mirror

pytestmark = pytest.mark.needs(capability="steer")

MS_SYNC = 4  # asm-generic/mman-common.h
ACCESSES = pytest.mark.parametrize("access", ["read", "write"])


@pytest.fixture(params=["memfd", "ext4"])
def file(request):
    """The descriptor of a file of sixteen pages."""
    with ExitStack() as stack:
        if request.param == "memfd":
            fd = os.memfd_create("dmirror")
        else:
            fd = os.open(stack.enter_context(ext4()) / "file", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        os.ftruncate(fd, 16 * PAGE)
        yield fd


@pytest.fixture
def disk_file():
    """The descriptor of a file of sixteen pages on a disk, and one that reads what is on the disk."""
    with ext4() as root, ExitStack() as stack:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        os.ftruncate(fd, 16 * PAGE)
        direct = os.open(root / "file", os.O_RDONLY | os.O_DIRECT)
        stack.callback(os.close, direct)
        yield fd, direct


@contextmanager
def mappings(fd, mirrors, access):
    """Two shared mappings of the file and a private one, of which pages 0, 5 and 10 are copies; devices map all."""
    with Region.of_file(fd, 16) as one, Region.of_file(fd, 16) as two, Region.of_file(fd, 16, private=True) as copy:
        one.fill(1)
        copy.touch()
        for page in (0, 5, 10):
            copy[page].fill(1)
        shared = [Mapped(span, mirrors) for span in (one, two)]
        for some in shared:
            some.access(access)
        private = Mapped(copy, mirrors)
        private.access("read")
        yield shared, private


HOLES = {
    "punch": lambda fd, span: punch(fd, 4 * PAGE, 4 * PAGE),
    "remove": lambda fd, span: span[4:8].advise(mmap.MADV_REMOVE),
}


@ACCESSES
@pytest.mark.contract("I-04")
@pytest.mark.contract("F-03")
@pytest.mark.parametrize("how", HOLES)
def test_a_hole_in_a_file_is_announced_in_every_mapping(mirror, mirror2, file, how, access):
    left = [page for page in range(16) if page not in range(4, 8)]
    with mappings(file, [mirror, mirror2], access) as (shared, private), logs(mirror, mirror2) as started:
        HOLES[how](file, shared[0].memory)
        for some in (*shared, private):
            assert some.entries() == [left] * 2
            for log in started:
                # The ext4 of 6.1 writes back before it makes a hole.
                events = {event for event in told(log, some.memory) if event[0] != PROTECTION_PAGE}
                assert events == {(CLEAR, 4, 8)}
        for some in shared:
            assert all(reads_zero(each, some.memory[4:8]) for each in some.mirrors)
            assert some.same() and some.memory[:4].matches(1) and some.memory[8:].matches(1)
        # A copy is nobody's but the mapping's.
        assert private.same() and private.memory[5].matches(1) and reads_zero(mirror, private.memory[4])
        assert shared[0].writes(shared[0].memory, 5) and shared[1].same() and shared[1].memory.matches(6)


@ACCESSES
@pytest.mark.contract("I-04")
@pytest.mark.contract("F-03")
def test_a_file_that_ends_earlier_is_announced_in_every_mapping(mirror, mirror2, file, access):
    with mappings(file, [mirror, mirror2], access) as (shared, private), logs(mirror, mirror2) as started:
        os.ftruncate(file, 4 * PAGE)
        for some in (*shared, private):
            assert some.entries() == [list(range(4))] * 2
            assert [set(told(log, some.memory)) for log in started] == [{(CLEAR, 4, 16)}] * 2
            for each in some.mirrors:
                # Copies are gone, too.
                assert refused(each.read, some.memory) == (errno.EFAULT, 4)
                assert refused(each.write, some.memory[10], 3) == (errno.EFAULT, 0)
                assert each.read(some.memory[:4]).data.matches(1)
        os.ftruncate(file, 16 * PAGE)
        for some in (*shared, private):
            assert all(reads_zero(each, some.memory[4:]) for each in some.mirrors)
            assert some.same()


@pytest.mark.contract("I-04")
@pytest.mark.contract("F-03")
def test_what_happens_to_a_part_that_is_not_mapped_is_not_told(mirror, mirror2, file):
    with Region.of_file(file, 4) as memory:
        some = Mapped(memory.fill(1), [mirror, mirror2])
        some.access("write")

        def act():
            punch(file, 4 * PAGE, 4 * PAGE)
            os.ftruncate(file, 4 * PAGE)
            os.ftruncate(file, 16 * PAGE)

        some.expect(act, [], [])


@ACCESSES
@pytest.mark.contract("I-02")
@pytest.mark.contract("F-03")
def test_dontneed_of_one_mapping_is_told_of_that_one_and_loses_nothing(mirror, mirror2, file, access):
    with mappings(file, [mirror, mirror2], access) as (shared, private), logs(mirror, mirror2) as started:
        shared[0].memory[4:8].advise(mmap.MADV_DONTNEED)
        assert shared[0].entries() == [[page for page in range(16) if page not in range(4, 8)]] * 2
        assert shared[1].entries() == private.entries() == [list(range(16))] * 2
        assert [told(log, shared[0].memory) for log in started] == [[(CLEAR, 4, 8)]] * 2
        assert [told(log, shared[1].memory) for log in started] == [[], []]
        assert shared[0].same() and shared[0].memory.matches(1)
        assert shared[0].writes(shared[0].memory, 5) and shared[1].memory.matches(6)


@pytest.mark.contract("I-27")
@pytest.mark.contract("F-03")
def test_data_that_are_written_to_a_file_are_what_the_device_reads(mirror, mirror2, file):
    """By write(2): they are the same pages, so nothing is told."""
    with mappings(file, [mirror, mirror2], "write") as (shared, _):
        shared[0].expect(lambda: os.pwrite(file, b"dmirror!" * 512, 3 * PAGE), [], [])
        for some in shared:
            for each in some.mirrors:
                assert each.peek(some.memory[3]).word(0) == int.from_bytes(b"dmirror!", "little")
            assert some.same()


class TestWriteBack:
    @pytest.mark.contract("I-22")
    @pytest.mark.contract("F-04")
    @pytest.mark.parametrize("how", ["fsync", "msync"])
    def test_pages_that_are_written_back_are_announced_and_dirtied_again(self, mirror, mirror2, disk_file, how):
        fd, direct = disk_file
        page = mmap.mmap(-1, PAGE)
        with Region.of_file(fd, 16) as one, Region.of_file(fd, 16) as two:
            one.fill(1)
            two.touch()
            os.fsync(fd)
            both = [Mapped(span, [mirror, mirror2]) for span in (one, two)]
            for some in both:
                some.access("read")
            for seed in (2, 3):
                mirror.write(one[4:8], seed)
                for some in both:
                    some.access("read")
                with logs(mirror, mirror2, one=one, two=two) as started:
                    if how == "fsync":
                        os.fsync(fd)
                    else:
                        syscall("msync", one.addr, one.bytes, MS_SYNC)
                    events = [(PROTECTION_PAGE, number, number + 1) for number in range(4, 8)]
                    for some in both:
                        assert some.entries() == [[number for number in range(16) if number not in range(4, 8)]] * 2
                        assert [sorted(told(log, some.memory)) for log in started] == [events] * 2
                for number in range(4, 8):
                    os.preadv(direct, [page], number * PAGE)
                    assert page[:] == os.pread(fd, PAGE, number * PAGE)
                assert one[4:8].matches(seed)
                assert all(some.same() for some in both)
                assert not any(info.mapped_write for each in (mirror, mirror2) for info in each.page_info(one[4:8]))
                assert mirror.write(one[5], seed).faults == 1

    @pytest.mark.contract("I-22")
    @pytest.mark.contract("I-27")
    def test_pages_that_are_clean_are_not_announced(self, mirror, mirror2, disk_file):
        fd, _ = disk_file
        with Region.of_file(fd, 16) as memory:
            memory.fill(1)
            os.fsync(fd)
            some = Mapped(memory, [mirror, mirror2])
            some.access("read")
            some.expect(lambda: os.fsync(fd), [], [])

    @pytest.mark.contract("I-09")
    @pytest.mark.contract("F-03")
    def test_a_clean_page_of_a_file_that_is_reclaimed_is_announced(self, mirror, mirror2, disk_file):
        fd, _ = disk_file
        with Region.of_file(fd, 16) as memory:
            memory.fill(1)
            os.fsync(fd)
            some = Mapped(memory, [mirror, mirror2])
            some.access("read")
            settle_lru(memory)
            with logs(mirror, mirror2, buf=memory) as started:
                memory[4:8].advise(MADV_PAGEOUT)
                assert some.entries() == [[page for page in range(16) if page not in range(4, 8)]] * 2
                events = [(CLEAR, page, page + 1) for page in range(4, 8)]
                assert [sorted(told(log, memory)) for log in started] == [events] * 2
            assert some.same() and memory.matches(1) and some.writes(memory, 5)


# In 6.1 the range begins at the breakpoint and is a page long: the next page is told of, too (uprobes.c:164).
@pytest.mark.contract("I-24")
@pytest.mark.parametrize("offset", [0, pytest.param(16, marks=pytest.mark.needs(kernel=">=6.12"))])
def test_a_breakpoint_is_announced_and_seen_and_its_end_too(mirror, mirror2, offset):
    with text(4) as (fd, path), Region.of_file(fd, 4, prot=READ | mmap.PROT_EXEC, private=True) as memory:
        memory.touch()
        some = Mapped(memory, [mirror, mirror2])
        some.access("read")
        with uprobe(path, PAGE + offset) as enable:
            for on, byte in ((True, BREAKPOINT), (False, NOP)):
                with logs(mirror, mirror2, buf=memory) as started:
                    enable(on)
                    assert some.entries() == [[0, 2, 3]] * 2
                    assert [told(log, memory) for log in started] == [[(CLEAR, 1, 2)]] * 2
                for each in some.mirrors:
                    assert each.read(memory[1]).data.word(0, offset // 8) & 0xFF == byte, hex(
                        each.read(memory[1]).data.word(0, 2)
                    )
                assert some.same()
                some.access("read")


def leave(mirror, mirror2, memory):
    os._exit(0)


def execute(mirror, mirror2, memory):
    os.execv("/bin/true", ["true"])


class TestTheEnd:
    """The mirrors of a process that ends, or becomes another, are told before anything of its memory goes."""

    @pytest.mark.contract("I-25")
    @pytest.mark.parametrize("how", [leave, execute, None], ids=["exit", "exec", "killed"])
    @pytest.mark.parametrize("where", ["ram", "device"])
    def test_it_is_told_once_and_first(self, mirror, mirrored, how, where):
        def begin(memory):
            opened = [Mirror(0), Mirror(1)]
            memory.fill(1)
            if where == "device":
                opened[0].migrate_to_device(memory)
            opened[0].write(memory, 1)
            if where == "ram":
                opened[1].write(memory, 1)
            return opened

        before = mirror.counters().dev_pages_in_use
        with mirrored(begin, how, keep=True) as other, logs(*other.mirrors, buf=other.memory) as started:
            if how is None:
                other.child.kill()
            else:
                other.child.line.send()
                other.child.wait()
            for log, each in zip(started, other.mirrors, strict=True):
                (event,) = log.expect(RELEASE, watch=0)
                assert (event.start, event.end, event.blockable, event.filtered) == (0, (1 << 64) - 1, True, False)
                kinds = [kind for kind, _, _ in told(log, other.memory)]
                assert kinds[0] == RELEASE and set(kinds[1:]) <= {UNMAP}
                assert entries(each, other.memory) == [] and each.counters().entries_present == 0
                assert refused(each.read, other.memory) == (errno.EFAULT, 0)
                assert refused(each.write, other.memory, 2) == (errno.EFAULT, 0)
            assert mirror.counters().dev_pages_in_use == before
