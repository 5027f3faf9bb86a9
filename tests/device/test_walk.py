# SPDX-License-Identifier: GPL-2.0
"""Section 2: hmm_range_fault() as told: requests for single pages, walks that are repeated, the pages that it names."""

import errno
import mmap
import os
from dataclasses import replace

import pytest

from dmirror.events import FAULT
from dmirror.memory import HUGE_PAGES, NONE, PAGE, READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.running import release_matches
from dmirror.threads import Task
from dmirror.vectors import CARRIED

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")

BOTH = ("fault", "write")


@pytest.fixture
def region(mirror):
    """16 pages that are not there under a page table that is.

    Without one they are one hole, and faulted all as the strictest of them is to be (mm/hmm.c, hmm_vma_walk_hole()).
    """
    with Region.anonymous(32, align=32 * PAGE) as whole:
        whole[31].touch()
        yield whole[:16]


def picture(pages):
    """One character a page: w writable, z zero page, r read-only, x error, . not valid."""
    return "".join(
        "x" if page.error else "." if not page.valid else "w" if page.write else "z" if page.zero else "r"
        for page in pages
    )


class TestRequests:
    """What is asked for a page is its own request where the mask lets it through, or'ed with the default."""

    @pytest.mark.contract("H-04")
    def test_pages_get_what_is_asked_for_them(self, mirror, region):
        region[:8].touch()
        pages = mirror.walk(region, mask=BOTH, requests={5: BOTH, 9: ("fault",), 14: BOTH}).pages
        assert picture(pages[:5]) == "zzzzz"  # nothing was asked before the first request
        assert all(pages[page].write for page in (5, 14))
        assert pages[9].valid
        assert picture(mirror.page_info(region)) == picture(pages)

    @pytest.mark.contract("H-04")
    @pytest.mark.xfail(
        reason="all kernels: what the first page asks for is faulted for every page from there to the end of the page "
        "table: hmm_vma_handle_pte() passes its end on (7.3 hmm.c:338 and 667; 7.2 hmm.c:331 and 89; "
        "6.12 and 6.1 hmm.c:317 and 79)",
        strict=True,
    )
    def test_only_the_pages_asked_for_are_faulted(self, mirror, region):
        region.touch()
        pages = mirror.walk(region, mask=BOTH, requests=dict.fromkeys(range(2, 16, 3), BOTH)).pages
        assert picture(pages) == "zzwzzwzzwzzwzzwz"

    @pytest.mark.contract("H-04")
    def test_the_default_is_for_every_page(self, mirror, region):
        pages = mirror.walk(region, default=("fault",), mask=("write",), requests={7: ("write",)}).pages
        assert all(page.valid for page in pages)
        assert picture(pages[:7]) == "zzzzzzz"
        assert pages[7].write

    @pytest.mark.contract("H-04")
    @pytest.mark.parametrize("mask", [(), ("write",)])
    def test_a_request_that_the_mask_holds_back_is_none(self, mirror, region, mask):
        """A write without a fault is no request either."""
        region[:8].touch()
        pages = mirror.walk(region, mask=mask, requests=dict.fromkeys(range(16), BOTH)).pages
        assert picture(pages) == "zzzzzzzz........"

    @pytest.mark.contract("H-02")
    def test_without_a_request_nothing_is_faulted(self, mirror, region):
        region[:4].fill(1)
        region[4:8].touch()
        before = region.pagemap()
        assert picture(mirror.walk(region).pages) == "wwwwzzzz........"
        assert region.pagemap() == before

    @pytest.mark.contract("H-06")
    @pytest.mark.parametrize(
        ("prot", "asked", "number"),
        [(READ, BOTH, errno.EPERM), (NONE, ("fault",), errno.EFAULT)],
        ids=["write", "none"],
    )
    def test_a_request_that_cannot_be_met_is_an_error(self, mirror, region, prot, asked, number):
        region[8:].protect(prot)
        assert mirror.walk(region, mask=BOTH, requests={3: asked}).pages[3].valid
        with pytest.raises(MirrorError) as caught:
            mirror.walk(region, mask=BOTH, requests={9: asked})
        assert (caught.value.errno, caught.value.pages) == (number, 0)

    def test_a_walk_installs_nothing(self, still):
        one = still()
        one.mirror.walk(one.memory, default=BOTH)
        assert one.mirror.counters().entries_installed == 0

    def test_a_long_walk_takes_one_page_table_at_a_time(self, mirror):
        with Region.anonymous(2 * HUGE_PAGES, align=HUGE_PAGES * 4096) as region:
            span = region[HUGE_PAGES - 4 : HUGE_PAGES + 4]
            region[HUGE_PAGES + 1].unmap()
            with pytest.raises(MirrorError) as caught:
                mirror.walk(span, default=("fault",))
            assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 4)


