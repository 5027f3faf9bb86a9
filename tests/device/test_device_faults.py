# SPDX-License-Identifier: GPL-2.0
"""Section 2: what a device fault gets, from every state that memory can be in, and what a look leaves as it is."""

import errno
import mmap
import os
from contextlib import ExitStack, contextmanager

import pytest
from facilities.disks import ext4, swap, swap_used
from facilities.machine import frames, kpageflags, settle_lru, smaps
from facilities.told import Mapped, alone, blank, entries, logs, reads_zero, refused, same, told

from dmirror.events import CPU_END
from dmirror.memory import (
    HUGE_PAGES,
    MADV_COLLAPSE,
    MADV_PAGEOUT,
    NONE,
    PAGE,
    READ,
    RW,
    WRITE,
    Region,
    Span,
)

pytestmark = pytest.mark.needs(capability="steer")

ZERO_PAGE = 1 << 24  # KPF_ZERO_PAGE, linux/kernel-page-flags.h
BOTH = ("fault", "write")


class State:
    """Sixteen or 512 pages in some state; `seed` of what they hold, None for zeroes."""

    def __init__(self, memory, seed=1):
        self.memory = memory
        self.seed = seed

    def kept(self, span):
        """Whether the CPU finds in the span what was there."""
        return blank(span) if self.seed is None else span.matches(self.seed)


@contextmanager
def untouched(mirror2):
    with alone(16) as memory:
        yield State(memory, None)


@contextmanager
def filled(mirror2):
    with alone(16) as memory:
        yield State(memory.fill(1))


@contextmanager
def zero_pages(mirror2):
    with alone(16) as memory:
        memory.touch()
        yield State(memory, None)


def _huge(prepare, seed):
    @contextmanager
    def make(mirror2):
        with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            memory.advise(mmap.MADV_HUGEPAGE)
            prepare(memory)
            yield State(memory, seed)

    return make


@contextmanager
def hugetlb(mirror2):
    with Region.hugetlb(1) as memory:
        yield State(memory.fill(1))


@contextmanager
def hugetlb_untouched(mirror2):
    with Region.hugetlb(1) as memory:
        yield State(memory, None)


@contextmanager
def shared_untouched(mirror2):
    with Region.memfd(16) as memory:
        yield State(memory, None)


@contextmanager
def shared_not_mapped(mirror2):
    """Pages that are in the file, and not in the page table."""
    with Region.memfd(16) as memory:
        memory.fill(1).advise(mmap.MADV_DONTNEED)
        yield State(memory)


@contextmanager
def on_disk(mirror2):
    with ext4() as root, ExitStack() as stack:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        os.ftruncate(fd, 16 * PAGE)
        with Region.of_file(fd, 16) as memory:
            memory.fill(1)
            os.fsync(fd)
            settle_lru(memory)
            memory.advise(MADV_PAGEOUT)
            yield State(memory)


@contextmanager
def private_file(mirror2):
    with Region.file(16, private=True) as memory:
        yield State(memory, None)


@contextmanager
def swapped(mirror2):
    with swap(), alone(16) as memory:
        settle_lru(memory.fill(1))
        memory.advise(MADV_PAGEOUT)
        assert smaps(memory)["Swap"] == 16
        yield State(memory)


@contextmanager
def elsewhere(mirror2):
    """On another device."""
    with alone(16) as memory:
        mirror2.migrate_to_device(memory.fill(1))
        yield State(memory)


@contextmanager
def exclusive(mirror2):
    """Exclusively another device's."""
    with alone(16) as memory:
        mirror2.exclusive(memory.fill(1))
        assert mirror2.is_exclusive(memory)
        yield State(memory)


