# SPDX-License-Identifier: GPL-2.0
"""Section 10, the entry itself: what a page is when it comes back to the CPU, and what others do to it meanwhile."""

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

import pytest
from facilities.cgroups import Cgroup, leave
from facilities.disks import swap, swap_used
from facilities.kin import Offspring, Parent, store_is_refused
from facilities.machine import frames, status, vmstat
from facilities.syscalls import move_pages
from facilities.userfault import Userfault

from dmirror.events import CLEAR, EXCLUSIVE, MADE_EXCLUSIVE, PROTECTION_VMA
from dmirror.memory import MADV_COLLAPSE, MADV_PAGEOUT, NONE, READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import in_child
from dmirror.running import release_matches
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")
RELEASE = os.uname().release
ONE_PAGE_CALL = release_matches(RELEASE, ">=6.15")
"""make_device_exclusive() is of one page, and its revocation is CLEAR."""

SOFT_DIRTY, UFFD_WP = 1 << 55, 1 << 57  # /proc/PID/pagemap
MADV_FREE, MADV_COLD = 8, 20  # asm-generic/mman-common.h


SLACK = 256
"""Pages: what the counts of processors lag behind, and the interpreter's own."""


def gone(mirror, span):
    """That the device has no entry for any page."""
    with pytest.raises(MirrorError) as caught:
        mirror.peek(span)
    assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)


# -- what comes back ----------------------------------------------------------------------------------------------


@pytest.mark.contract("X-01")
@pytest.mark.contract("X-07")
@pytest.mark.parametrize("access", ["load", "store", "read", "device-read", "device-write", "other-reads"])
def test_the_same_page_comes_back_writable(mirror, mirror2, region, access):
    region.fill(1)
    before = frames(region)
    assert mirror.make_exclusive(region) == 16
    assert frames(region) == [None] * 16
    assert all(page.mapped == pfn for page, pfn in zip(mirror.page_info(region), before, strict=True))
    if access == "load":
        region.touch()
    elif access == "store":
        region.fill(1)
    elif access == "read":
        assert not store_is_refused(region)
        region.fill(1)
    elif access == "device-read":
        mirror.walk(region, default=("fault",))
    elif access == "device-write":
        mirror.write(region, 1)
    else:
        mirror2.read(region)
    assert frames(region) == before
    assert all(page.writable for page in mirror.snapshot(region))
    assert not mirror.is_exclusive(region)
    assert region.matches(1)


@pytest.mark.contract("X-01")
def test_a_snapshot_does_not_take_it_back(mirror, mirror2, region):
    mirror.make_exclusive(region.fill(1))
    with mirror.events() as log:
        assert mirror.snapshot(region).picture() == mirror2.snapshot(region).picture() == "." * 16
        assert not any(page.valid for page in mirror2.page_info(region))
        region.pagemap()
        log.expect((CLEAR, EXCLUSIVE), over=region, times=0)
    assert mirror.is_exclusive(region[0]) and mirror.is_exclusive(region[15])
    assert mirror.peek(region).matches(1)


@pytest.mark.contract("X-01")
def test_what_the_device_stored_alone_is_what_the_cpu_finds(mirror, region):
    mirror.make_exclusive(region.fill(1))
    mirror.write(region, 2)
    assert region.matches(2)


@pytest.mark.contract("X-11")
def test_only_a_request_takes_it_back_and_only_where_it_is_for(mirror, mirror2, region):
    mirror.make_exclusive(region.fill(1))
    mirror2.walk(region)
    assert all(page.mapped_atomic for page in mirror.page_info(region))
    with mirror.events() as log:
        assert mirror2.walk(region[3:5], default=("fault",)).pages[0].write
        log.expect(CLEAR if ONE_PAGE_CALL else EXCLUSIVE, over=region, times=2)
        for page in (3, 4):
            log.expect((CLEAR, EXCLUSIVE), region[page], pages=1, filtered=False)
    assert [page for page, info in enumerate(mirror.page_info(region)) if not info.mapped_atomic] == [3, 4]


