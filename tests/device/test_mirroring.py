# SPDX-License-Identifier: GPL-2.0
"""Section 2: mirroring with hmm_range_fault()."""

import ctypes
import errno
import os

import pytest

from dmirror.memory import NONE, PAGE, READ, RW, Data, Region
from dmirror.mirror import MirrorError
from dmirror.process import in_child

MEMFD_SECRET = 447  # __NR_memfd_secret of x86-64

KINDS = {
    "anonymous": lambda: Region.anonymous(16),
    "huge": lambda: Region.huge(2),
    "hugetlb": lambda: Region.hugetlb(1),
    "shared": lambda: Region.shared(16),
    "memfd": lambda: Region.memfd(16),
    "file": lambda: Region.file(16),
    "private-file": lambda: Region.file(16, private=True),
}


@pytest.fixture(params=KINDS)
def memory(request, mirror):
    with KINDS[request.param]() as region:
        yield region


@pytest.mark.contract("H-01")
def test_the_device_reads_what_the_cpu_stored(mirror, memory):
    result = mirror.read(memory.fill(1))
    assert result.data.matches(1)
    assert (result.pages, result.faults) == (len(memory), 1)


@pytest.mark.contract("H-01")
def test_the_cpu_loads_what_the_device_wrote(mirror, memory):
    result = mirror.write(memory, 2)
    assert (result.pages, result.faults) == (len(memory), 1)
    assert memory.matches(2)


@pytest.mark.contract("H-01")
def test_untouched_memory_reads_as_zero(mirror, memory):
    assert mirror.read(memory).data.zero()


@pytest.mark.contract("H-01")
def test_mapped_pages_take_no_fault(mirror, memory):
    mirror.write(memory, 1)
    assert mirror.write(memory, 2).faults == 0
    assert mirror.read(memory).faults == 0


@pytest.mark.contract("H-01")
def test_a_part_in_the_middle(mirror, region):
    region.fill(1)
    assert mirror.read(region[3:7]).data.matches(1)
    mirror.write(region[5:6], 9)
    assert region[0:5].matches(1) and region[5:6].matches(9) and region[6:].matches(1)


@pytest.mark.contract("H-02")
def test_a_snapshot_has_no_side_effect(mirror, region):
    region[0:4].fill(1)
    region[4:6].touch()  # the zero page
    before = region.pagemap()
    states = mirror.snapshot(region)
    assert states.where == ["ram"] * 4 + ["zero"] * 2 + ["none"] * 10
    assert [page.writable for page in states] == [True] * 4 + [False] * 12
    assert region.pagemap() == before


@pytest.mark.contract("H-02")
def test_a_snapshot_tells_impossible_from_absent(mirror, region):
    region[1:2].protect(NONE)
    region[2:3].protect(READ)
    region[3:4].unmap()
    assert mirror.snapshot(region[:5]).where == ["none", "error", "none", "error", "none"]


@pytest.mark.contract("H-03")
def test_reading_a_hole_maps_the_zero_page(mirror, region):
    mirror.read(region)
    assert {str(page) for page in mirror.snapshot(region)} == {"zero r"}


@pytest.mark.contract("H-03")
def test_a_device_write_replaces_the_zero_page(mirror, region):
    mirror.read(region)
    result = mirror.write(region[2:3], 7)
    assert result.faults == 1
    states = mirror.snapshot(region)
    assert str(states[2]) == "ram rw" and states.count("zero") == len(region) - 1
    assert region[2:3].matches(7) and region[3:].zero()


@pytest.mark.contract("H-06")
def test_write_to_read_only_memory_is_eperm(mirror, region):
    region.fill(1)
    region.protect(READ)
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 2)
    assert caught.value.errno == errno.EPERM
    assert region.matches(1)


@pytest.mark.contract("H-06")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("break_it", [lambda page: page.protect(NONE), lambda page: page.unmap()], ids=["none", "gap"])
def test_inaccessible_memory_is_efault(mirror, region, access, break_it):
    region.fill(1)
    break_it(region[4:5])
    with pytest.raises(MirrorError) as caught:
        mirror.read(region) if access == "read" else mirror.write(region, 2)
    # Whether no mapping or no permission: the device cannot have it.
    assert caught.value.errno in (errno.EFAULT, errno.EPERM)
    assert caught.value.errno == errno.EFAULT or access == "write"