REQUESTS = {2: ("fault",), 6: BOTH, 12: BOTH}


@pytest.mark.contract("H-14")
@pytest.mark.needs(capability="carried")
class TestCarried:
    """Flags of the entries that hmm_range_fault() does not know: a driver keeps them there between two walks."""

    NAMES = tuple(CARRIED)

    @pytest.mark.parametrize("where", ["nothing", "zero", "ram", "device", "huge"])
    @pytest.mark.parametrize("default", [(), ("fault",), BOTH])
    def test_they_stay_where_they_are(self, mirror, where, default):
        with Region.huge(1) if where == "huge" else Region.anonymous(16, align=16 * PAGE) as whole:
            if where == "zero":
                whole.touch()
            elif where != "nothing":
                whole.fill(1)
            if where == "device":
                mirror.migrate_to_device(whole)
            memory = whole[:16]
            given = {number: self.NAMES[: number % 4] for number in range(16)}
            pages = mirror.walk(memory, default=default, requests=given).pages
            assert [page.carried for page in pages] == [frozenset(given[number]) for number in range(16)]
            plain = mirror.walk(memory, default=default).pages
            assert [replace(page, carried=frozenset()) for page in pages] == plain
            assert not any(page.carried for page in plain)

    def test_a_request_is_not_taken_for_a_result(self, mirror, region):
        pages = mirror.walk(region, requests=dict.fromkeys(range(16), BOTH)).pages
        assert not any(page.valid or page.write or page.error or page.carried for page in pages)


class TestRestart:
    """Entries before the one where it stopped hold results, those from there on what was asked for them."""

    def right(self, pages, hole=None):
        assert not any(page.valid for page in pages[:2])
        assert pages[2].valid
        assert pages[6].write and pages[12].write
        if hole is not None:
            assert pages[hole].error

    @pytest.mark.contract("H-05")
    @pytest.mark.parametrize("hole", [None, 9])
    def test_after_each_fault_the_later_requests_are_still_there(self, mirror, region, hole):
        """A page that is missing, later ones that are to be written, and where asked, no memory between them."""
        if hole is not None:
            region[hole].unmap()
        self.right(mirror.walk(region, mask=BOTH, requests=REQUESTS).pages, hole)

    @pytest.mark.contract("H-05")
    def test_after_an_invalidation_all_requests_are_met_again(self, still):
        one = still(lambda mirror, memory: memory.advise(mmap.MADV_DONTNEED))

        def walk():
            return one.mirror.walk(one.memory, mask=BOTH, requests=REQUESTS)

        with one.mirror.hold("fault.before_check") as held, Task(walk) as task:
            held.wait()
            one.run()
            held.resume()
            walked = task.result()
        assert walked.retries >= 1  # once more where a write fault replaced a zero page that was just read
        self.right(walked.pages)


