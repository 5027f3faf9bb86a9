# SPDX-License-Identifier: GPL-2.0
"""Section 3: the migrate_vma protocol."""

import errno
import os
import random

import pytest
from facilities.kin import store_is_refused

from dmirror.memory import MADV_PAGEOUT, NONE, READ, RW, Region
from dmirror.mirror import MirrorError
from dmirror.process import Child

COUNTERS = pytest.mark.needs(capability="counters")


def test_pages_go_to_the_device_and_come_back_by_a_touch(mirror, region):
    region.fill(1)
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region) and result.data.matches(1)
    assert {str(page) for page in mirror.snapshot(region)} == {"local rw"}
    assert region.matches(1)
    assert {str(page) for page in mirror.snapshot(region)} == {"ram rw"}


def test_migrate_to_system_brings_pages_back(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    assert mirror.migrate_to_system(region[2:10]) == 8
    assert mirror.snapshot(region).where == ["local"] * 2 + ["ram"] * 8 + ["local"] * 6
    assert mirror.migrate_to_system(region) == 8
    assert region.matches(1)


@pytest.mark.contract("D-12")
def test_after_migrate_to_system_the_device_sees_system_memory(mirror, region):
    """The event is filtered, so the migration itself has to take the device entries of what it moves."""
    mirror.migrate_to_device(region.fill(1))
    mirror.write(region, 2)
    moved = region[4:8]
    mirror.migrate_to_system(moved)
    moved.fill(3)
    # Only these: a fault on a page before them would map them anew.
    assert mirror.read(moved).data.matches(3)
    mirror.write(moved, 4)
    assert moved.matches(4)


def test_migrate_to_system_of_system_memory_moves_nothing(mirror, region):
    assert mirror.migrate_to_system(region) == 0
    assert mirror.migrate_to_system(region.fill(1)) == 0
    assert mirror.snapshot(region).where == ["ram"] * len(region)


def test_what_the_device_writes_on_its_own_memory_comes_back(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    result = mirror.write(region, 2)
    assert result.faults == 0
    assert mirror.snapshot(region).where == ["local"] * len(region)
    assert region.matches(2)


def test_one_page(mirror, region):
    region.fill(1)
    assert mirror.migrate_to_device(region[7]).data.matches(1)
    assert mirror.snapshot(region).picture() == "rrrrrrrDrrrrrrrr"


def test_more_than_a_page_table_covers_at_an_odd_place(mirror):
    with Region.anonymous(1400) as region:
        part = region.fill(3)[5:1300]
        assert mirror.migrate_to_device(part).data.matches(3)
        picture = mirror.snapshot(region).picture()
        assert picture == "r" * 5 + "D" * 1295 + "r" * 100
        assert region.matches(3)


def test_a_range_of_several_mappings(mirror, region):
    region.fill(1)
    region[4:8].protect(READ)
    assert mirror.migrate_to_device(region).pages == len(region)
    states = mirror.snapshot(region)
    assert [page.writable for page in states] == [True] * 4 + [False] * 4 + [True] * 8
    assert region.matches(1)


@pytest.mark.contract("M-01")
@pytest.mark.parametrize("call", ["MIGRATE_TO_DEV", "MIGRATE_TO_SYS"])
@pytest.mark.parametrize("kind", ["hugetlb", "own-mapping", "no-access", "gap"])
def test_what_cannot_migrate_is_einval_and_untouched(mirror, call, kind):
    make = {
        "hugetlb": lambda: Region.hugetlb(1),
        "own-mapping": lambda: Region.of_file(mirror.fd, 4, private=True),
    }.get(kind, lambda: Region.anonymous(4))
    with make() as region:
        region.load()
        if kind == "no-access":
            region.protect(NONE)
        if kind == "gap":
            region.unmap()
        before = region.pagemap()
        with pytest.raises(MirrorError) as caught:
            mirror.call(call, region.addr, region.npages)
        assert caught.value.errno == errno.EINVAL
        assert region.pagemap() == before


@pytest.mark.contract("M-06")
def test_a_mixed_range_migrates_only_what_is_not_there(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    region[:8].touch()
    assert mirror.snapshot(region).picture() == "rrrrrrrrDDDDDDDD"
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region) and result.data.matches(1)
    assert mirror.snapshot(region).picture() == "D" * 16


@COUNTERS
@pytest.mark.contract("M-06")
def test_device_entries_survive_the_migration_of_their_neighbours(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    region[:8].touch()
    before = mirror.counters()
    mirror.migrate_to_device(region)
    delta = mirror.counters() - before
    assert (delta.events_filtered, delta.entries_kept, delta.entries_dropped) == (1, 8, 0)
    assert (delta.dev_pages_allocated, delta.dev_cpu_faults, delta.entries_installed) == (8, 0, 8)


@COUNTERS
@pytest.mark.contract("M-07")
def test_pages_ping_pong_without_loss_leak_or_drift(mirror):
    chance = random.Random(1)
    with Region.anonymous(64) as region:
        region.fill(1)
        before = mirror.counters()
        for _ in range(1000):
            start = chance.randrange(64)
            part = region[start : chance.randrange(start, 64) + 1]
            if chance.random() < 0.5:
                assert mirror.migrate_to_device(part).data.matches(1)
            elif chance.random() < 0.5:
                mirror.migrate_to_system(part)
            else:
                assert part.matches(1)
        assert region.matches(1)
        delta = mirror.counters() - before
        assert delta.dev_pages_allocated == delta.dev_pages_freed > 1000
        assert delta.dev_pages_in_use == 0


@pytest.mark.contract("M-08")
@pytest.mark.parametrize("call", ["MIGRATE_TO_DEV", "MIGRATE_TO_SYS"])
def test_another_devices_pages_are_left_alone(mirror, mirror2, region, call):
    region.fill(1)
    mirror2.migrate_to_device(region)
    if call == "MIGRATE_TO_SYS":
        assert mirror.migrate_to_system(region) == 0
    else:
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert caught.value.errno == errno.ENOENT
    assert mirror2.snapshot(region).where == ["local"] * len(region)
    assert region.matches(1)


@pytest.mark.contract("M-09")
def test_nothing_to_migrate_is_success(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    assert mirror.migrate_to_device(region).pages == len(region)
    mirror.migrate_to_system(region)
    assert mirror.migrate_to_system(region) == 0


@pytest.mark.contract("M-10")
@pytest.mark.parametrize("back", ["touch", "call", "release"])
@pytest.mark.parametrize("prot", [READ, RW], ids=["read-only", "read-write"])
def test_permission_survives_the_round_trip(mirror, region, back, prot):
    region.fill(1)
    region.protect(prot)
    mirror.migrate_to_device(region)
    assert {page.writable for page in mirror.snapshot(region)} == {prot == RW}
    {"touch": region.touch, "call": lambda: mirror.migrate_to_system(region), "release": mirror.release}[back]()
    assert mirror.snapshot(region).where == ["ram"] * len(region)
    assert region.matches(1)
    # A child would not say: fork(2) write-protects what it copies.
    assert store_is_refused(region) == (prot == READ)


@pytest.mark.contract("M-10")
@pytest.mark.parametrize("back", ["touch", "call", "release"])
def test_copy_on_write_survives_the_round_trip(mirror, region, back):
    region.fill(1)

    def child(line):
        line.send()
        line.receive()
        return region.matches(1)

    with Child(child) as other:
        other.line.receive()
        mirror.migrate_to_device(region)
        {"touch": region.touch, "call": lambda: mirror.migrate_to_system(region), "release": mirror.release}[back]()
        region.fill(2)
        other.line.send()
        assert other.result() is True


@pytest.mark.contract("P-01")
@pytest.mark.contract("D-07")
def test_a_pinned_page_stays_and_is_reported(mirror, region):
    region.fill(1)
    pinned = region[5]
    with pinned.in_a_pipe() as pipe:
        mirror.read(region)  # that the device maps a page says nothing of where it is
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 5)
        assert mirror.snapshot(region).picture() == "DDDDDrDDDDDDDDDD"
        pinned.store(77)
        assert os.read(pipe, 8) == (77).to_bytes(8, "little")
    pinned.fill(1)
    # Nothing holds it any more.
    assert mirror.migrate_to_device(region).data.matches(1)


@pytest.mark.contract("F-01")
@pytest.mark.parametrize("make", [Region.shared, Region.memfd, Region.file])
def test_file_and_shmem_pages_do_not_migrate(mirror, make):
    with make(8) as region:
        region.fill(1)
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert mirror.snapshot(region).where == ["ram"] * 8
        assert region.matches(1)


@pytest.mark.contract("F-02")
def test_private_copies_of_file_pages_migrate(mirror):
    with Region.file(8, private=True) as region:
        region[2:5].fill(1)
        assert mirror.migrate_to_device(region[2:5]).data.matches(1)
        assert region[2:5].matches(1) and region[5:].zero()


@pytest.mark.contract("A-09")
def test_pageout_leaves_device_pages_alone(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    region.advise(MADV_PAGEOUT)
    assert mirror.snapshot(region).where == ["local"] * len(region)
    assert region.matches(1)
