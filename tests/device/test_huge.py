# SPDX-License-Identifier: GPL-2.0
"""Section 11: huge device folios; on kernels without them, that huge pages are split and nothing is lost."""

from contextlib import ExitStack

import pytest
from facilities.kin import Offspring
from facilities.machine import frames, setting

from dmirror.memory import HUGE_PAGES, PAGE, READ, RW, Region
from dmirror.process import in_child
from dmirror.uapi import lib

THP = pytest.mark.needs(capability="device_thp")


@pytest.fixture
def huge(mirror):
    with Region.huge(1) as region:
        yield region


@pytest.fixture
def on_device(mirror, huge):
    huge.fill(1)
    result = mirror.migrate_to_device(huge)
    assert result.pages == HUGE_PAGES and result.data.matches(1)
    return huge


@pytest.mark.contract("T-01")
def test_a_huge_page_migrates_with_all_its_data(mirror, on_device):
    assert mirror.snapshot(on_device).where == ["local"] * HUGE_PAGES
    assert on_device.matches(1)


@THP
@pytest.mark.contract("T-01")
def test_a_huge_page_migrates_as_one(mirror, on_device):
    assert {str(page) for page in mirror.snapshot(on_device)} == {"local rw pmd"}


@THP
@pytest.mark.contract("T-01")
def test_a_part_of_a_huge_page_is_split_off(mirror, huge):
    huge.fill(1)
    mirror.migrate_to_device(huge[100:200])
    states = mirror.snapshot(huge)
    assert states.picture() == "r" * 100 + "D" * 100 + "r" * 312
    assert huge.matches(1)


@pytest.mark.contract("T-02")
@pytest.mark.needs(capability="flags")
def test_small_destinations_for_a_huge_source(mirror, huge):
    huge.fill(1)
    mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
    try:
        mirror.migrate_to_device(huge)
    except OSError:
        # Where huge pages are split first, the failure is that of one small page.
        mirror.migrate_to_device(huge)
    assert {str(page) for page in mirror.snapshot(huge)} == {"local rw"}
    assert huge.matches(1)


@THP
@pytest.mark.contract("T-02")
@pytest.mark.contract("D-04")
def test_small_destinations_on_the_way_back(mirror, on_device):
    mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
    assert mirror.migrate_to_system(on_device) == HUGE_PAGES
    assert {str(page) for page in mirror.snapshot(on_device)} == {"ram rw"}
    assert on_device.matches(1)


@THP
@pytest.mark.contract("D-08")
def test_a_huge_page_counts_all_its_pages(mirror, on_device):
    assert mirror.migrate_to_system(on_device) == HUGE_PAGES


@THP
@pytest.mark.contract("T-04")
@pytest.mark.parametrize("first", ["nothing", "cpu-read"])
def test_a_huge_hole_becomes_a_huge_device_page(mirror, huge, first):
    if first == "cpu-read":
        huge.load()
    assert mirror.migrate_to_device(huge).data.zero()
    assert {str(page) for page in mirror.snapshot(huge)} == {"local rw pmd"}
    mirror.write(huge, 2)
    assert huge.matches(2)


@THP
@pytest.mark.contract("T-04")
def test_a_huge_hole_filled_with_small_pages(mirror, huge):
    mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
    assert mirror.migrate_to_device(huge).data.zero()
    assert {str(page) for page in mirror.snapshot(huge)} == {"local rw"}
    assert huge.zero()


@pytest.mark.contract("T-05")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("what", ["munmap", "mprotect", "dontneed"])
def test_a_partial_change_keeps_the_rest(mirror, on_device, what):
    part = on_device[64:128]
    if what == "munmap":
        part.unmap()
    elif what == "mprotect":
        part.protect(READ)
    else:
        part.advise(4)
    for rest in (on_device[:64], on_device[128:]):
        assert mirror.read(rest).data.matches(1)
        assert rest.matches(1)
    if what == "mprotect":
        part.protect(RW)
        assert part.matches(1)
    assert mirror.counters().dev_pages_in_use == 0


