# SPDX-License-Identifier: GPL-2.0
"""Section 11: what splits a huge device page, its mapping or the page itself, and that every count of it is even."""

import mmap
from pathlib import Path

import pytest
from facilities.kin import Offspring
from facilities.machine import setting, vmstat, vmstat_now

from dmirror.events import CLEAR, CPU_BEGIN, FREE, MIGRATE, PROTECTION_VMA, SPLIT, UNMAP
from dmirror.memory import HUGE_PAGES, READ, RW, Region
from dmirror.mirror import Mirror

pytestmark = [pytest.mark.needs(capability="steer"), pytest.mark.needs(capability="device_thp")]

PMD = HUGE_PAGES * 4  # KiB
STATS = Path(f"/sys/kernel/mm/transparent_hugepage/hugepages-{PMD}kB/stats")
MADV_DONTNEED, MADV_FREE = mmap.MADV_DONTNEED, 8


class Counts(dict):
    """What is counted of huge pages: by the kernel and by the device, and the difference of two."""

    @classmethod
    def now(cls, mirror):
        counters = mirror.counters()
        return cls(
            huge=int((STATS / "nr_anon").read_text()),
            partial=int((STATS / "nr_anon_partially_mapped").read_text()),
            mapped=vmstat_now("nr_anon_transparent_hugepages"),
            pmd_splits=vmstat("thp_split_pmd"),
            page_splits=vmstat("thp_split_page"),
            failed=vmstat("thp_split_page_failed"),
            device_splits=counters.dev_huge_split,
            in_use=counters.dev_pages_in_use,
            huge_in_use=counters.dev_huge_in_use,
        )

    def __sub__(self, before):
        return {name: value - before[name] for name, value in self.items() if value != before[name]}


@pytest.fixture(scope="module", autouse=True)
def _nobody_else_folds():
    """The worker that adds up what processors count has part of it in hand while it does (mm/vmstat.c)."""
    with setting("/proc/sys/vm/stat_interval", 600):
        yield


@pytest.fixture
def huge(mirror):
    """On the device, as one."""
    with Region.huge(1) as region:
        assert mirror.migrate(region.fill(1)).moved == HUGE_PAGES
        assert {str(page) for page in mirror.snapshot(region)} == {"local rw pmd"}
        yield region


PART = slice(64, 128)
# The mapping comes apart at once; the page itself when a part of it moves.
APART = {"mapped": -1, "pmd_splits": 1}
CHANGES = {
    "munmap": (lambda part: part.unmap(), UNMAP),
    "mprotect": (lambda part: part.protect(READ), PROTECTION_VMA),
    "dontneed": (lambda part: part.advise(MADV_DONTNEED), CLEAR),
}


@pytest.mark.contract("T-05")
@pytest.mark.contract("T-08")
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_part_splits_the_mapping_and_a_fault_the_page(mirror, huge, what):
    act, event = CHANGES[what]
    part, rest = huge[PART], (huge[:64], huge[128:])
    indexes = [page.index for page in mirror.page_info(huge)]
    before = Counts.now(mirror)
    with mirror.events(buf=huge) as log:
        act(part)
        assert Counts.now(mirror) - before == APART
        log.expect(event, part, filtered=False)
        log.expect(CLEAR, huge, filtered=False)
        log.expect(SPLIT, times=0)
        log.expect(FREE, times=0)
        # The other pages are where they were, and each still its own.
        for span in rest:
            assert [page.index for page in mirror.page_info(span)] == indexes[span.first : span.first + len(span)]
            assert {str(page) for page in mirror.snapshot(span)} == {"local rw"}
            assert mirror.read(span).data.matches(1)
        assert huge[200].matches(1)
        (split,) = log.expect(SPLIT, pages=HUGE_PAGES)
        assert split.index == indexes[0]
        log.expect(FREE, index=indexes[200], pages=1)
        assert not [event for event in log.select((MIGRATE, CPU_BEGIN), over=huge) if event.start != huge[200].addr]
    gone = 0 if what == "mprotect" else 64
    delta = Counts.now(mirror) - before
    assert delta == APART | {
        **{"huge": -1, "page_splits": 1, "device_splits": 1},
        **{"in_use": -1 - gone, "huge_in_use": -1},
    }
    if what == "mprotect":
        assert {str(page) for page in mirror.snapshot(part)} == {"local r"}
        part.protect(RW)
        assert part.matches(1)
    elif what == "dontneed":
        assert not any(part.load(page) for page in range(64))
    assert all(span.matches(1) for span in rest)
    assert mirror.counters().dev_pages_in_use == 0