@pytest.mark.contract("H-06")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("bad", [0, 1, 7, 15])
def test_an_error_says_how_far_it_came(mirror, region, bad):
    region.fill(1)
    region[bad : bad + 1].protect(NONE)
    data = Data(region.npages)
    with pytest.raises(MirrorError) as caught:
        mirror.call("READ", region.addr, region.npages, data.buffer)
    assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, bad)
    assert data.matches(1, npages=bad)
    assert data.word(bad) == 0


@pytest.mark.contract("H-10")
def test_another_devices_page_comes_back_for_a_read(mirror, mirror2, region):
    region.fill(4)
    mirror2.migrate_to_device(region)
    assert mirror.snapshot(region).where == ["none"] * len(region)
    assert mirror2.snapshot(region).where == ["local"] * len(region)
    assert mirror.read(region).data.matches(4)
    assert mirror2.snapshot(region).where == ["ram"] * len(region)


@pytest.mark.contract("H-10")
def test_another_devices_page_comes_back_for_a_write(mirror, mirror2, region):
    region.fill(4)
    mirror2.migrate_to_device(region)
    mirror.write(region[1:3], 5)
    assert mirror2.snapshot(region).where == ["local", "ram", "ram"] + ["local"] * 13
    assert region[0:1].matches(4) and region[1:3].matches(5) and region[3:].matches(4)


@pytest.mark.contract("H-09")
@pytest.mark.needs(capability="counters")
def test_own_device_pages_are_mapped_where_they_are(mirror, region):
    region.fill(8)
    mirror.migrate_to_device(region)
    region.protect(READ)  # drops the device entries, not the pages
    region.protect(RW)
    assert mirror.counters().entries_present == 0
    before = mirror.counters()
    assert mirror.read(region).data.matches(8)
    assert (mirror.counters() - before).dev_cpu_faults == 0
    assert mirror.snapshot(region).where == ["local"] * len(region)


@pytest.mark.contract("H-09")
@pytest.mark.contract("D-01")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("then", ["stays", "forked", "read-only"])
def test_the_device_reads_its_own_pages_in_place(mirror, region, then):
    mirror.migrate_to_device(region.fill(1))
    before = mirror.counters()
    if then == "forked":
        in_child(lambda: None)
    elif then == "read-only":
        region.protect(READ)
    assert mirror.read(region).data.matches(1)
    assert (mirror.counters() - before).dev_cpu_faults == 0
    assert mirror.snapshot(region).where == ["local"] * len(region)


@pytest.mark.contract("H-15")
@pytest.mark.needs(capability="read_unlocked")
def test_read_unlocked_reads(mirror, memory):
    result = mirror.read_unlocked(memory.fill(1))
    assert result.data.matches(1) and result.faults == 1


@pytest.mark.needs(kernel="<7.3", capability="counters")
def test_read_unlocked_is_enotty_where_the_kernel_has_none(mirror, region):
    with pytest.raises(MirrorError) as caught:
        mirror.read_unlocked(region)
    assert caught.value.errno == errno.ENOTTY


@pytest.mark.contract("H-06")
@pytest.mark.needs(config="CONFIG_SECRETMEM", capability="counters")
@pytest.mark.parametrize("call", ["READ", "WRITE", "MIGRATE_TO_DEV"])
def test_secret_memory_is_kept_from_the_device(mirror, call):
    """Memory of memfd_secret(2) is the process's own: the device has no entry for it."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(MEMFD_SECRET, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        os.ftruncate(fd, 4 * PAGE)
        with Region.of_file(fd, 4) as region:
            region.fill(1)
            with pytest.raises(MirrorError) as caught:
                mirror.call(call, region.addr, 4, Data(4).buffer)
            assert (caught.value.errno, caught.value.pages) in ((errno.EFAULT, 0), (errno.ENOENT, 0))
            assert mirror.counters().entries_present == 0
            assert region.matches(1)
    finally:
        os.close(fd)