@THP
@pytest.mark.contract("T-05")
@pytest.mark.needs(capability="counters")
def test_a_split_in_use_is_counted_and_every_page_freed_once(mirror):
    before = mirror.counters()
    with Region.huge(1) as huge:
        mirror.migrate_to_device(huge.fill(1))
        huge[10].unmap()
        assert huge[11:].matches(1)
    delta = mirror.counters() - before
    assert (delta.dev_huge_allocated, delta.dev_huge_split) == (1, 1)
    assert delta.dev_pages_allocated == delta.dev_pages_freed == HUGE_PAGES


@pytest.mark.contract("T-06")
def test_fork_with_a_huge_device_page(mirror, on_device):
    def child():
        on_device[5].store(9)
        return on_device[6:].matches(1)

    assert in_child(child)
    assert on_device.matches(1)


@THP
@pytest.mark.contract("T-07")
def test_a_cpu_fault_brings_the_whole_folio_back(mirror, on_device):
    on_device[77].load()
    assert {str(page) for page in mirror.snapshot(on_device)} == {"ram rw pmd"}
    assert on_device.matches(1)


@pytest.mark.contract("T-09")
@pytest.mark.contract("H-11")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("offset", [0, 1, 63, 255, 511])
def test_every_offset_is_its_own_page(mirror, on_device, offset):
    on_device.protect(READ)  # drops the device entries
    on_device.protect(RW)
    before = mirror.counters()
    assert mirror.read(on_device[offset]).data.matches(1)
    assert (mirror.counters() - before).dev_cpu_faults == 0
    mirror.write(on_device[offset], 2)
    assert on_device[offset].matches(2)
    for rest in (on_device[:offset], on_device[offset + 1 :]):
        assert rest.matches(1)


@pytest.mark.contract("T-11")
@pytest.mark.contract("D-17")
@pytest.mark.needs(capability="counters")
def test_pages_serve_as_huge_then_small_then_huge(mirror):
    for round_ in range(20):
        with Region.huge(1) as huge:
            mirror.migrate_to_device(huge.fill(round_))
            assert huge.matches(round_)
        with Region.anonymous(HUGE_PAGES) as small:
            mirror.migrate_to_device(small.fill(round_))
            assert small.matches(round_)
    assert mirror.counters().dev_pages_in_use == 0


@THP
def test_release_brings_huge_folios_back(mirror, on_device):
    mirror.release()
    assert set(mirror.snapshot(on_device).where) == {"ram"}
    assert on_device.matches(1)


@pytest.mark.contract("T-01")
@pytest.mark.contract("M-10")
@pytest.mark.needs(capability="steer", kernel=">=7.2")  # before, such pages stay
@pytest.mark.parametrize("part", [slice(0, 16), slice(0, 5), slice(3, 9), slice(15, 16)], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_a_large_page_of_another_size_is_split_and_each_part_is_its_own(mirror, part, shared):
    """Of 64 KiB: the part migrates and the rest stays where it is."""
    enabled = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"
    with setting(enabled, "always"), Region.anonymous(32, align=32 * PAGE) as memory, ExitStack() as stack:
        memory.fill(1)
        before = frames(memory)
        assert before[:16] == list(range(before[0], before[0] + 16)), "it is not one large page"
        child = stack.enter_context(Offspring(memory)) if shared else None
        picture = "r" * part.start + "D" * (part.stop - part.start) + "r" * (32 - part.stop)
        assert mirror.migrate(memory[part]).moved == part.stop - part.start
        assert mirror.snapshot(memory).picture() == picture
        now = frames(memory)
        assert all(now[page] == (None if picture[page] == "D" else before[page]) for page in range(32))
        assert {page.writable for page in mirror.snapshot(memory)} == {not shared}
        assert mirror.read(memory).data.matches(1)
        if child:
            assert child("picture") == picture and not any(child("writable"))
        memory.fill(2)
        if child:
            assert child("device-sees", 1)
            child("cpu", 3)
            child.leave()
        assert memory.matches(2) and mirror.read(memory).data.matches(2)
        mirror.migrate(memory)
        assert memory.matches(2)
