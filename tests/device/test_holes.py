# SPDX-License-Identifier: GPL-2.0
"""Section 4: holes and the zero page."""

import errno

import pytest
from facilities.userfault import Userfault

from dmirror.events import END, MIGRATE
from dmirror.memory import HUGE_PAGES, PAGE, READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import ChildKilled, in_child
from dmirror.quiet import fault_in
from dmirror.threads import Task

STEER = pytest.mark.needs(capability="steer")
HUGE = pytest.mark.needs(capability="device_thp")


@pytest.fixture(
    params=["hole", "zero-page", pytest.param("huge-hole", marks=HUGE), pytest.param("huge-zero-page", marks=HUGE)]
)
def hollow(request):
    """Memory that holds nothing, or the zero page; that of small pages begins with five pages of data."""
    if request.param.startswith("huge"):
        with Region.huge(1) as region:
            if request.param == "huge-zero-page":
                region.load()
            yield region
        return
    with Region.anonymous(16, align=16 * PAGE) as region:
        region[:5].fill(1)
        if request.param == "zero-page":
            region[5:].touch()
        yield region


@pytest.mark.contract("Z-01")
@pytest.mark.parametrize("first", ["nothing", "cpu-read", "device-read"])
def test_a_hole_becomes_zeroes_on_the_device(mirror, region, first):
    {"nothing": lambda: None, "cpu-read": region.touch, "device-read": lambda: mirror.read(region)}[first]()
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region) and result.data.zero()
    assert {str(page) for page in mirror.snapshot(region)} == {"local rw"}
    assert region.zero()


@pytest.mark.contract("Z-01")
@pytest.mark.contract("D-20")
@pytest.mark.needs(capability="counters")
def test_a_filled_hole_of_writable_memory_is_writable_for_the_device(mirror, region):
    before = mirror.counters()
    mirror.migrate_to_device(region)
    result = mirror.write(region, 1)
    assert mirror.snapshot(region).where == ["local"] * len(region)
    delta = mirror.counters() - before
    assert (result.faults, delta.faults, delta.dev_cpu_faults) == (0, 0, 0)
    assert region.matches(1)


@pytest.mark.contract("Z-01")
def test_holes_between_pages(mirror, region):
    region[3:5].fill(1)
    region[9:10].touch()
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region)
    assert region[:3].zero() and region[3:5].matches(1) and region[5:].zero()


@pytest.mark.contract("Z-06")
def test_a_filled_hole_of_read_only_memory_stays_read_only(mirror, region):
    region.protect(READ)
    mirror.migrate_to_device(region)
    assert {str(page) for page in mirror.snapshot(region)} == {"local r"}
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 1)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: region.store(1))
    region.touch()
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 1)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: region.store(1))
    region.protect(RW)
    assert region.zero()


@STEER
@pytest.mark.contract("Z-06")
@pytest.mark.parametrize("back", ["not", "touch", "system", "release"])
def test_a_filled_hole_is_writable_where_the_memory_is_and_only_there(mirror, mirror2, hollow, back):
    """Filled while read-only, made writable afterwards, and the reverse: at each step as normal memory."""
    empty = hollow[5:] if len(hollow) < HUGE_PAGES else hollow
    hollow.protect(READ)
    migration = mirror.migrate(hollow)
    assert migration.moved == len(hollow)
    # A hole is no page that could be written: the rights are those of the mapping.
    assert not any(words.setup.write or words.dst_final.write for words in migration.words[-len(empty) :])
    assert {(page.write, page.mapped_write) for page in mirror.page_info(empty)} == {(False, False)}
    if back == "touch":
        hollow.touch()
    elif back == "system":
        assert mirror.migrate_to_system(hollow) == len(hollow)
    elif back == "release":
        mirror.release()
    assert {page.writable for page in mirror.snapshot(empty)} == {False}
    for device in (mirror, mirror2):
        with pytest.raises(MirrorError) as caught:
            device.write(empty[:2], 9)
        assert (caught.value.errno, caught.value.pages) == (errno.EPERM, 0)
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: empty.store(9))
    hollow.protect(RW)
    mirror.write(empty[:2], 2)
    empty[2:4].fill(3)
    mirror2.write(empty[4:6], 4)
    assert empty[:2].matches(2) and empty[2:4].matches(3) and empty[4:6].matches(4)
    assert not any(empty.load(page) for page in range(6, len(empty))) and mirror.read(empty[6:]).data.zero()
    assert mirror.read(empty[:2]).data.matches(2) and mirror.read(empty[4:6]).data.matches(4)


