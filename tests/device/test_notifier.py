# SPDX-License-Identifier: GPL-2.0
"""Section 1: what a mirror is told of, and which of it only the one that migrates may ignore."""

import errno
import mmap
from pathlib import Path

import pytest

from dmirror.events import CLEAR, EXCLUSIVE, MIGRATE, PROTECTION_PAGE, PROTECTION_VMA, SOFT_DIRTY, UNMAP
from dmirror.memory import HUGE_PAGES, PAGE, READ, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import in_child

pytestmark = pytest.mark.needs(capability="counters")

STEER = pytest.mark.needs(capability="steer")
FILTER = Path("/sys/module/dmirror/parameters/filter")


@pytest.fixture
def unfiltered():
    FILTER.write_text("0")
    yield
    FILTER.write_text("1")


def after(mirror, act):
    """What the counters of `mirror` say of `act`."""
    before = mirror.counters()
    act()
    return mirror.counters() - before


def forgotten(mirror, span):
    """Whether the device has no entry for any page of the span."""
    for page in range(len(span)):
        with pytest.raises(MirrorError) as caught:
            mirror.peek(span[page])
        assert caught.value.errno == errno.ENOENT
    return True


@pytest.mark.contract("N-01")
def test_every_mirror_hears_of_a_migration_exactly_once(mirror, mirror2, region):
    region.fill(1)
    other = mirror2.counters()
    own = after(mirror, lambda: mirror.migrate_to_device(region))
    assert own.events_seen == 1
    assert (mirror2.counters() - other).events_seen == 1


@STEER
@pytest.mark.contract("N-01")
@pytest.mark.parametrize("to", ["device", "system"])
@pytest.mark.parametrize("part", [slice(0, 16), slice(3, 7), slice(15, 16)], ids=["all", "some", "last"])
def test_a_migration_is_announced_once_with_its_range_and_owner(mirror, mirror2, region, part, to):
    span = region[part]
    region.fill(1)
    if to == "system":
        mirror.migrate_to_device(region)
    with mirror.events(buf=region) as own, mirror2.events(buf=region) as other:
        assert mirror.migrate(span, to=to).moved == len(span)
    own.expect(MIGRATE, over=region)
    own.expect(MIGRATE, span, owner="own", filtered=True, blockable=True)
    other.expect(MIGRATE, over=region)
    other.expect(MIGRATE, span, owner="other", filtered=False, blockable=True)
    assert region.matches(1)


@STEER
@pytest.mark.contract("N-01")
def test_a_migration_that_moves_nothing_is_announced_too(mirror, mirror2):
    with Region.shared(4) as region, mirror.events(buf=region) as own, mirror2.events(buf=region) as other:
        assert mirror.migrate(region.fill(1)).moved == 0
    own.expect(MIGRATE, region, owner="own")
    other.expect(MIGRATE, region, owner="other")


@pytest.mark.contract("N-02")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first-migrates", "second-migrates"])
def test_only_the_owners_mirror_ignores_its_migration(mirror, mirror2, region, order):
    pair = (mirror, mirror2)
    migrating, other = pair[order[0]], pair[order[1]]
    migrating.read(region.fill(1))
    other.read(region)
    before = other.counters()
    own = after(migrating, lambda: migrating.migrate_to_device(region))
    theirs = other.counters() - before
    assert (own.events_filtered, own.events_obeyed) == (1, 0)
    assert (theirs.events_filtered, theirs.events_obeyed) == (0, 1)
    assert theirs.entries_dropped == len(region)
    assert other.counters().entries_present == 0


@STEER
@pytest.mark.contract("N-02")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first-migrates", "second-migrates"])
def test_the_owner_keeps_what_stays_and_the_other_loses_everything(mirror, mirror2, region, order):
    pair = (mirror, mirror2)
    migrating, other = pair[order[0]], pair[order[1]]
    migrating.read(region.fill(1))
    other.read(region)
    with region[5].in_a_pipe(), migrating.events(buf=region) as own, other.events(buf=region) as theirs:
        assert migrating.migrate(region).moved == 15
        assert migrating.peek(region[5]).matches(1)
        assert forgotten(other, region)
    own.expect(MIGRATE, region, filtered=True, pages=16)
    theirs.expect(MIGRATE, region, filtered=False, pages=16)
    assert other.read(region).data.matches(1)