@pytest.mark.contract("X-07")
@pytest.mark.parametrize("access", ["load", "device-read", "fork"])
def test_of_memory_made_read_only_a_page_comes_back_read_only(mirror, mirror2, region, access):
    mirror.make_exclusive(region.fill(1))
    with mirror.events() as log:
        region[:8].protect(READ)
        log.expect(PROTECTION_VMA, region[:8], filtered=False, pages=8)
    gone(mirror, region[:8])
    if access == "load":
        region.touch()
    elif access == "device-read":
        mirror2.read(region)
    else:
        assert in_child(lambda: region.matches(1))
    assert [page.writable for page in mirror.snapshot(region[:8])] == [False] * 8
    assert store_is_refused(region) and store_is_refused(region, 7)
    assert not store_is_refused(region, 8)
    region[8].fill(1)
    for device in (mirror, mirror2):
        with pytest.raises(MirrorError) as caught:
            device.write(region[3], 2)
        assert caught.value.errno == errno.EPERM
    assert region.matches(1)
    region[:8].protect(RW)
    assert region.fill(2).matches(2)


@pytest.mark.contract("X-07")
def test_of_memory_made_inaccessible_and_back_a_page_has_its_data_and_rights(mirror, region):
    mirror.make_exclusive(region.fill(1))
    region.protect(NONE)
    gone(mirror, region)
    assert store_is_refused(region)
    with pytest.raises(MirrorError):
        mirror.read(region)
    region.protect(RW)
    assert region.matches(1)
    # Before 6.15 the entry had a right to write of its own, which mprotect(2) took.
    assert all(page.writable for page in mirror.snapshot(region)) or not ONE_PAGE_CALL
    before = frames(region)
    assert region.fill(2).matches(2)
    assert frames(region) == before


@pytest.mark.contract("X-07")
@pytest.mark.parametrize("access", ["load", "store"])
def test_a_page_write_protected_meanwhile_comes_back_write_protected(mirror, region, access):
    region.fill(1)
    with Userfault() as userfault:
        userfault.register_wp(region)
        mirror.make_exclusive(region)
        userfault.protect(region[3])
        gone(mirror, region[3])
        assert [word & UFFD_WP != 0 for word in region.pagemap()] == [page == 3 for page in range(16)]
        if access == "load":
            region.touch()
            assert [page.writable for page in mirror.snapshot(region)] == [page != 3 for page in range(16)]
            assert [word & UFFD_WP != 0 for word in region.pagemap()] == [page == 3 for page in range(16)]
        with Task(region.store, 99, 3) as cpu:
            try:
                assert userfault.wait_caught() == region[3].addr
            finally:
                userfault.allow(region[3])
            cpu.result()
        assert region.load(3) == 99
        region.store(99, 4)
        assert userfault.caught() is None


@pytest.mark.contract("X-07")
@pytest.mark.parametrize("first", ["written", "clean"])
def test_soft_dirty_comes_back_with_the_page(mirror, region, first):
    region.advise(mmap.MADV_DONTDUMP)  # a mapping of its own
    region.fill(1)
    Path("/proc/self/clear_refs").write_text("4")
    # To make it exclusive is a write to it.
    mirror.make_exclusive(region)
    assert all(word & SOFT_DIRTY for word in region.pagemap())
    if first == "written":
        region.touch()
        assert all(word & SOFT_DIRTY for word in region.pagemap())
        return
    Path("/proc/self/clear_refs").write_text("4")
    assert not any(word & SOFT_DIRTY for word in region.pagemap())
    gone(mirror, region)
    region[:8].touch()
    if ONE_PAGE_CALL:
        assert not any(word & SOFT_DIRTY for word in region.pagemap()[:8])
        assert not any(page.writable for page in mirror.snapshot(region[:8]))
        region.fill(2)
        assert all(word & SOFT_DIRTY for word in region.pagemap())


@pytest.mark.contract("X-07")
@pytest.mark.contract("M-11")
def test_a_page_dirty_by_its_entry_alone_is_dirty_when_it_is_back(mirror, region):
    """Its data were free to go; the CPU stored to it since, of which only the page table knew."""
    region.fill(1)
    region.advise(MADV_FREE)
    region.fill(2)
    mirror.make_exclusive(region)
    region.touch()
    region.advise(MADV_PAGEOUT)
    assert region.matches(2)


# -- what it may be, and what becomes of the rest -----------------------------------------------------------------


