# SPDX-License-Identifier: GPL-2.0
"""Sections 3 and 9: the right to write, write-protection by userfaultfd, and soft-dirty, over whatever a page does."""

import errno
import mmap
from pathlib import Path

import pytest
from facilities.kin import Offspring, store_is_refused
from facilities.userfault import Userfault

from dmirror.events import PROTECTION_VMA
from dmirror.memory import NONE, PAGE, READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

# /proc/PID/pagemap
SOFT_DIRTY, UFFD_WP = 1 << 55, 1 << 57

WAYS = ["touch", "to-system", "release", "close", "other-reads"]


def stories(*whens):
    """When something happens, and one of WAYS."""
    return [pytest.param((when, way), id=f"{when}-{way}") for when in whens for way in WAYS]


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16, align=16 * PAGE) if request.param == "small" else Region.huge(1) as region:
        yield region


@pytest.fixture
def device(mirror):
    """The mirror that migrates: it closes where a test wants that."""
    with Mirror(0) as opened:
        yield opened


def go(device, mirror, memory):
    """To the device, all of it."""
    assert device.migrate(memory).moved == len(memory)
    assert set(mirror.snapshot(memory).where) == {"local"}


def bring_back(way, device, mirror, mirror2, memory):
    """To system memory by one of WAYS."""
    if way == "close":
        device.close()
    elif way == "release":
        mirror.release()
    elif way == "to-system":
        assert device.migrate_to_system(memory) == len(memory)
    elif way == "other-reads":
        mirror2.read(memory)
    else:
        memory.touch()
    assert set(mirror.snapshot(memory).where) == {"ram"}


def rights(mirror, memory):
    """Whether each page is writable by the page table."""
    return [page.writable for page in mirror.snapshot(memory)]


def device_is_refused(mirror, memory):
    """Whether the device may not store to the first page."""
    try:
        mirror.write(memory[0], 1)
    except MirrorError as error:
        assert error.errno == errno.EPERM
        return True
    return False


# -- the right to write -------------------------------------------------------------------------------------------


@pytest.mark.contract("M-10")
@pytest.mark.parametrize("way", WAYS)
def test_writable_memory_is_writable_at_every_stage_and_at_once(mirror, mirror2, device, memory, way):
    """Not only after one more fault: the entry itself has the right."""
    memory.fill(1)
    go(device, mirror, memory)
    assert all(rights(mirror, memory))
    assert device.write(memory, 2).faults == 0
    bring_back(way, device, mirror, mirror2, memory)
    assert all(rights(mirror, memory))
    assert memory.matches(2)
    assert not store_is_refused(memory)


@pytest.mark.contract("M-10")
@pytest.mark.contract("C-04")
@pytest.mark.parametrize("story", stories("before", "on-device", "after"))
def test_memory_made_read_only_is_so_for_cpu_and_device_wherever_it_goes(mirror, mirror2, device, memory, story):
    when, way = story
    memory.fill(1)
    if when == "before":
        memory.protect(READ)
    go(device, mirror, memory)
    if when == "on-device":
        with device.events(buf=memory) as log:
            memory.protect(READ)
            log.expect(PROTECTION_VMA, memory, filtered=False, pages=len(memory))
        with pytest.raises(MirrorError) as caught:
            device.peek(memory)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
    if when != "after":
        assert not any(rights(mirror, memory))
        assert device_is_refused(mirror, memory)
        assert mirror.snapshot(memory[-1]).where == ["local"]
    if device.fd >= 0 and set(mirror.snapshot(memory).where) == {"local"}:
        bring_back(way, device, mirror, mirror2, memory)
    if when == "after":
        memory.protect(READ)
    assert not any(rights(mirror, memory))
    assert store_is_refused(memory) and store_is_refused(memory, len(memory) - 1)
    assert device_is_refused(mirror, memory) and device_is_refused(mirror2, memory)
    assert memory.matches(1)
    # Read-only once more on the device, and back.
    with Mirror(0) as again:
        again.migrate(memory)
        assert not any(rights(mirror, memory))
    assert store_is_refused(memory)
    memory.protect(RW)
    assert memory.matches(1)
    memory.fill(2)
    assert mirror.read(memory).data.matches(2)


@pytest.mark.contract("C-04")
@pytest.mark.contract("T-05")
@pytest.mark.parametrize("way", ["touch", "to-system", "release"])
def test_a_part_made_read_only_on_the_device_is_read_only_and_no_page_more(mirror, mirror2, device, memory, way):
    memory.fill(1)
    go(device, mirror, memory)
    wanted = [not 3 <= page < 7 for page in range(len(memory))]
    with device.events(buf=memory) as log:
        memory[3:7].protect(READ)
        log.expect(PROTECTION_VMA, memory[3:7], filtered=False)
    with pytest.raises(MirrorError) as caught:
        device.peek(memory[3:7])
    assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
    assert rights(mirror, memory) == wanted
    assert set(mirror.snapshot(memory).where) == {"local"}
    bring_back(way, device, mirror, mirror2, memory)
    assert rights(mirror, memory) == wanted
    assert [store_is_refused(memory, page) for page in range(2, 8)] == [False, True, True, True, True, False]
    memory[3:7].protect(RW)
    assert memory[3:7].matches(1)