STATES = {
    "untouched": untouched,
    "filled": filled,
    "zero-pages": zero_pages,
    "huge-untouched": _huge(lambda memory: None, None),
    "huge": _huge(lambda memory: memory.fill(1), 1),
    "huge-zero": _huge(lambda memory: memory.touch(), None),
    "hugetlb": hugetlb,
    "hugetlb-untouched": hugetlb_untouched,
    "shared-untouched": shared_untouched,
    "shared-not-mapped": shared_not_mapped,
    "on-disk": on_disk,
    "private-file": private_file,
    "swapped": swapped,
    "elsewhere": elsewhere,
    "exclusive": exclusive,
}


@pytest.fixture(params=STATES)
def state(request, mirror, mirror2):
    with STATES[request.param](mirror2) as made:
        yield made


class TestFault:
    @pytest.mark.contract("H-01")
    def test_what_is_read_is_there_afterwards(self, mirror, state):
        result = mirror.read(state.memory)
        assert result.pages == len(state.memory)
        pages = mirror.page_info(state.memory)
        assert all(page.valid and page.mapped == page.pfn == page.backing for page in pages)
        assert not any(page.mapped_write and not page.write for page in pages)
        assert [page.pfn for page in pages] == frames(state.memory)
        assert reads_zero(mirror, state.memory) if state.seed is None else result.data.matches(state.seed)
        assert state.kept(state.memory)
        assert [page.pfn for page in pages] == frames(state.memory)

    @pytest.mark.contract("H-01")
    def test_what_is_written_is_there_afterwards(self, mirror, state):
        assert mirror.write(state.memory, 7).pages == len(state.memory)
        pages = mirror.page_info(state.memory)
        assert all(page.valid and page.write and page.mapped_write for page in pages)
        assert [page.mapped for page in pages] == frames(state.memory)
        assert state.memory.matches(7)
        assert not any(kpageflags(page.pfn) & ZERO_PAGE for page in pages[:16])
        assert mirror.peek(state.memory).matches(7)

    @pytest.mark.contract("H-01")
    @pytest.mark.parametrize("asked", [("fault",), BOTH], ids=["read", "write"])
    def test_a_walk_ends_with_every_page_as_it_was_asked_for(self, mirror, state, asked):
        pages = mirror.walk(state.memory, default=asked).pages
        assert all(page.valid and not page.error for page in pages)
        assert asked != BOTH or all(page.write for page in pages)
        assert [page.pfn for page in pages] == frames(state.memory)
        assert state.kept(state.memory)

    @pytest.mark.contract("H-01")
    def test_one_page_of_many_is_written_and_no_other_changes(self, mirror, state):
        mirror.write(state.memory[5], 7)
        assert state.memory[5].matches(7)
        for rest in (state.memory[:5], state.memory[6:]):
            assert state.kept(rest)
        assert same(mirror, state.memory)

    @pytest.mark.contract("H-01")
    def test_a_write_to_a_private_mapping_does_not_reach_the_file(self, mirror):
        fd = os.memfd_create("dmirror")
        os.ftruncate(fd, 16 * PAGE)
        with Region.of_file(fd, 16) as shared, Region.of_file(fd, 16, private=True) as private:
            shared.fill(1)
            mirror.read(private)
            mirror.read(shared)
            mirror.write(private[4:8], 2)
            assert private[4:8].matches(2) and shared.matches(1)
            assert private[:4].matches(1) and private[8:].matches(1)
            shared.fill(3)
            assert private[4:8].matches(2) and private[:4].matches(3)
            assert same(mirror, private) and same(mirror, shared)
        os.close(fd)