@STEER
@pytest.mark.contract("Z-06")
def test_a_hole_that_was_filled_writable_is_read_only_when_the_memory_becomes_that(mirror, hollow):
    empty = hollow[5:] if len(hollow) < HUGE_PAGES else hollow
    assert mirror.migrate(hollow).moved == len(hollow)
    assert {(page.write, page.mapped_write) for page in mirror.page_info(empty)} == {(True, True)}
    assert mirror.write(empty, 2).faults == 0
    hollow.protect(READ)
    with pytest.raises(MirrorError) as caught:
        mirror.poke(empty[0], 9)
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    with pytest.raises(MirrorError) as caught:
        mirror.write(empty, 9)
    assert caught.value.errno == errno.EPERM
    assert mirror.read(empty).data.matches(2)
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: empty.store(9))
    assert empty.matches(2)


@STEER
@pytest.mark.contract("Z-08")
@pytest.mark.contract("F-02")
@pytest.mark.parametrize("kind", ["shared", "memfd", "file", "private-file"])
def test_holes_of_files_are_not_offered(mirror, kind):
    make = {"private-file": lambda npages: Region.file(npages, private=True)}.get(kind)
    with (make or getattr(Region, kind))(16) as region:
        region[3:5].fill(1)
        before = mirror.counters()
        migration = mirror.migrate(region)
        others = migration.words[:3] + migration.words[5:]
        assert not any(words.setup or words.copied or words.final for words in others)
        assert migration.moved == (2 if kind == "private-file" else 0)
        assert (mirror.counters() - before).dev_pages_in_use == migration.moved
        assert region[:3].zero() and region[3:5].matches(1) and region[5:].zero()


@pytest.mark.contract("Z-08")
@pytest.mark.parametrize("make", [Region.shared, Region.memfd, Region.file])
def test_holes_of_shared_memory_are_not_filled(mirror, make):
    with make(8) as region:
        before = region.pagemap()
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert region.pagemap() == before
        assert region.zero()


@pytest.mark.contract("F-02")
def test_holes_of_a_private_file_mapping_are_not_filled(mirror):
    with Region.file(8, private=True) as region:
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert caught.value.errno == errno.ENOENT
        assert region.zero()


@STEER
@pytest.mark.contract("Z-01")
@pytest.mark.parametrize("first", ["nothing", "cpu-read"])
@pytest.mark.parametrize(
    ("select", "compound"),
    [pytest.param((), True, marks=HUGE, id="as-one"), pytest.param(("system",), False, id="page-by-page")],
)
def test_a_huge_hole_is_offered_as_one_or_page_by_page(mirror, first, select, compound):
    with Region.huge(1) as huge:
        if first == "cpu-read":
            huge.load()
        migration = mirror.migrate(huge, select=select)
        setup = [words.setup for words in migration.words]
        assert {str(word) for word in setup[1:]} == ({"0"} if compound else {"MIGRATE"})
        assert str(setup[0]) == ("MIGRATE|COMPOUND" if compound else "MIGRATE")
        assert (migration.collected, migration.moved) == (1 if compound else HUGE_PAGES, HUGE_PAGES)
        assert mirror.peek(huge).zero()
        assert {huge.load(page) for page in range(HUGE_PAGES)} == {0}


@STEER
@pytest.mark.contract("Z-01")
def test_a_hole_is_offered_without_a_page(mirror, block):
    block[4:8].touch()
    block[8:12].fill(1)
    migration = mirror.migrate(block)
    setup = [words.setup for words in migration.words]
    assert {str(word) for word in setup[:8] + setup[12:]} == {"MIGRATE"}
    assert all(word.valid and word.pfn for word in setup[8:12])
    assert (migration.collected, migration.moved) == (16, 16)
    assert mirror.peek(block[:8]).zero() and mirror.peek(block[8:12]).matches(1) and mirror.peek(block[12:]).zero()


@STEER
@pytest.mark.contract("Z-02")
def test_a_device_that_mapped_the_zero_page_meanwhile_loses_it(mirror, mirror2, hollow):
    """The second invalidation, of migrate_vma_pages(): that of setup came before the other device looked."""
    empty = hollow[5:] if len(hollow) < HUGE_PAGES else hollow
    page = empty[3]
    with (
        mirror2.events(buf=hollow) as log,
        mirror.hold("migrate.after_setup", hollow) as held,
        Task(mirror.migrate, hollow) as task,
    ):
        held.wait()
        assert mirror2.read(page).data.zero()
        (seen,) = mirror2.page_info(page)
        assert seen.mapped == seen.pfn and seen.valid and not seen.write
        held.resume()
        assert task.result().moved == len(hollow)
    assert mirror.write(page, 2).faults == 0
    with pytest.raises(MirrorError) as caught:
        mirror2.peek(page)
    assert caught.value.errno == errno.ENOENT
    assert mirror2.read(page).data.matches(2)
    setup, pages = log.expect(MIGRATE, over=hollow, times=2, owner="other", filtered=False)
    assert (setup.start, setup.end, setup.pages) == (hollow.addr, hollow.end, 0)
    assert (pages.start, pages.end, pages.pages) == (empty.addr, hollow.end, 1)