REFUSED = {
    "read-only": errno.EFAULT,
    "gap": errno.EFAULT,
    "no-access": errno.EFAULT,
    "shared": errno.EOPNOTSUPP,
    "file": errno.EOPNOTSUPP,
    "hugetlb": errno.EOPNOTSUPP,
}


@pytest.mark.contract("X-08")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exclusive_is_refused_by_its_error_and_left_as_it_was(mirror, mirror2, kind):
    make = {"shared": Region.shared, "file": Region.file, "hugetlb": lambda npages: Region.hugetlb(1)}
    with make.get(kind, Region.anonymous)(4) as whole:
        region = whole[:4].fill(1)
        if kind == "read-only":
            whole.protect(READ)
        elif kind == "no-access":
            whole.protect(NONE)
        elif kind == "gap":
            whole.unmap()
        before = region.pagemap()
        with mirror2.events() as log, pytest.raises(MirrorError) as caught:
            mirror.make_exclusive(region)
        assert caught.value.pages == 0
        if ONE_PAGE_CALL:
            assert caught.value.errno == REFUSED[kind]
        log.expect(MADE_EXCLUSIVE, over=region, times=0)
        log.expect(EXCLUSIVE, over=region, times=0 if ONE_PAGE_CALL else len(log.select(EXCLUSIVE, over=region)))
        assert region.pagemap() == before
        assert not mirror.is_exclusive(region)
        if kind in REFUSED and kind not in ("gap", "no-access"):
            assert region.matches(1)


@pytest.mark.contract("X-08")
@pytest.mark.needs(kernel=">=6.15")
def test_of_a_huge_page_one_page_is_exclusive_and_the_rest_is_in_place(mirror, mirror2):
    with Region.huge(1) as huge:
        mirror2.read(huge.fill(1))
        before = frames(huge)
        assert mirror.make_exclusive(huge[7]) == 1
        assert mirror.is_exclusive(huge[7])
        pages = mirror2.page_info(huge)
        assert not pages[7].valid and {page.order for page in pages} == {0}
        assert all(page.valid and page.write for page in pages[:7] + pages[8:])
        now = frames(huge)
        assert now[7] is None and now[:7] + now[8:] == before[:7] + before[8:]
        gone(mirror2, huge[7])
        huge[:7].fill(2)
        assert mirror.is_exclusive(huge[7])
        assert mirror.peek(huge[7]).matches(1)
        huge[7].touch()
        assert frames(huge) == before
        assert huge[7:].matches(1) and huge[:7].matches(2)


@pytest.mark.contract("X-08")
@pytest.mark.parametrize(
    "what",
    [
        *("hole", "zero-page", "huge-zero", "swapped", "own-device", "other-device"),
        pytest.param("coherent", marks=pytest.mark.needs(capability="coherent_exclusive")),
    ],
)
def test_what_is_elsewhere_becomes_a_page_of_the_processs_own_first(mirror, mirror2, coherent, what):
    """A page that can be stored to, of which nobody else has any part."""
    with (
        Region.huge(1) if what == "huge-zero" else Region.anonymous(16) as memory,
        Region.anonymous(16) as other,
        swap(),
    ):
        region = memory[:16]
        other.touch()
        if what not in ("hole", "zero-page", "huge-zero"):
            memory.fill(1)
        if what in ("zero-page", "huge-zero"):
            region.touch()
        elif what == "swapped":
            memory.advise(MADV_PAGEOUT)
        elif what != "hole":
            {"own-device": mirror, "other-device": mirror2, "coherent": coherent}[what].migrate(memory)
        with Offspring(other) as child:
            assert mirror.make_exclusive(region) == 16
            data = mirror.peek(region)
            assert data.zero() if what in ("hole", "zero-page", "huge-zero") else data.matches(1)
            mirror.write(region, 2)
            assert region.matches(2)
            assert not any(page.zero or not page.write for page in mirror.page_info(region))
            assert not other.load() and mirror2.read(other).data.zero()
            assert child("word", 3) == 0
            child.leave()
        memory.advise(mmap.MADV_DONTNEED)