@STEER
@pytest.mark.contract("N-03")
@pytest.mark.parametrize("owner", ["none", "other"])
def test_a_migration_with_another_owner_drops_the_own_mirror_too(mirror, mirror2, region, owner):
    mirror.read(region.fill(1))
    mirror2.read(region)
    with region[5].in_a_pipe(), mirror.events(buf=region) as own, mirror2.events(buf=region) as theirs:
        assert mirror.migrate(region, owner=owner).moved == 15
        assert forgotten(mirror, region[5])
    own.expect(MIGRATE, region, owner=owner, filtered=False, pages=16)
    # The owner of an event is no reason for a mirror to ignore what another one does.
    theirs.expect(MIGRATE, region, owner="own" if owner == "other" else "none", filtered=False, pages=16)
    assert mirror.read(region).data.matches(1)
    assert mirror2.read(region).data.matches(1)


@STEER
@pytest.mark.contract("N-03")
def test_a_mirror_that_obeys_its_own_migration_forgets_what_stays(mirror, region):
    mirror.read(region.fill(1))
    with region[5].in_a_pipe(), mirror.events(buf=region) as log:
        assert mirror.migrate(region, obey=True).moved == 15
        assert forgotten(mirror, region[5])
    log.expect(MIGRATE, region, owner="own", filtered=False, pages=16)
    assert mirror.read(region).data.matches(1)


@pytest.mark.contract("N-03")
def test_without_the_filter_the_own_mirror_is_dropped_and_data_are_right(mirror, region, unfiltered):
    region.fill(1)
    mirror.migrate_to_device(region)
    region[:8].touch()
    own = after(mirror, lambda: mirror.migrate_to_device(region))
    assert (own.events_filtered, own.events_obeyed) == (0, 1)
    # The device entries of the pages that stayed are lost, and found again.
    assert own.entries_dropped == 8
    assert mirror.read(region).data.matches(1)
    assert mirror.snapshot(region).where == ["local"] * len(region)


@pytest.mark.contract("N-04")
@pytest.mark.contract("D-11")
def test_another_context_of_the_same_device_is_not_forgotten(mirror, region):
    with Mirror(0) as other:
        other.read(region.fill(1))
        before = other.counters()
        mirror.migrate_to_device(region)
        theirs = other.counters() - before
        assert (theirs.events_filtered, theirs.entries_dropped) == (0, len(region))
        mirror.write(region, 2)
        assert other.read(region).data.matches(2)


@STEER
@pytest.mark.contract("N-04")
@pytest.mark.contract("D-11")
def test_the_same_owner_in_another_context_is_no_reason_to_keep_anything(mirror, region):
    with Mirror(0) as other:
        other.read(region.fill(1))
        with region[5].in_a_pipe(), other.events(buf=region) as log:
            assert mirror.migrate(region).moved == 15
            assert forgotten(other, region)
        log.expect(MIGRATE, region, owner="own", filtered=False, pages=16)
        assert other.read(region).data.matches(1)


@STEER
@pytest.mark.contract("N-04")
def test_a_page_that_comes_back_is_announced_with_the_owner_to_every_context(mirror, mirror2, region):
    with Mirror(0) as other:
        mirror.migrate_to_device(region.fill(1))
        other.read(region[3])
        with (
            mirror.events(buf=region) as own,
            other.events(buf=region) as same,
            mirror2.events(buf=region) as stranger,
        ):
            region[3].touch()
        own.expect(MIGRATE, region[3], owner="own", filtered=False, pages=1)
        same.expect(MIGRATE, region[3], owner="own", filtered=False, pages=1)
        stranger.expect(MIGRATE, region[3], owner="other", filtered=False, pages=0)


@pytest.mark.contract("N-04")
def test_a_cpu_fault_reaches_every_context_of_the_device(mirror, region):
    with Mirror(0) as other:
        region.fill(1)
        mirror.migrate_to_device(region)
        other.read(region)
        region[3].store(42)
        assert mirror.read(region[3]).data.word(0) == other.read(region[3]).data.word(0) == 42
        assert mirror.snapshot(region).picture() == "DDDrDDDDDDDDDDDD"


