# SPDX-License-Identifier: GPL-2.0
"""Section 8: what invalidates a mirror; after it the device sees what the CPU sees."""

import errno
import mmap
import os

import pytest

from dmirror.memory import MADV_PAGEOUT, NONE, PAGE, READ, RW, Data, Region
from dmirror.mirror import MirrorError
from dmirror.process import in_child

pytestmark = pytest.mark.needs(capability="counters")


@pytest.fixture(params=["ram", "device"])
def mapped(request, mirror, region):
    """Sixteen filled pages that the device maps writable, in system memory or its own."""
    region.fill(1)
    if request.param == "device":
        mirror.migrate_to_device(region)
    mirror.write(region, 1)
    assert mirror.counters().entries_present == len(region)
    return region


def same(mirror, span):
    """Whether device and CPU read the same words."""
    data = mirror.read(span).data
    return all(data.word(page) == span.load(page) for page in range(len(span)))


@pytest.mark.contract("I-01")
def test_munmap(mirror, mapped):
    mapped[4:8].unmap()
    assert mirror.counters().entries_present == 12
    with pytest.raises(MirrorError) as caught:
        mirror.read(mapped)
    assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 4)


@pytest.mark.contract("I-02")
def test_madvise_dontneed(mirror, mapped):
    mapped.advise(mmap.MADV_DONTNEED)
    assert mirror.counters().entries_present == 0
    assert mirror.read(mapped).data.zero()


@pytest.mark.contract("I-05")
def test_mprotect_to_read_only(mirror, mapped):
    mapped[2:6].protect(READ)
    assert mirror.counters().entries_present == 12
    with pytest.raises(MirrorError) as caught:
        mirror.write(mapped, 2)
    assert (caught.value.errno, caught.value.pages) == (errno.EPERM, 2)
    assert mapped[:2].matches(2) and mapped[2:].matches(1)


@pytest.mark.contract("I-05")
def test_mprotect_to_none_and_back(mirror, mapped):
    mapped.protect(NONE)
    assert mirror.counters().entries_present == 0
    with pytest.raises(MirrorError) as caught:
        mirror.read(mapped)
    assert caught.value.errno == errno.EFAULT
    mapped.protect(RW)
    assert mirror.read(mapped).data.matches(1) and mapped.matches(1)


@pytest.mark.contract("I-05")
def test_mprotect_back_to_writable(mirror, mapped):
    mapped.protect(READ)
    mapped.protect(RW)
    mirror.write(mapped, 3)
    assert mapped.matches(3)


@pytest.mark.contract("I-06")
@pytest.mark.contract("C-07")
def test_mremap(mirror, mapped):
    with Region.anonymous(len(mapped)) as target:
        moved = mapped.move(target)
        with pytest.raises(MirrorError) as caught:
            mirror.read(mapped)
        assert caught.value.errno == errno.EFAULT
        assert mirror.read(moved).data.matches(1) and moved.matches(1)
        # The region ends by unmapping itself: give it something to unmap.
        target.move(mapped)


@pytest.mark.contract("I-07")
def test_fork_takes_the_right_to_write(mirror, mapped):
    assert in_child(lambda: 1) == 1
    assert mirror.counters().entries_present == 0
    assert mirror.write(mapped, 2).faults > 0
    assert mapped.matches(2)


@pytest.mark.contract("I-08")
def test_a_cpu_copy_on_write_is_seen_by_the_device(mirror, region):
    mirror.read(region)  # the zero page
    region.store(7, page=3)
    assert mirror.read(region).data.word(3) == 7
    assert same(mirror, region)


@pytest.mark.contract("I-04")
@pytest.mark.parametrize("how", ["truncate", "punch"])
def test_a_truncated_file(mirror, how):
    fd = os.memfd_create("dmirror")
    try:
        os.ftruncate(fd, 8 * PAGE)
        with Region.of_file(fd, 8) as region:
            mirror.read(region.fill(1))
            if how == "truncate":
                os.ftruncate(fd, 4 * PAGE)
                assert mirror.counters().entries_present == 4
                with pytest.raises(MirrorError) as caught:
                    mirror.read(region)
                assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 4)
            else:
                region[4:].advise(mmap.MADV_REMOVE)
                assert mirror.counters().entries_present == 4
                assert mirror.read(region[4:]).data.zero()
    finally:
        os.close(fd)


@pytest.mark.contract("I-15")
def test_clear_refs_drops_every_entry(mirror, mapped):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("4\n")
    assert mirror.counters().entries_present == 0
    assert mirror.read(mapped).data.matches(1)


@pytest.mark.contract("I-27")
def test_reading_proc_and_cpu_loads_invalidate_nothing(mirror, region):
    mirror.read(region.fill(1))
    for name in ("maps", "smaps", "status", "pagemap"):
        with open(f"/proc/self/{name}", "rb") as file:
            file.read(1 << 16) if name == "pagemap" else file.read()
    region.touch()
    region.advise(mmap.MADV_WILLNEED)
    assert mirror.read(region).faults == 0


@pytest.mark.contract("I-09")
@pytest.mark.needs(config="CONFIG_SWAP")
def test_pageout_keeps_the_device_right(mirror, region):
    mirror.write(region, 1)
    region.advise(MADV_PAGEOUT)
    mirror.write(region[3:4], 9)
    assert region[:3].matches(1) and region[3:4].matches(9) and region[4:].matches(1)


@pytest.mark.contract("L-11")
def test_stale_data_never_reaches_the_device_after_reuse(mirror, region):
    for seed in range(1, 20):
        mirror.write(region, seed)
        region.advise(mmap.MADV_DONTNEED)
        assert mirror.read(region).data.zero()
        mirror.migrate_to_device(region)
        mirror.write(region, Data.pattern(region, seed))
        assert region.matches(seed)


@pytest.mark.contract("M-11")
@pytest.mark.parametrize("where", ["ram", "device", "huge-device"])
def test_what_the_device_wrote_to_clean_memory_is_not_discarded(mirror, where):
    """MADV_FREE makes pages clean but leaves them writable: reclaim may drop them until somebody writes."""
    with Region.huge(1) if where == "huge-device" else Region.anonymous(16) as region:
        region.fill(1)
        region.advise(8)  # MADV_FREE
        if where != "ram":
            mirror.migrate_to_device(region)
        mirror.write(region, 2)
        if where != "ram":
            region.touch()
        region.advise(MADV_PAGEOUT)
        assert region.matches(2)