class TestRetry:
    """An invalidation between hmm_range_fault() and the device's entry is seen, and what was found is not used."""

    ACCESSES = ("read", "write", pytest.param("read_unlocked", marks=pytest.mark.needs(capability="read_unlocked")))

    def outcome(self, one, access):
        """How an access of all memory ends that is held before the check while the process does what it is to do.

        An errno, or what the device read. It was repeated once.
        """
        calls = {"read": one.mirror.read, "read_unlocked": one.mirror.read_unlocked}
        call = calls.get(access, lambda memory: one.mirror.write(memory, 2))
        with one.mirror.hold("fault.before_check") as held, Task(call, one.memory) as task:
            held.wait()
            one.run()
            held.resume()
            try:
                result = task.result().data
            except MirrorError as error:
                result = error.errno
        assert one.mirror.counters().fault_retries == 1
        return result

    @pytest.mark.contract("H-08")
    @pytest.mark.parametrize("access", ACCESSES)
    def test_memory_that_is_unmapped_gets_no_entry(self, still, access):
        one = still(lambda mirror, memory: memory.unmap())
        with one.mirror.events() as log:
            assert self.outcome(one, access) == errno.EFAULT
            log.expect(FAULT, one.memory, result=-errno.EFAULT, index=1)
        assert picture(one.mirror.page_info(one.memory)) == "x" * 16
        assert one.mirror.counters().entries_installed == 0
        with pytest.raises(MirrorError) as caught:
            one.mirror.peek(one.memory)
        assert caught.value.errno == errno.ENOENT

    @pytest.mark.contract("H-08")
    def test_memory_that_becomes_read_only_gets_no_writable_entry(self, still):
        one = still(lambda mirror, memory: memory.protect(READ))
        assert self.outcome(one, "write") == errno.EPERM
        assert one.mirror.counters().entries_installed == 0
        assert one.mirror.read(one.memory).data.matches(1)

    @pytest.mark.contract("H-08")
    @pytest.mark.parametrize("access", ["read", ACCESSES[2]])
    def test_memory_that_becomes_read_only_is_read_by_a_read_only_entry(self, still, access):
        one = still(lambda mirror, memory: memory.protect(READ))
        assert self.outcome(one, access).matches(1)
        pages = one.mirror.page_info(one.memory)
        assert all(page.mapped == page.backing and not page.mapped_write for page in pages)
        assert one.mirror.counters().entries_installed == 16

    @pytest.mark.contract("H-08")
    @pytest.mark.parametrize("access", ACCESSES)
    def test_pages_that_are_dropped_are_not_used(self, still, access):
        one = still(lambda mirror, memory: memory.advise(mmap.MADV_DONTNEED))
        dropped = {page.pfn for page in one.mirror.page_info(one.memory)}
        with one.mirror.events() as log:
            data = self.outcome(one, access)
            log.expect(FAULT, one.memory, pages=16, index=1)
        pages = one.mirror.page_info(one.memory)
        assert all(page.mapped == page.backing != 0 for page in pages)
        assert one.mirror.counters().entries_installed == 16
        if access == "write":
            assert one.load() == data.word(0) != 0
        else:
            assert data.zero()
            assert not dropped & {page.mapped for page in pages}

    @pytest.mark.contract("H-08")
    def test_a_walk_is_busy_when_something_was_invalidated(self, still):
        one = still(lambda mirror, memory: memory[3].advise(mmap.MADV_DONTNEED))
        with (
            one.mirror.hold("fault.before_check") as held,
            Task(lambda: one.mirror.walk(one.memory, once=True)) as task,
        ):
            held.wait()
            one.run()
            held.resume()
            with pytest.raises(MirrorError) as caught:
                task.result()
        assert caught.value.errno == errno.EBUSY

    @pytest.mark.contract("H-08")
    def test_a_walk_is_not_busy_when_nothing_was(self, still):
        one = still()
        with (
            one.mirror.hold("fault.before_check") as held,
            Task(lambda: one.mirror.walk(one.memory, once=True)) as task,
        ):
            held.wait()
            held.resume()
            assert task.result().retries == 0