@pytest.mark.contract("C-05")
@pytest.mark.parametrize("way", ["touch", "to-system", "release", "close"])
def test_memory_that_was_out_of_reach_on_the_device_has_its_data(mirror, mirror2, device, memory, way):
    memory.fill(1)
    go(device, mirror, memory)
    index = [page.index for page in mirror.page_info(memory)]
    memory.protect(NONE)
    assert set(mirror.snapshot(memory).where) <= {"error", "none"}
    for other in (mirror, mirror2):
        with pytest.raises(MirrorError) as caught:
            other.read(memory)
        assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 0)
    assert store_is_refused(memory)
    if way in ("release", "close"):
        # Eviction goes by the pages, whatever their mapping allows.
        {"release": mirror.release, "close": device.close}[way]()
        assert store_is_refused(memory)
    memory.protect(RW)
    if way in ("touch", "to-system"):
        assert [page.index for page in mirror.page_info(memory)] == index
        assert mirror.read(memory).data.matches(1)
        bring_back(way, device, mirror, mirror2, memory)
    assert mirror.read(memory).data.matches(1) and memory.matches(1)
    memory.fill(2)
    assert mirror.read(memory).data.matches(2)


@pytest.mark.contract("M-10")
@pytest.mark.contract("M-08")
def test_permission_goes_from_device_to_device(mirror, mirror2, memory):
    for prot in (READ, RW):
        memory.protect(RW)
        memory.fill(1)
        memory.protect(prot)
        mirror.migrate(memory)
        assert mirror2.migrate(memory, select=("private",), owner="other").moved == len(memory)
        states = mirror2.snapshot(memory)
        assert set(states.where) == {"local"}
        assert {page.writable for page in states} == {prot == RW}
        memory.touch()
        assert rights(mirror, memory) == [prot == RW] * len(memory)
        assert store_is_refused(memory) == (prot == READ)
        memory.protect(RW)
        memory[0].fill(1)
        assert memory.matches(1)


@pytest.mark.contract("M-10")
@pytest.mark.parametrize("way", ["to-system", "release", "close", "touch"])
def test_coherent_memory_keeps_its_permission_on_the_way_back(coherent, way):
    for prot in (READ, RW):
        with Mirror(coherent.device) as own, Region.anonymous(16) as memory:
            memory.fill(1)
            memory.protect(prot)
            assert own.migrate(memory).moved == 16
            assert {page.writable for page in coherent.snapshot(memory)} == {prot == RW}
            assert store_is_refused(memory[0]) == (prot == READ)
            if way == "close":
                own.close()
            elif way == "release":
                coherent.release()
            elif way == "to-system":
                assert own.migrate_to_system(memory) == 16
            assert {page.writable for page in coherent.snapshot(memory)} == {prot == RW}
            assert store_is_refused(memory[1]) == (prot == READ)
            assert memory[2:].matches(1)


@pytest.mark.contract("M-10")
@pytest.mark.contract("Z-06")
@pytest.mark.parametrize("way", ["touch", "to-system", "release"])
def test_the_zero_page_is_never_writable(mirror, mirror2, way):
    """Neither for who reads a hole nor where a skipped one is put back; what replaces it is nobody else's."""
    with Region.anonymous(16, align=16 * PAGE) as memory, Region.anonymous(1) as other:
        memory.touch()
        other.touch()
        mirror2.read(memory)
        mirror.migrate(memory, skip=range(8))
        pages = mirror.page_info(memory)
        assert [page.zero for page in pages] == [True] * 8 + [False] * 8
        assert [page.write for page in pages] == [False] * 8 + [True] * 8
        mirror.write(memory[8:], 2)
        if way == "touch":
            memory.touch()
        elif way == "to-system":
            mirror.migrate_to_system(memory)
        else:
            mirror.release()
        assert [page.write for page in mirror.page_info(memory)] == [False] * 8 + [True] * 8
        memory[:8].fill(3)
        assert not other.load() and mirror2.read(other).data.zero()
        assert memory[8:].matches(2)


# -- write-protection by userfaultfd ------------------------------------------------------------------------------


def wants_leave(userfault, memory, page, value=99):
    """That a store to a page waits for the userfaultfd, and is done when that lets it."""
    with Task(memory.store, value, page) as cpu:
        assert userfault.wait_caught() == memory[page].addr
        assert not cpu.done
        userfault.allow(memory[page])
        cpu.result()
    assert memory.load(page) == value