@pytest.mark.contract("X-06")
@pytest.mark.contract("C-01")
@pytest.mark.parametrize("writer", ["parent-cpu", "parent-device", "child-cpu", "child-device"])
@pytest.mark.parametrize("prot", [RW, READ], ids=["read-write", "read-only"])
def test_fork_takes_it_back_for_both_and_it_is_writable_for_nobody(mirror, region, writer, prot):
    before = frames(region.fill(1))
    mirror.make_exclusive(region)
    region.protect(prot)
    parent = Parent(mirror, region)
    with Offspring(region) as child:
        gone(mirror, region)
        assert frames(region) == before == child("frames")
        assert not any(parent("writable")) and not any(child("writable"))
        region.protect(RW)
        child("prot", RW)
        assert not any(parent("writable")) and not any(child("writable"))
        who, what = writer.split("-")
        one, two = (parent, child) if who == "parent" else (child, parent)
        one(what, 2)
        assert one("cpu-sees", 2) and two("cpu-sees", 1)
        assert one("device-sees", 2) and two("device-sees", 1)
        two("cpu", 3)
        assert one("cpu-sees", 2) and two("device-sees", 3)
        child.leave()


@pytest.mark.contract("X-05")
@pytest.mark.contract("X-06")
@pytest.mark.parametrize("who", ["parent", "child"])
def test_a_shared_page_is_copied_before_it_becomes_exclusive(mirror, region, who):
    """For the one who asks; the other keeps what it had, and is not told."""
    before = frames(region.fill(1))
    parent = Parent(mirror, region)
    with Offspring(region) as child:
        one, two = (parent, child) if who == "parent" else (child, parent)
        two("device-reads")
        one("exclusive")
        assert two("frames") == before and two("mapped") == 16
        one("device", 2)
        assert two("device-sees", 1) and two("cpu-sees", 1)
        two("cpu", 3)
        assert one("cpu-sees", 2)
        child.leave()


# -- what others do meanwhile -------------------------------------------------------------------------------------


@pytest.mark.contract("X-09")
@pytest.mark.parametrize("how", ["munmap", "dontneed", "exit", "mremap-over", "close-first"])
def test_what_is_unmapped_while_it_is_exclusive_is_freed_once_and_counted(mirror, how):
    """The kernel complains of an address space whose counts are not even."""
    with Cgroup(f"dmirror-exclusive-{how}") as group:

        def child():
            group.join()
            with Mirror(0) as own, Region.anonymous(1024) as memory, Region.anonymous(1024) as other:
                memory.fill(1)
                other.fill(2)
                rss = status("RssAnon")
                assert own.make_exclusive(memory) == 1024
                assert abs(status("RssAnon") - rss) < SLACK
                if how == "exit":
                    os._exit(0)
                if how == "close-first":
                    own.close()
                    memory.advise(mmap.MADV_DONTNEED)
                    assert not memory.load()
                elif how == "mremap-over":
                    other.move(memory)
                    assert memory.matches(2)
                elif how == "munmap":
                    memory[:].unmap()
                else:
                    memory.advise(mmap.MADV_DONTNEED)
                    assert not memory.load()
                # Before the device is asked, for which as much memory is needed as it is asked of.
                assert rss - status("RssAnon") > 1024 - SLACK
                if how != "close-first":
                    gone(own, memory)
            leave()

        if how == "exit":
            with pytest.raises(EOFError):
                in_child(child)
        else:
            in_child(child)
        assert group.anon_left() == 0


@pytest.mark.contract("X-10")
@pytest.mark.parametrize("how", ["pageout", "cold", "free", "move_pages", "willneed", "collapse", "mremap"])
def test_who_looks_for_pages_leaves_an_exclusive_one_or_takes_it_back_with_its_data(mirror, how):
    with Region.huge(1) as huge, swap():
        huge.advise(mmap.MADV_NOHUGEPAGE)
        huge.fill(1)
        part = huge[:16]
        mirror.make_exclusive(part)
        mirror.write(part, 2) if mirror.is_exclusive(part) else None
        mirror.make_exclusive(part)
        before = [page.mapped for page in mirror.page_info(part)]
        target = None
        if how == "pageout":
            part.advise(MADV_PAGEOUT)
            assert swap_used() == 0
        elif how == "cold":
            part.advise(MADV_COLD)
        elif how == "free":
            part.advise(MADV_FREE)
            part.advise(MADV_PAGEOUT)
        elif how == "move_pages":
            assert set(move_pages([part[page].addr for page in range(16)], 1)) == {-errno.ENOENT}
        elif how == "willneed":
            huge.advise(mmap.MADV_WILLNEED)
        elif how == "collapse":
            huge.advise(mmap.MADV_HUGEPAGE)
            with suppress(OSError):
                huge.advise(MADV_COLLAPSE)
                assert {page.order for page in mirror.page_info(huge)} == {9}
                gone(mirror, part)
        else:
            target = Region.anonymous(16)
            part.move(target)
            gone(mirror, part)
            part = target
        if how in ("pageout", "cold", "move_pages", "willneed"):
            # It is the device's as before.
            assert [page.mapped for page in mirror.page_info(part)] == before
            assert mirror.peek(part).matches(2)
        try:
            assert part.matches(2)
            assert mirror.read(part).data.matches(2)
        finally:
            if target is not None:
                target.move(huge[:16])
        assert huge[16:].matches(1)