class TestDevicePages:
    """Device-private pages of the mirror's own device are named and stay, those of another are faultable holes."""

    @pytest.fixture(params=["small", pytest.param("huge", marks=THP)])
    def on_device(self, request, mirror):
        with Region.anonymous(16) if request.param == "small" else Region.huge(1) as memory:
            migration = mirror.migrate(memory.fill(1))
            assert migration.moved == len(memory)
            # A huge one has one word, and its pages follow each other.
            first = migration.words[0].dst_final
            pfns = (
                [first.pfn + page for page in range(HUGE_PAGES)]
                if first.compound
                else [words.dst_final.pfn for words in migration.words]
            )
            yield memory, pfns

    @pytest.mark.contract("H-09")
    @pytest.mark.parametrize("asked", [(), ("fault",), BOTH], ids=["nothing", "fault", "write"])
    def test_own_pages_are_named_as_they_were_migrated(self, mirror, on_device, asked):
        memory, pfns = on_device
        before = mirror.counters()
        pages = mirror.walk(memory, default=asked).pages
        assert [page.pfn for page in pages] == pfns
        assert {(page.device, page.valid, page.write) for page in pages} == {(0, True, True)}
        assert {page.order for page in pages} == {9 if len(memory) == HUGE_PAGES else 0}
        assert (mirror.counters() - before).dev_cpu_faults == 0
        assert mirror.peek(memory).matches(1)

    @pytest.mark.contract("H-09")
    def test_own_pages_are_not_writable_where_their_entry_is_not(self, mirror, on_device):
        """Not even for who asks for that: no fault is taken for them."""
        memory, pfns = on_device
        memory.protect(READ)
        before = mirror.counters()
        pages = mirror.walk(memory, default=BOTH).pages
        assert [page.pfn for page in pages] == pfns
        assert {(page.valid, page.write) for page in pages} == {(True, False)}
        assert (mirror.counters() - before).dev_cpu_faults == 0
        memory.protect(RW)

    @pytest.mark.contract("H-10")
    def test_small_pages_of_another_device_are_faultable(self, mirror, mirror2, region):
        mirror2.migrate_to_device(region.fill(1))
        assert picture(mirror.page_info(region)) == "." * 16
        assert mirror2.snapshot(region).picture() == "D" * 16
        assert picture(mirror.walk(region, default=("fault",)).pages) == "w" * 16
        assert mirror2.snapshot(region).picture() == "r" * 16
        assert region.matches(1)

    @THP
    @pytest.mark.contract("H-12")
    @pytest.mark.xfail(
        release_matches(os.uname().release, ">=7.2"),
        reason="hmm_vma_handle_absent_pmd() says ERROR for the PMD entry of a foreign device-private folio, which a "
        "fault would bring back (7.3 hmm.c:386, 7.2 hmm.c:379); for a PTE entry it is 0 (7.3 hmm.c:286-287)",
        strict=True,
    )
    def test_a_huge_page_of_another_device_is_faultable(self, mirror, mirror2):
        with Region.huge(1) as huge:
            mirror2.migrate_to_device(huge.fill(1))
            assert set(picture(mirror.page_info(huge))) == {"."}

    @THP
    @pytest.mark.contract("H-12")
    def test_a_huge_page_of_another_device_is_brought_back_by_a_fault(self, mirror, mirror2):
        with Region.huge(1) as huge:
            mirror2.migrate_to_device(huge.fill(1))
            assert set(picture(mirror.walk(huge, default=("fault",)).pages)) == {"w"}
            assert huge.matches(1)


class TestOffsets:
    """A range that begins inside a huge mapping begins with the page that is there."""

    OFFSETS = (1, 63, 255, 511)

    @pytest.mark.contract("H-11")
    @pytest.mark.parametrize("kind", ["huge", "hugetlb"])
    def test_of_system_memory(self, mirror, kind):
        with Region.huge(1) if kind == "huge" else Region.hugetlb(1) as memory:
            memory.fill(1)
            whole = mirror.page_info(memory)
            assert {page.order for page in whole} == {9}
            for offset in self.OFFSETS:
                pages = mirror.page_info(memory[offset:])
                assert [page.pfn for page in pages] == [page.pfn for page in whole[offset:]]

    @pytest.fixture
    def huge(self, mirror):
        with Region.huge(1) as huge:
            mirror.migrate_to_device(huge.fill(1))
            yield huge

    @THP
    @pytest.mark.contract("H-11")
    @pytest.mark.xfail(
        release_matches(os.uname().release, ">=7.2"),
        reason="hmm_vma_handle_absent_pmd() begins with the folio's first page wherever the range begins (7.3 "
        "hmm.c:358, 7.2 hmm.c:351); hmm_vma_handle_pmd() adds the offset (7.3 hmm.c:221)",
        strict=True,
    )
    @pytest.mark.parametrize("offset", OFFSETS)
    def test_of_device_memory(self, mirror, huge, offset):
        whole = mirror.page_info(huge)
        pages = mirror.page_info(huge[offset:])
        assert [page.pfn for page in pages] == [page.pfn for page in whole[offset:]]

    @THP
    @pytest.mark.contract("H-11")
    @pytest.mark.contract("T-09")
    @pytest.mark.parametrize("offset", OFFSETS)
    def test_of_device_memory_the_driver_installs_the_right_page(self, mirror, huge, offset):
        whole = mirror.page_info(huge)
        with Mirror(0) as other:  # of the same device, without an entry
            other.write(huge[offset], 2)
            (page,) = other.page_info(huge[offset])
            assert page.mapped == page.backing == whole[offset].backing
            assert other.peek(huge[offset]).matches(2)
        assert huge[offset].matches(2)
        assert huge[:offset].matches(1) and huge[offset + 1 :].matches(1)