@STEER
@pytest.mark.contract("Z-03")
@pytest.mark.parametrize(
    ("skip", "begins"),
    [((), 5), ((5, 9), 6), ((5, 6), 9), ((5, 6, 9, 15), None)],
    ids=["first-hole", "after-a-skipped-hole", "after-all-of-a-run", "no-hole-left"],
)
def test_holes_are_announced_once_from_the_first_that_is_filled(mirror, block, skip, begins):
    for page in set(range(16)) - {5, 6, 9, 15}:
        block[page].fill(1)
    with mirror.watch(kind="plain") as watch, mirror.events(buf=block) as log:
        assert mirror.migrate(block, skip=skip).moved == 16 - len(skip)
    announced = [block] if begins is None else [block, block[begins:]]
    for kind in (MIGRATE, END):
        told = log.expect(kind, over=block, times=len(announced), watch=watch.id)
        assert [(event.start, event.end) for event in told] == [(span.addr, span.end) for span in announced]
    # Whoever faults waits for invalidations that have not ended.
    assert mirror.read(block).pages == len(block)


@STEER
@pytest.mark.contract("Z-03")
def test_pages_alone_are_announced_once(mirror, block):
    with mirror.watch(kind="plain") as watch, mirror.events(buf=block) as log:
        mirror.migrate(block.fill(1))
    for kind in (MIGRATE, END):
        log.expect(kind, block, watch=watch.id)
        log.expect(kind, over=block, watch=watch.id)


def filled_by_the_cpu(mirror, memory, page):
    """A migration of `memory` during which the CPU stores to `page`, and the pages that stay for that."""
    with mirror.hold("migrate.after_setup", memory) as held, Task(mirror.migrate, memory) as task:
        held.wait()
        memory.store(99, page)
        held.resume()
        # A huge page takes the place of all of a huge hole.
        return task.result(), [page] if len(memory) < HUGE_PAGES else list(range(HUGE_PAGES))


@STEER
@pytest.mark.contract("Z-04")
def test_what_the_cpu_stored_meanwhile_wins(mirror, hollow):
    before = mirror.counters()
    migration, stay = filled_by_the_cpu(mirror, hollow, 8)
    assert migration.words[stay[0]].setup.migrate and migration.words[stay[0]].copied.valid
    for number, words in enumerate(migration.words):
        assert words.pages.migrate == words.final.migrate == (number not in stay)
    assert migration.moved == len(hollow) - len(stay)
    assert [number for number, state in enumerate(mirror.snapshot(hollow)) if state.where == "ram"] == stay
    assert hollow.load(8) == 99
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated - delta.dev_pages_freed == delta.dev_pages_in_use == migration.moved
    assert delta.stayed["core"] == len(stay)


@STEER
@pytest.mark.contract("Z-04")
def test_a_process_that_stored_meanwhile_ends_with_its_counts_even(mirror, hollow):
    """The kernel complains of "Bad rss-counter state" when an address space goes."""

    def child():
        with Mirror(0) as own:
            migration, stay = filled_by_the_cpu(own, hollow, 8)
            return migration.moved + len(stay), hollow.load(8)

    assert in_child(child) == (len(hollow), 99)


@STEER
@pytest.mark.contract("Z-05")
def test_an_armed_userfaultfd_keeps_holes_holes(mirror, hollow):
    empty = hollow[5:] if len(hollow) < HUGE_PAGES else hollow
    with Userfault() as userfault:
        userfault.catch_missing(hollow)
        before = empty.pagemap()
        migration = mirror.migrate(hollow)
        assert migration.moved == len(hollow) - len(empty)
        assert migration.words[-len(empty)].setup.migrate and migration.words[-len(empty)].copied.valid
        assert not any(words.pages.migrate or words.final.migrate for words in migration.words[-len(empty) :])
        assert empty.pagemap() == before
        assert userfault.caught() is None
        page = empty[3]
        if before[3] >> 63:
            # The zero page is there: nothing is missing.
            assert page.load() == 0 and userfault.caught() is None
            return
        with Task(page.load) as cpu:
            assert userfault.wait_caught() == page.addr
            userfault.answer(page)
            assert cpu.result() == 0


@STEER
@pytest.mark.needs(kernel=">=6.12")  # where a fault of this thread does not wait behind the one that arms
@pytest.mark.contract("Z-05")
def test_a_userfaultfd_is_armed_before_a_migration_or_after_it(mirror):
    """The mmap lock keeps it out: whether it is armed need be asked once only."""
    fault_in()  # who waits for the lock to write keeps out whoever has a page fault then
    with (
        Region.anonymous(16, align=16 * PAGE) as block,
        Userfault() as userfault,
        mirror.hold("migrate.after_setup", block) as held,
        Task(mirror.migrate, block) as migration,
    ):
        held.wait()
        with Task(userfault.catch_missing, block) as arming:
            arming.wait_asleep()
            held.resume()
        assert migration.result().moved == len(block)
        assert not any(block.load(page) for page in range(len(block))) and userfault.caught() is None