@pytest.mark.contract("T-05")
@pytest.mark.contract("C-07")
@pytest.mark.contract("T-08")
@pytest.mark.parametrize("part", [slice(0, 1), slice(64, 128), slice(511, 512)], ids=["first", "middle", "last"])
def test_a_part_that_is_moved_elsewhere_has_its_pages_there(mirror, huge, part):
    indexes = [page.index for page in mirror.page_info(huge)]
    before = Counts.now(mirror)
    with Region.anonymous(HUGE_PAGES) as target:
        old, new = huge[part], target[part]
        old.move(new)
        assert Counts.now(mirror) - before == APART
        assert [page.index for page in mirror.page_info(new)] == indexes[part]
        assert set(mirror.snapshot(old).where) == {"error"}
        assert {page.mapped for page in mirror.page_info(old)} == {0}
        assert mirror.read(new).data.matches(1)
        mirror.write(new, 2)
        assert new.matches(2)
        new.move(old)
        assert old.matches(2)
        for span in (huge[: part.start], huge[part.stop :]):
            if len(span):
                assert span.matches(1)
    delta = Counts.now(mirror) - before
    assert (delta["huge"], delta["device_splits"], mirror.counters().dev_pages_in_use) == (-1, 1, 0)


@pytest.mark.contract("C-07")
@pytest.mark.contract("T-08")
def test_a_whole_one_is_moved_elsewhere_as_one(mirror, huge):
    """Where both places are aligned."""
    indexes = [page.index for page in mirror.page_info(huge)]
    with Region.huge(1) as target:
        before = Counts.now(mirror)
        with mirror.events(buf=huge) as log:
            huge.move(target)
            log.expect(UNMAP, huge, filtered=False, pages=HUGE_PAGES)
        assert Counts.now(mirror) - before == {}
        assert [page.index for page in mirror.page_info(target)] == indexes
        assert {str(page) for page in mirror.snapshot(target)} == {"local rw pmd"}
        assert {page.mapped for page in mirror.page_info(huge)} == {0}
        assert mirror.read(target).data.matches(1)
        target.move(huge)
        assert {str(page) for page in mirror.snapshot(huge)} == {"local rw pmd"}
    assert huge.matches(1)


@pytest.mark.contract("C-04")
@pytest.mark.contract("T-08")
def test_a_change_of_all_of_it_splits_nothing(mirror, huge):
    before = Counts.now(mirror)
    with mirror.events(buf=huge) as log:
        huge.protect(READ)
        log.expect(PROTECTION_VMA, huge, filtered=False, pages=HUGE_PAGES)
    assert {str(page) for page in mirror.snapshot(huge)} == {"local r pmd"}
    huge.protect(RW)
    assert huge.matches(1)
    assert Counts.now(mirror) - before == {"in_use": -HUGE_PAGES, "huge_in_use": -1}


@pytest.mark.contract("T-07")
@pytest.mark.contract("T-08")
@pytest.mark.parametrize("page", [0, 77, 511])
@pytest.mark.parametrize("access", ["load", "store"])
def test_one_fault_brings_all_of_it_back_as_one(mirror, huge, page, access):
    before, counters = Counts.now(mirror), mirror.counters()
    with mirror.events(buf=huge) as log:
        huge.load(page) if access == "load" else huge.store(huge.load(page), page)
        log.expect(MIGRATE, huge, owner="own", filtered=False, pages=HUGE_PAGES)
        log.expect(CPU_BEGIN, huge)
        log.expect(FREE, pages=HUGE_PAGES)
        log.expect(SPLIT, times=0)
    delta = mirror.counters() - counters
    assert (delta.dev_cpu_faults, delta.dev_pages_faulted) == (1, HUGE_PAGES)
    assert Counts.now(mirror) - before == {"in_use": -HUGE_PAGES, "huge_in_use": -1}
    assert {str(state) for state in mirror.snapshot(huge)} == {"ram rw pmd"}
    assert huge.matches(1)