def clear_soft_dirty(span):
    Path("/proc/self/clear_refs").write_text("4")


# Everything that an event can be, but for the end of the address space; what raises it for four pages.
OWNERLESS = {
    "munmap": (UNMAP, lambda span: span.unmap()),
    "dontneed": (CLEAR, lambda span: span.advise(mmap.MADV_DONTNEED)),
    "mprotect": (PROTECTION_VMA, lambda span: span.protect(READ)),
    "fork": (PROTECTION_PAGE, lambda span: in_child(lambda: None)),
    "soft-dirty": (SOFT_DIRTY, clear_soft_dirty),
}


@STEER
@pytest.mark.contract("N-05")
@pytest.mark.parametrize("how", OWNERLESS)
def test_an_event_without_an_owner_is_obeyed_and_has_none(mirror, region, how):
    """That its owner, which is not initialised, is not even looked at, only KMSAN could tell."""
    kind, act = OWNERLESS[how]
    mirror.read(region.fill(1))
    with mirror.events(buf=region) as log:
        act(region[:4])
    (event,) = log.expect(kind, over=region[:4], watch=0)
    assert (event.owner, event.filtered, event.blockable) == (None, False, True)
    assert event.pages >= 4
    assert forgotten(mirror, region[:4])


@STEER
@pytest.mark.contract("N-05")
def test_an_own_migration_excuses_from_no_other_event(mirror):
    """A huge page of which a part migrates is split first: the task that may ignore MIGRATE is told CLEAR."""
    with Region.huge(1) as region:
        mirror.read(region.fill(1))
        with mirror.events(buf=region) as log:
            mirror.migrate(region[:8])
        log.expect(MIGRATE, region[:8], owner="own", filtered=True)
        (first, *_) = log.select(CLEAR, over=region)
        assert (first.start, first.end) == (region.addr, region.end)
        assert all((event.owner, event.filtered) == (None, False) for event in log.select(CLEAR, over=region))
        assert first.pages == HUGE_PAGES
        assert mirror.read(region).data.matches(1)


@STEER
@pytest.mark.contract("N-05")
@pytest.mark.contract("X-02")
def test_exclusive_access_has_an_owner_and_its_end_has_not_ours(mirror, mirror2, region):
    mirror2.read(region.fill(1))
    with mirror.events(buf=region) as own, mirror2.events(buf=region) as other:
        mirror.exclusive(region[3])
        region[3].store(9)
    own.expect(EXCLUSIVE, region[3], owner="own", filtered=True)
    other.expect(EXCLUSIVE, region[3], owner="other", filtered=False, pages=1)
    # EXCLUSIVE with no owner until 6.14, CLEAR since.
    (end,) = own.expect((EXCLUSIVE, CLEAR), region[3], filtered=False)
    assert end.owner in ("none", None)
    assert not mirror.is_exclusive(region)


@pytest.mark.contract("N-06")
@pytest.mark.contract("D-14")
def test_an_event_drops_its_pages_and_no_neighbour(mirror, region):
    mirror.read(region.fill(1))
    own = after(mirror, region[4:8].unmap)
    assert own.entries_dropped == 4
    for part in (region[:4], region[8:]):
        assert mirror.read(part).faults == 0


@pytest.mark.contract("N-06")
@pytest.mark.contract("D-14")
def test_an_event_that_ends_at_a_leaf_does_not_reach_into_the_next(mirror):
    with Region.anonymous(2 * HUGE_PAGES, align=HUGE_PAGES * PAGE) as region:
        # Too small for a huge page on either side: mprotect() would announce the split of one.
        region[: HUGE_PAGES - 8].unmap()
        region[HUGE_PAGES + 8 :].unmap()
        part = region[HUGE_PAGES - 8 : HUGE_PAGES + 8].fill(1)
        mirror.read(part)
        own = after(mirror, lambda: part[:8].protect(READ))
        assert own.entries_dropped == 8
        assert mirror.read(part[8:]).faults == 0
