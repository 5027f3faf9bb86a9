# SPDX-License-Identifier: GPL-2.0
"""Section 1: notifier filtering, as far as counters show it."""

from pathlib import Path

import pytest

from dmirror.memory import HUGE_PAGES, PAGE, READ, Region
from dmirror.mirror import Mirror

pytestmark = pytest.mark.needs(capability="counters")

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


@pytest.mark.contract("N-01")
def test_every_mirror_hears_of_a_migration_exactly_once(mirror, mirror2, region):
    region.fill(1)
    other = mirror2.counters()
    own = after(mirror, lambda: mirror.migrate_to_device(region))
    assert own.events_seen == 1
    assert (mirror2.counters() - other).events_seen == 1


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


@pytest.mark.contract("N-04")
def test_a_cpu_fault_reaches_every_context_of_the_device(mirror, region):
    with Mirror(0) as other:
        region.fill(1)
        mirror.migrate_to_device(region)
        other.read(region)
        region[3].store(42)
        assert mirror.read(region[3]).data.word(0) == other.read(region[3]).data.word(0) == 42
        assert mirror.snapshot(region).picture() == "DDDrDDDDDDDDDDDD"


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