@pytest.mark.contract("T-07")
def test_a_fault_on_what_is_mapped_in_parts_brings_one_page_back(mirror, huge):
    huge[PART].unmap()
    counters = mirror.counters()
    huge[200].touch()
    delta = mirror.counters() - counters
    # 7.2 and 7.3 take one fault to split it, which moves nothing, and one more.
    assert delta.dev_cpu_faults in (1, 2) and delta.dev_pages_faulted == 1
    assert [page for page, state in enumerate(mirror.snapshot(huge)) if state.where == "ram"] == [200]
    assert huge[:64].matches(1) and huge[128:].matches(1)


@pytest.mark.contract("T-01")
@pytest.mark.contract("T-08")
@pytest.mark.parametrize("to", ["device", "system"])
@pytest.mark.parametrize("part", [slice(0, 1), slice(64, 128), slice(1, 512)], ids=["first", "middle", "all-but-first"])
def test_a_part_that_migrates_leaves_the_rest_where_it_is(mirror, huge, to, part):
    if to == "device":
        huge.touch()
    indexes = [page.pfn for page in mirror.page_info(huge)]
    before, count = Counts.now(mirror), part.stop - part.start
    assert mirror.migrate(huge[part], to=to).moved == count
    here, there = ("r", "D") if to == "device" else ("D", "r")
    assert mirror.snapshot(huge).picture() == here * part.start + there * count + here * (HUGE_PAGES - part.stop)
    now = [page.pfn for page in mirror.page_info(huge)]
    assert now[: part.start] + now[part.stop :] == indexes[: part.start] + indexes[part.stop :]
    assert not set(now[part]) & set(indexes[part])
    delta = Counts.now(mirror) - before
    assert [delta.get(name) for name in ("huge", "mapped", "page_splits")] == [-1, -1, 1]
    assert delta.get("device_splits", 0) == (to == "system")
    assert delta["in_use"] == (count if to == "device" else -count)
    assert mirror.read(huge).data.matches(1) and huge.matches(1)


@pytest.mark.contract("T-02")
@pytest.mark.contract("T-08")
@pytest.mark.parametrize("to", ["device", "system"])
def test_small_destinations_leave_no_huge_page_counted(mirror, to):
    before = Counts.now(mirror)
    with Region.huge(1) as huge:
        huge.fill(1)
        if to == "system":
            mirror.migrate(huge)
        assert mirror.migrate(huge, to=to, order="small").moved == HUGE_PAGES
        delta = Counts.now(mirror) - before
        assert delta.get("huge", 0) == delta.get("mapped", 0) == delta.get("huge_in_use", 0) == 0
        assert len({page.pfn for page in mirror.page_info(huge)}) == HUGE_PAGES
        assert mirror.read(huge).data.matches(1)
        assert huge.matches(1)
    delta = Counts.now(mirror) - before
    assert not {name for name in delta if not name.endswith("splits")}


@pytest.mark.contract("T-08")
@pytest.mark.contract("A-05")
@pytest.mark.parametrize("how", ["migrate", "fork", "to-system", "release", "close", "dontneed", "hole", "zero-page"])
def test_the_counts_of_huge_pages_are_even_at_every_step(mirror, how):
    before = Counts.now(mirror)
    with Region.huge(1) as huge, Mirror(0) as own:
        if how == "zero-page":
            huge.load()
        elif how != "hole":
            huge.fill(1)
        on_device = {"huge": 1, "mapped": 1, "in_use": HUGE_PAGES, "huge_in_use": 1}
        own.migrate(huge)
        assert Counts.now(mirror) - before == on_device
        if how == "fork":
            with Offspring(huge) as child:
                assert (Counts.now(mirror) - before)["huge"] == 1
                # A huge page that two have mapped is counted once.
                assert Counts.now(mirror) - before == on_device
                child.leave()
            assert Counts.now(mirror) - before == on_device
        elif how == "to-system":
            own.migrate_to_system(huge)
        elif how == "release":
            mirror.release()
        elif how == "close":
            own.close()
        elif how == "dontneed":
            huge.advise(MADV_DONTNEED)
        if how in ("to-system", "release", "close"):
            assert Counts.now(mirror) - before == {"huge": 1, "mapped": 1}
            assert {str(page) for page in mirror.snapshot(huge)} == {"ram rw pmd"}
        elif how == "dontneed":
            assert Counts.now(mirror) - before == {}
    assert Counts.now(mirror) - before == {}