@pytest.mark.contract("C-06")
@pytest.mark.parametrize("story", stories("before", "on-device"))
def test_write_protection_by_userfaultfd_survives_the_round_trip(mirror, mirror2, device, memory, story):
    when, way = story
    memory.fill(1)
    memory.advise(mmap.MADV_NOHUGEPAGE)  # nobody puts it together meanwhile
    with Userfault() as userfault:
        if when == "before":
            userfault.write_protect(memory)
        go(device, mirror, memory)
        if when == "on-device":
            userfault.write_protect(memory)
        assert all(word & UFFD_WP for word in memory.pagemap())
        assert not any(rights(mirror, memory))
        assert set(mirror.snapshot(memory).where) == {"local"}
        bring_back(way, device, mirror, mirror2, memory)
        assert all(word & UFFD_WP for word in memory.pagemap())
        assert not any(rights(mirror, memory))
        assert memory.matches(1)
        assert userfault.caught() is None
        wants_leave(userfault, memory, 5)
        assert [word & UFFD_WP != 0 for word in memory.pagemap()[3:8]] == [True, True, False, True, True]


@pytest.mark.contract("C-06")
def test_a_store_to_write_protected_memory_on_the_device_waits(mirror, device, memory):
    memory.fill(1)
    with Userfault() as userfault:
        userfault.write_protect(memory)
        go(device, mirror, memory)
        wants_leave(userfault, memory, 5)
        assert memory[:5].matches(1) and memory[6:].matches(1)


@pytest.mark.contract("C-06")
@pytest.mark.parametrize("way", ["touch", "to-system", "release"])
def test_what_is_allowed_on_the_device_is_allowed_when_it_is_back(mirror, mirror2, device, memory, way):
    memory.fill(1)
    with Userfault() as userfault:
        userfault.write_protect(memory)
        go(device, mirror, memory)
        userfault.allow(memory)
        assert not any(word & UFFD_WP for word in memory.pagemap())
        bring_back(way, device, mirror, mirror2, memory)
        assert not any(word & UFFD_WP for word in memory.pagemap())
        memory.fill(2)
        assert userfault.caught() is None and memory.matches(2)


@pytest.mark.contract("C-06")
@pytest.mark.parametrize("what", ["fork", "mprotect", "fork-and-mprotect"])
def test_write_protection_of_device_memory_survives_what_changes_its_entries(mirror, device, memory, what):
    memory.fill(1)
    with Userfault() as userfault:
        userfault.write_protect(memory)
        go(device, mirror, memory)
        if "mprotect" in what:
            memory.protect(READ)
            memory.protect(RW)
        if "fork" in what:
            with Offspring(memory) as child:
                # Its mapping has no userfaultfd: nothing is held up there.
                assert not any(word & UFFD_WP for word in child("pagemap"))
                child("cpu", 3)
                assert child("device-sees", 3)
                child.leave()
        assert all(word & UFFD_WP for word in memory.pagemap())
        assert memory.matches(1)
        wants_leave(userfault, memory, 5)


@pytest.mark.contract("C-06")
def test_write_protection_of_a_part_of_device_memory_is_of_that_part(mirror, device, memory):
    memory.fill(1)
    with Userfault() as userfault:
        userfault.register_wp(memory)
        go(device, mirror, memory)
        userfault.protect(memory[3:7])
        wanted = [3 <= page < 7 for page in range(len(memory))]
        assert [word & UFFD_WP != 0 for word in memory.pagemap()] == wanted
        assert rights(mirror, memory) == [not page for page in wanted]
        memory.touch()
        assert [word & UFFD_WP != 0 for word in memory.pagemap()] == wanted
        assert rights(mirror, memory) == [not page for page in wanted]
        wants_leave(userfault, memory, 4)
        memory.store(1, 2)
        memory.store(1, 7)
        assert userfault.caught() is None


@pytest.mark.contract("C-06")
@pytest.mark.contract("T-05")
def test_protection_lifted_from_a_part_of_device_memory_is_of_that_part(mirror, device, memory):
    memory.fill(1)
    with Userfault() as userfault:
        userfault.write_protect(memory)
        go(device, mirror, memory)
        userfault.allow(memory[3:7])
        wanted = [not 3 <= page < 7 for page in range(len(memory))]
        assert [word & UFFD_WP != 0 for word in memory.pagemap()] == wanted
        assert set(mirror.snapshot(memory).where) == {"local"}
        memory.touch()
        assert [word & UFFD_WP != 0 for word in memory.pagemap()] == wanted
        memory[3:7].fill(2)
        assert userfault.caught() is None
        wants_leave(userfault, memory, 7)