class TestSnapshot:
    @pytest.mark.contract("H-02")
    def test_it_says_what_is_there_and_leaves_everything_as_it_is(self, mirror, mirror2, state):
        memory = state.memory
        before, mapping = memory.pagemap(), smaps(memory)
        counters, other, used = mirror.counters(), mirror2.counters(), swap_used()
        with logs(mirror, mirror2, buf=memory) as started:
            seen = mirror.snapshot(memory)
            pages = mirror.page_info(memory)
            assert [told(log, memory) for log in started] == [[], []]
        # What a fault would bring is no error, and not there.
        assert not any(page.error for page in pages)
        assert [int(page.valid) for page in pages] == [word >> 63 for word in before]
        assert [where != "none" for where in seen.where] == [page.valid for page in pages]
        assert memory.pagemap() == before
        assert smaps(memory) == mapping
        assert mirror.counters().entries_installed == counters.entries_installed
        after = mirror2.counters()
        for name in ("dev_pages_in_use", "dev_cpu_faults", "entries_present"):
            assert getattr(after, name) == getattr(other, name)
        assert swap_used() == used
        assert state.kept(memory)


class TestZeroPage:
    @pytest.mark.contract("H-03")
    @pytest.mark.parametrize("prot", [RW, READ], ids=["rw", "ro"])
    def test_reading_a_hole_takes_no_memory(self, mirror, mirror2, prot):
        with alone(1024, prot=prot) as memory:
            memory.advise(mmap.MADV_NOHUGEPAGE)
            for each in (mirror, mirror2):
                assert reads_zero(each, memory)
            assert smaps(memory)["Rss"] == smaps(memory)["Anonymous"] == 0
            pfns = set(frames(memory))
            assert len(pfns) == 1 and kpageflags(*pfns) & ZERO_PAGE
            pages = mirror.page_info(memory)
            assert all(page.zero and page.valid and not page.write and not page.mapped_write for page in pages)
            assert refused(mirror.poke, memory[3], 7) == (errno.EPERM, 0)
            if prot == READ:
                assert refused(mirror.write, memory[3], 7) == (errno.EPERM, 0)
                assert blank(memory)

    @pytest.mark.contract("H-03")
    def test_reading_a_huge_hole_takes_no_memory(self, mirror):
        with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            memory.advise(mmap.MADV_HUGEPAGE)
            assert reads_zero(mirror, memory)
            assert smaps(memory)["Rss"] == smaps(memory)["Anonymous"] == 0
            assert not any(page.write or page.mapped_write for page in mirror.page_info(memory))
            assert kpageflags(frames(memory)[5]) & ZERO_PAGE
            mirror.write(memory[300], 7)
            assert memory[300].matches(7) and blank(memory[:300]) and blank(memory[301:])
            assert same(mirror, memory)

    @pytest.mark.contract("H-03")
    def test_each_page_that_a_device_writes_is_one_of_its_own(self, mirror, mirror2):
        with alone(16) as memory:
            some = Mapped(memory, [mirror, mirror2])
            some.access("read")
            for page in (2, 9):
                mirror.write(memory[page], 7)
                assert memory[page].matches(7)
                assert mirror2.read(memory[page]).data.matches(7)
            zero = [page for page, pfn in enumerate(frames(memory)) if kpageflags(pfn) & ZERO_PAGE]
            assert zero == [page for page in range(16) if page not in (2, 9)]
            assert blank(memory[:2]) and blank(memory[3:9]) and blank(memory[10:])
            with alone(4) as other:
                assert reads_zero(mirror, other) and blank(other)
            assert some.same()


def no_mapping(stack):
    memory = stack.enter_context(alone(3))
    memory[1].unmap()
    return memory[1]


def protected(prot):
    def make(stack):
        memory = stack.enter_context(alone(3))
        memory.fill(1).protect(prot)
        return memory[1]

    return make


def past_the_end(stack):
    fd = os.memfd_create("dmirror")
    stack.callback(os.close, fd)
    os.ftruncate(fd, PAGE)
    return stack.enter_context(Region.of_file(fd, 2))[1]


def special(name):
    """A mapping of the kernel's own, of page frames without pages."""

    def make(stack):
        with open("/proc/self/maps") as maps:
            for line in maps:
                if line.rstrip().endswith(name):
                    return Span(int(line.split("-")[0], 16), 1)
        pytest.skip(f"this process has no {name}")

    return make