@pytest.mark.contract("X-10")
def test_reclaim_leaves_exclusive_pages_or_keeps_their_data(mirror):
    """By the LRU, where they still are."""
    with swap(), Cgroup("dmirror-exclusive-reclaim") as group:

        def child():
            group.join()
            with Mirror(0) as own, Region.anonymous(64) as memory, Region.anonymous(256) as other:
                memory.fill(1)
                other.fill(3)
                assert own.make_exclusive(memory) == 64
                before = vmstat("pswpout")
                try:
                    group.set("memory.reclaim", 2 << 20)
                except OSError as error:
                    assert error.errno == errno.EAGAIN  # less than that was to be had
                assert vmstat("pswpout") > before
                for page, info in enumerate(own.page_info(memory)):
                    if info.mapped_atomic:
                        assert own.peek(memory[page]).matches(1)
                own_right = own.read(memory).data.matches(1)
                right = memory.matches(1) and other.matches(3)
            leave()
            return own_right, right

        assert in_child(child) == (True, True)
    assert swap_used() == 0


@pytest.mark.contract("X-10")
def test_same_page_merging_leaves_exclusive_pages_and_their_data(mirror):
    ksm = Path("/sys/kernel/mm/ksm")
    with Region.anonymous(16) as one, Region.anonymous(16) as two:
        for region in (one, two):
            for page in range(16):
                region[page].fill(1)
        for page in range(16):
            one.store(5, page, 0)
            two.store(5, page, 0)
        mirror.make_exclusive(one)
        try:
            one.advise(mmap.MADV_MERGEABLE)
            two.advise(mmap.MADV_MERGEABLE)
            (ksm / "pages_to_scan").write_text("10000")
            (ksm / "sleep_millisecs").write_text("0")
            scans = int((ksm / "full_scans").read_text())
            (ksm / "run").write_text("1")
            while int((ksm / "full_scans").read_text()) < scans + 3:
                os.sched_yield()
            assert mirror.is_exclusive(one[0]) and mirror.is_exclusive(one[15])
            assert {one.load(page) for page in range(16)} == {5} == {two.load(page) for page in range(16)}
            one.store(6, 3)
            assert two.load(3) == 5
        finally:
            (ksm / "run").write_text("2")
            (ksm / "run").write_text("0")
            (ksm / "sleep_millisecs").write_text("20")
            (ksm / "pages_to_scan").write_text("100")


@pytest.mark.contract("X-08")
def test_to_migrate_an_exclusive_page_is_to_leave_it(mirror, mirror2, region):
    """It is neither a page nor a hole to migrate_vma_setup()."""
    mirror.make_exclusive(region[4:8].fill(1))
    region[:4].fill(1)
    region[8:].fill(1)
    migration = mirror.migrate(region)
    assert [words.setup for words in migration.words[4:8]] == [0] * 4
    assert migration.moved == 12
    assert mirror.peek(region[4:8]).matches(1)
    assert all(page.mapped_atomic for page in mirror.page_info(region[4:8]))
    # Another device's migration is told to the mirror, which loses the page for it.
    region[:4].touch()
    assert mirror2.migrate(region).moved == 4
    assert frames(region[4:8]) == [None] * 4
    gone(mirror, region[4:8])
    assert region.matches(1)


@pytest.mark.contract("X-01")
def test_nothing_holds_a_page_that_came_back(mirror, region):
    mirror.make_exclusive(region.fill(1))
    region.touch()
    assert mirror.migrate(region).moved == 16
    assert region.matches(1)