@pytest.mark.contract("C-06")
@pytest.mark.contract("I-05")
@pytest.mark.parametrize("where", ["ram", "device"])
def test_write_protection_takes_the_devices_right_before_it_returns(mirror, device, memory, where):
    """And what the device wants to store then waits or fails, and does not get past."""
    memory.fill(1)
    if where == "device":
        go(device, mirror, memory)
    device.write(memory, 1)
    with Userfault() as userfault:
        userfault.register_wp(memory)
        device.poke(memory, 1)
        with device.events(buf=memory) as log:
            userfault.protect(memory)
            log.expect(PROTECTION_VMA, memory, filtered=False, pages=len(memory))
        with pytest.raises(MirrorError) as caught:
            device.poke(memory, 2)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        with pytest.raises(MirrorError) as caught:
            device.write(memory, 2)
        assert caught.value.errno in (errno.EFAULT, errno.EBUSY)
        assert device.read(memory).data.matches(1) and memory.matches(1)


# -- soft-dirty ---------------------------------------------------------------------------------------------------


def clean(memory):
    """From now on pages are soft-dirty when they have been written to."""
    memory.advise(mmap.MADV_DONTDUMP)  # merges with no mapping that is new, and so soft-dirty as a whole
    Path("/proc/self/clear_refs").write_text("4")


def soft_dirty(memory):
    return [word & SOFT_DIRTY != 0 for word in memory.pagemap()]


@pytest.mark.contract("C-06")
@pytest.mark.parametrize("way", ["touch", "to-system", "release", "other-reads"])
def test_a_soft_dirty_page_stays_so_over_the_round_trip(mirror, mirror2, device, memory, way):
    memory.fill(1)
    clean(memory)
    memory.fill(2)
    assert all(soft_dirty(memory))
    go(device, mirror, memory)
    assert all(soft_dirty(memory))
    bring_back(way, device, mirror, mirror2, memory)
    assert all(soft_dirty(memory))
    assert memory.matches(2)


@pytest.mark.contract("C-06")
@pytest.mark.contract("T-05")
@pytest.mark.parametrize("how", ["munmap", "dontneed"])
def test_what_is_left_of_soft_dirty_device_memory_is_soft_dirty(mirror, device, memory, how):
    memory.fill(1)
    clean(memory)
    memory.fill(2)
    go(device, mirror, memory)
    memory[3:7].unmap() if how == "munmap" else memory[3:7].advise(mmap.MADV_DONTNEED)
    for rest in (memory[:3], memory[7:]):
        assert set(mirror.snapshot(rest).where) == {"local"}
        assert all(soft_dirty(rest))
        rest.touch()
        assert all(soft_dirty(rest))
        assert rest.matches(2)


@pytest.mark.contract("C-06")
@pytest.mark.parametrize("by", ["cpu", "device"])
@pytest.mark.parametrize("back", [False, True], ids=["on-device", "when-back"])
def test_a_store_to_a_page_that_went_to_the_device_clean_makes_it_soft_dirty(mirror, device, by, back):
    """Whoever stores: dumpers that look for what changed would miss it."""
    with Region.anonymous(16, align=16 * PAGE) as memory:
        memory.fill(1)
        clean(memory)
        assert not any(soft_dirty(memory))
        go(device, mirror, memory)
        assert not any(rights(mirror, memory))
        if back:
            memory.touch()
        memory[3].fill(2) if by == "cpu" else mirror.write(memory[3], 2)
        assert soft_dirty(memory)[3]
        assert memory[3].matches(2)


@pytest.mark.contract("C-06")
def test_a_clean_page_stays_so_over_the_round_trip(mirror, device):
    with Region.anonymous(16, align=16 * PAGE) as memory:
        memory.fill(1)
        clean(memory)
        go(device, mirror, memory)
        assert not any(soft_dirty(memory))
        memory.touch()
        assert not any(soft_dirty(memory))
        assert memory.matches(1)


@pytest.mark.contract("C-06")
@pytest.mark.xfail(
    strict=True,
    reason="all kernels: clear_refs takes the soft-dirty bit of a device-private entry and leaves it writable, so that "
    "it comes back writable and clean, and a store is not noticed (fs/proc/task_mmu.c: 7.3 1732, 7.2 1729, 6.12 1426, "
    "6.1 1120)",
)
def test_clearing_soft_dirty_on_the_device_counts(mirror, device):
    """What was written before that is clean, and what is written later is not."""
    with Region.anonymous(16, align=16 * PAGE) as memory:
        memory.fill(1)
        go(device, mirror, memory)
        clean(memory)
        assert not any(soft_dirty(memory))
        with pytest.raises(MirrorError):
            device.peek(memory)
        memory.fill(2)
        assert all(soft_dirty(memory))