def read_only_file(stack):
    fd = os.memfd_create("dmirror")
    stack.callback(os.close, fd)
    os.ftruncate(fd, PAGE)
    return stack.enter_context(Region.of_file(fd, 1, prot=READ))


IMPOSSIBLE = {
    "no-mapping": (no_mapping, errno.EFAULT, errno.EFAULT),
    "no-access": (protected(NONE), errno.EFAULT, errno.EFAULT),
    "execute-only": (protected(mmap.PROT_EXEC), errno.EFAULT, errno.EFAULT),
    "write-only": (protected(WRITE), errno.EFAULT, errno.EFAULT),
    "past-the-end-of-a-file": (past_the_end, errno.EFAULT, errno.EFAULT),
    "no-pages": (special("[vvar]"), errno.EFAULT, errno.EFAULT),
    "read-only": (protected(READ), None, errno.EPERM),
    "read-only-file": (read_only_file, None, errno.EPERM),
}


def param(what):
    # The kernel's own data are pages since 7.0.
    marks = pytest.mark.needs(kernel="<7.0") if what == "no-pages" else ()
    return pytest.param(what, marks=marks)


class TestRefusal:
    @pytest.mark.contract("H-06")
    @pytest.mark.parametrize("what", [param(what) for what in IMPOSSIBLE])
    def test_what_the_cpu_may_not_the_device_may_not(self, mirror, mirror2, what):
        make, reading, writing = IMPOSSIBLE[what]
        with ExitStack() as stack:
            page = make(stack)
            for each in (mirror, mirror2):
                assert refused(each.read, page) == (reading and (reading, 0))
                assert refused(each.write, page, 7) == (writing, 0)
                assert refused(lambda mirror=each: mirror.walk(page, default=("fault",))) == (reading and (reading, 0))
                assert refused(lambda mirror=each: mirror.walk(page, default=BOTH)) == (writing, 0)
                # Nothing that is there may be written.
                assert refused(each.poke, page, 7)[0] in (errno.ENOENT, errno.EPERM)
                if reading:
                    assert entries(each, page) == []

    @pytest.mark.contract("H-06")
    @pytest.mark.contract("H-02")
    @pytest.mark.parametrize("what", [param(what) for what in ("no-mapping", "no-access", "execute-only", "no-pages")])
    def test_a_look_says_that_it_is_impossible(self, mirror, what):
        with ExitStack() as stack:
            page = IMPOSSIBLE[what][0](stack)
            assert mirror.page_info(page)[0].error
            assert mirror.snapshot(page).where == ["error"]


class TestAnotherDevice:
    @pytest.mark.contract("H-10")
    @pytest.mark.parametrize("access", ["read", "write"])
    def test_only_the_pages_that_are_wanted_come_back_once(self, mirror, mirror2, access):
        with alone(16) as memory:
            mirror2.migrate_to_device(memory.fill(1))
            mirror2.write(memory, 2)
            resident, before = smaps(memory), mirror2.counters()
            with mirror2.events(buf=memory) as log:
                if access == "read":
                    assert mirror.read(memory[4:8]).data.matches(2)
                else:
                    mirror.write(memory[4:8], 3)
                log.expect(CPU_END, over=memory, times=4)
                ends = log.select(CPU_END, over=memory)
                assert [(event.start, event.pages) for event in ends] == [(memory[p].addr, 1) for p in range(4, 8)]
                # It lost what is no longer its own, and nothing else.
                assert entries(mirror2, memory) == [page for page in range(16) if page not in range(4, 8)]
            gone = mirror2.counters() - before
            assert (gone.dev_pages_in_use, gone.dev_cpu_faults, gone.dev_pages_faulted) == (-4, 4, 4)
            assert entries(mirror, memory) == [4, 5, 6, 7]
            assert mirror2.snapshot(memory).picture() == "DDDDrrrrDDDDDDDD"
            assert mirror.snapshot(memory).picture() == "....rrrr........"
            assert (smaps(memory)["Rss"], smaps(memory)["Anonymous"]) == (16, 16) == (resident["Rss"], 16)
            assert mirror2.read(memory[4:8]).data.matches(2 if access == "read" else 3)
            assert memory[:4].matches(2) and memory[8:].matches(2)
            assert memory[4:8].matches(2 if access == "read" else 3)

    @pytest.mark.contract("H-10")
    @pytest.mark.needs(capability="device_thp")
    @pytest.mark.parametrize("access", ["read", "write"])
    def test_a_huge_page_comes_back_as_one(self, mirror, mirror2, access):
        with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            memory.advise(mmap.MADV_HUGEPAGE)
            mirror2.migrate_to_device(memory.fill(1))
            mirror2.write(memory, 2)
            before = mirror2.counters()
            if access == "read":
                assert mirror.read(memory[300]).data.matches(2)
            else:
                mirror.write(memory[300], 3)
            gone = mirror2.counters() - before
            assert (gone.dev_pages_in_use, gone.dev_cpu_faults) == (-HUGE_PAGES, 1)
            assert entries(mirror2, memory) == []
            assert memory[:300].matches(2) and memory[301:].matches(2)
            assert memory[300].matches(2 if access == "read" else 3)
            assert same(mirror, memory) and same(mirror2, memory)