@pytest.mark.contract("T-06")
@pytest.mark.contract("T-08")
def test_fork_shares_it_as_one_and_a_store_to_a_part_is_a_copy_of_that(mirror, huge):
    before = Counts.now(mirror)
    with Offspring(huge) as child:
        assert child("states") == {"local r pmd"} == {str(page) for page in mirror.snapshot(huge)}
        assert child("frames") == [page.pfn for page in mirror.page_info(huge)]
        child("cpu", 2, 5, 6)
        assert {str(page) for page in mirror.snapshot(huge)} == {"ram r pmd"}
        assert child("picture") == "r" * HUGE_PAGES
        assert [page for page, writable in enumerate(child("writable")) if writable] == [5]
        assert child("frames")[6:] == [page.pfn for page in mirror.page_info(huge)][6:]
        assert huge.matches(1) and child("cpu-sees", 2, 5, 6)
        assert child("cpu-sees", 1, 0, 5) and child("cpu-sees", 1, 6, HUGE_PAGES)
        child.leave()
    assert huge.matches(1)
    delta = Counts.now(mirror) - before
    assert delta.get("huge", 0) == delta.get("mapped", 0) == 0
    assert delta["in_use"] == -HUGE_PAGES


@pytest.mark.contract("T-10")
@pytest.mark.contract("L-10")
def test_release_brings_folios_of_both_sizes_back_as_they_are(mirror):
    with Region.huge(3) as huge, Region.anonymous(40) as small, Mirror(0) as own:
        own.migrate(huge.fill(1))
        own.migrate(small.fill(2))
        huge[HUGE_PAGES + 3].touch()
        own.migrate(huge[HUGE_PAGES : 2 * HUGE_PAGES])
        huge[-1].unmap()
        mirror.release()
        counters = mirror.counters()
        assert counters.dev_pages_in_use == counters.dev_huge_in_use == counters.dev_small_in_use == 0
        states = mirror.snapshot(huge[:-1])
        assert set(states.where) == {"ram"} and all(page.writable for page in states)
        assert {page.order for page in states[:HUGE_PAGES]} == {"pmd"}
        assert huge[:-1].matches(1) and small.matches(2)


@pytest.mark.contract("T-11")
@pytest.mark.parametrize("first", ["huge", "small"])
def test_pages_that_change_their_size_have_nothing_left_of_it(mirror, first):
    """The same page frames as one folio, as many, as one that is split, and as one again."""
    seen = []
    for turn in range(6):
        kind = "huge" if (turn % 2 == 0) == (first == "huge") else "small"
        before = Counts.now(mirror)
        with Region.huge(1) if kind == "huge" else Region.anonymous(HUGE_PAGES) as memory:
            mirror.migrate(memory.fill(turn + 1))
            pages = mirror.page_info(memory)
            assert {page.order for page in pages} == ({9} if kind == "huge" else {0})
            seen.append({page.index for page in pages})
            assert len(seen[-1]) == HUGE_PAGES
            if turn % 3 == 1:
                memory[7].touch()
            if turn % 3 == 2:
                memory[100:200].unmap()
                assert memory[:100].matches(turn + 1) and memory[200:].matches(turn + 1)
            else:
                assert mirror.read(memory).data.matches(turn + 1) and memory.matches(turn + 1)
        delta = Counts.now(mirror) - before
        assert not {name for name in delta if not name.endswith("splits")}
    assert any(seen[0] & later for later in seen[1:]), "no page frame was used twice"