class TestOrder:
    @contextmanager
    def collapsed(self):
        fd = os.memfd_create("dmirror")
        os.ftruncate(fd, HUGE_PAGES * PAGE)
        with Region._map(HUGE_PAGES, RW, mmap.MAP_SHARED, fd, align=HUGE_PAGES * PAGE) as memory:
            memory.fill(1).advise(MADV_COLLAPSE)
            yield memory
        os.close(fd)

    @contextmanager
    def huge(self):
        with alone(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            memory.advise(mmap.MADV_HUGEPAGE)
            yield memory.fill(1)

    @pytest.mark.contract("H-13")
    @pytest.mark.parametrize(
        "kind",
        ["huge", pytest.param("collapsed", marks=pytest.mark.needs(kernel=">=6.2")), "hugetlb", "small"],
    )
    def test_every_page_says_how_large_its_mapping_is(self, mirror, kind):
        makers = {"hugetlb": lambda: Region.hugetlb(1), "small": lambda: alone(16)}
        with makers.get(kind, getattr(self, kind, None))() as memory:
            memory.fill(1)
            order, name = (0, "pte") if kind == "small" else (9, "pmd")
            for span in (memory, memory[3:7], memory[len(memory) - 1]):
                assert {page.order for page in mirror.page_info(span)} == {order}
                assert {page.order for page in mirror.snapshot(span)} == {name}
                assert {page.order for page in mirror.walk(span, default=BOTH).pages} == {order}

    @pytest.mark.contract("H-13")
    def test_a_huge_page_that_is_mapped_in_parts_is_small(self, mirror):
        with self.huge() as memory:
            memory[100:200].protect(READ)
            pages = mirror.page_info(memory)
            assert {page.order for page in pages} == {0}
            assert [page.pfn for page in pages] == list(range(pages[0].pfn, pages[0].pfn + HUGE_PAGES))
            assert [page.write for page in pages] == [not 100 <= page < 200 for page in range(HUGE_PAGES)]

    @pytest.mark.contract("H-13")
    def test_neighbours_of_different_sizes_each_say_their_own(self, mirror):
        with alone(3 * HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
            middle = memory[HUGE_PAGES : 2 * HUGE_PAGES]
            middle.advise(mmap.MADV_HUGEPAGE)
            middle.fill(1)
            span = memory[HUGE_PAGES - 8 : 2 * HUGE_PAGES + 8]
            span.fill(1)
            pages = mirror.page_info(span)
            assert [page.order for page in pages] == [0] * 8 + [9] * HUGE_PAGES + [0] * 8
            assert [page.pfn for page in pages] == frames(span)
