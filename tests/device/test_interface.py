# SPDX-License-Identifier: GPL-2.0
"""The file and its calls: opening, numbers, structures, ranges and errors."""

import errno
import os
import stat

import pytest

from dmirror.memory import PAGE, RW, Data, Region
from dmirror.mirror import RANGE_CALLS, Counters, Mirror, MirrorError, node
from dmirror.uapi import ffi, lib

ADDRESS_END = 1 << 56  # just above TASK_SIZE_MAX with five levels of page tables, far above it with four
OWN = pytest.mark.needs(capability="counters")


@pytest.mark.parametrize("device", [0, 1])
def test_open_close(device, mirror):
    with Mirror(device) as first, Mirror(device) as second:
        assert first.fd != second.fd
    first.close()
    with pytest.raises(OSError) as caught:
        os.fstat(second.fd)
    assert caught.value.errno == errno.EBADF


@OWN
def test_open_close_is_counted(mirror):
    before = mirror.counters().dev_contexts
    with Mirror(0):
        assert mirror.counters().dev_contexts == before + 1
    assert mirror.counters().dev_contexts == before


def test_nodes_are_for_root_only(mirror):
    mode = node(0).stat().st_mode
    assert stat.S_ISCHR(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("call", RANGE_CALLS)
@pytest.mark.parametrize(
    ("addr", "npages"),
    [
        pytest.param(0x10001, 1, id="unaligned"),
        pytest.param(0x10000, 0, id="empty"),
        pytest.param(0x10000, 1 << 52, id="wraps"),
        pytest.param(0x10000, (1 << 52) + 1, id="wraps-to-one-page"),
        pytest.param((1 << 64) - PAGE, 1, id="wraps-at-the-end"),
    ],
)
def test_bad_range_is_einval(mirror, call, addr, npages):
    with pytest.raises(MirrorError) as caught:
        mirror.call(call, addr, npages)
    assert caught.value.errno == errno.EINVAL


@OWN
@pytest.mark.parametrize("call", RANGE_CALLS)
@pytest.mark.parametrize(
    ("addr", "npages"),
    [
        pytest.param(ADDRESS_END, 1, id="above-user-space"),
        pytest.param(0xFFFF888000000000, 1, id="kernel"),
        pytest.param(0x10000, ADDRESS_END // PAGE, id="past-the-end"),
    ],
)
def test_range_outside_user_space_is_einval(mirror, call, addr, npages):
    with pytest.raises(MirrorError) as caught:
        mirror.call(call, addr, npages)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("READ", errno.EFAULT),
        ("WRITE", errno.EFAULT),
        ("MIGRATE_TO_DEV", errno.EINVAL),
        ("MIGRATE_TO_SYS", errno.EINVAL),
        ("EXCLUSIVE", errno.EFAULT),
    ],
)
def test_an_error_says_how_far_the_call_came(mirror, region, call, number):
    """Nothing is mapped in the middle: the first address that failed is `pages` pages from the beginning."""
    region.fill(1)
    if call == "MIGRATE_TO_SYS":
        mirror.migrate_to_device(region)
    region[6:8].unmap()
    buffer = ffi.new("char[]", region.bytes)
    with pytest.raises(MirrorError) as caught:
        mirror.call(call, region.addr, len(region), buffer)
    assert (caught.value.errno, caught.value.pages) == (number, 6)


@pytest.mark.parametrize("npages", [0, 1 << 52])
def test_a_range_that_is_refused_counts_no_pages(mirror, region, npages):
    cmd = ffi.new("struct hmm_dmirror_cmd *", {"addr": region.addr, "npages": npages, "cpages": 7, "faults": 7})
    assert lib.dm_ioctl(mirror.fd, lib.HMM_DMIRROR_READ, cmd) == -errno.EINVAL
    assert (cmd.cpages, cmd.faults) == (0, 0)


@pytest.mark.parametrize("call", ["READ", "MIGRATE_TO_DEV", "EXCLUSIVE", "SNAPSHOT"])
def test_a_buffer_that_ends_early_ends_the_call_there(mirror, region, call):
    region.fill(1)
    with Region.anonymous(2) as buffer:
        buffer[1].unmap()
        with pytest.raises(MirrorError) as caught:
            mirror.call(
                call,
                region.addr,
                len(region),
                ffi.cast("void *", buffer.end - PAGE - (1 if call == "SNAPSHOT" else PAGE)),
            )
    # A snapshot is given in one piece for each page table.
    assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 0 if call == "SNAPSHOT" else 1)


def test_a_buffer_may_begin_anywhere(mirror, region):
    """Data that straddles the caller's pages."""
    region.fill(1)
    for offset in (1, 8, 4095):
        raw = ffi.new("char[]", region.bytes + offset)
        mirror.call("READ", region.addr, len(region), raw + offset)
        assert bytes(ffi.buffer(raw))[offset:] == bytes(ffi.buffer(ffi.cast("char *", region.addr), region.bytes))
        ffi.buffer(raw)[offset:] = bytes([offset % 251]) * region.bytes
        mirror.call("WRITE", region.addr, len(region), raw + offset)
        assert set(bytes(ffi.buffer(ffi.cast("char *", region.addr), region.bytes))) == {offset % 251}


def test_a_buffer_on_the_device_itself(mirror, region):
    """Source and destination of the data are pages of this device: the buffer comes back, the source stays."""
    with Region.anonymous(len(region)) as buffer:
        mirror.migrate_to_device(region.fill(1))
        mirror.migrate_to_device(buffer.fill(2))
        mirror.call("READ", region.addr, len(region), ffi.cast("void *", buffer.addr))
        assert mirror.snapshot(region).where == ["local"] * len(region)
        assert mirror.snapshot(buffer).where == ["ram"] * len(buffer)
        assert buffer.matches(1)


@OWN
@pytest.mark.contract("D-18")
def test_check_exclusive_of_all_memory_ends_at_once(mirror, region):
    mirror.read(region.fill(1))
    before = mirror.counters()
    assert mirror.call("CHECK_EXCLUSIVE", 0, (1 << 46) // PAGE) == ((1 << 46) // PAGE, 0)
    delta = mirror.counters() - before
    assert (delta.faults, delta.entries_installed, delta.entries_dropped) == (0, 0, 0)


@pytest.mark.contract("D-19")
def test_length_beyond_memory_costs_no_memory(mirror, region):
    region.fill(1)
    region[-1].unmap()  # where the device stops, before the end of what the call has room for
    data = ffi.new("char[]", region.bytes)
    room = ((1 << 47) - region.addr) // PAGE - 1
    with pytest.raises(MirrorError) as caught:
        mirror.call("READ", region.addr, min(room, (1 << 44) // PAGE), data)
    assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize("call", ["READ", "WRITE", "SNAPSHOT"])
def test_bad_user_pointer_is_efault(mirror, region, call):
    region.fill(1)
    with pytest.raises(MirrorError) as caught:
        mirror.call(call, region.addr, region.npages, ffi.cast("void *", 0x1000))
    assert caught.value.errno == errno.EFAULT
    assert region.matches(1)


@OWN
@pytest.mark.parametrize("number", [lib.HMM_DMIRROR_READ & ~0xFF | 0x7F, 0x4800, 0xD57F, 0x5401])
def test_unknown_call_is_enotty(mirror, number):
    buffer = ffi.new("char[]", 4096)
    assert lib.dm_ioctl(mirror.fd, number, buffer) == -errno.ENOTTY


def test_unmapped_command_is_efault(mirror):
    assert lib.dm_ioctl(mirror.fd, lib.HMM_DMIRROR_READ, ffi.cast("void *", 0x1000)) == -errno.EFAULT


@OWN
class TestOwnStructures:
    def query(self, mirror, size, flags=0):
        buffer = ffi.new("char[]", 4096)
        query = ffi.cast("struct dmirror_query *", buffer)
        query.size, query.flags = size, flags
        query.devmem_pages = 0xDEAD
        return lib.dm_ioctl(mirror.fd, lib.DMIRROR_QUERY, query), query, buffer

    def test_query_names_version_device_and_memory(self, mirror, mirror2):
        for opened, device in ((mirror, 0), (mirror2, 1)):
            status, query, _ = self.query(opened, ffi.sizeof("struct dmirror_query"))
            assert (status, query.version, query.device) == (0, lib.DMIRROR_VERSION, device)
            assert query.devmem_pages * PAGE % (256 << 20) == 0

    def test_an_older_client_gets_what_it_knows(self, mirror):
        status, query, _ = self.query(mirror, 16)
        assert (status, query.size, query.version) == (0, 16, lib.DMIRROR_VERSION)
        assert query.devmem_pages == 0xDEAD

    def test_a_newer_client_learns_how_much_was_filled(self, mirror):
        status, query, buffer = self.query(mirror, 4096)
        assert (status, query.size) == (0, ffi.sizeof("struct dmirror_query"))
        assert not any(bytes(ffi.buffer(buffer))[query.size :])

    def test_an_unknown_flag_is_einval(self, mirror):
        assert self.query(mirror, ffi.sizeof("struct dmirror_query"), flags=1)[0] == -errno.EINVAL

    def test_a_size_without_its_own_fields_is_einval(self, mirror):
        assert self.query(mirror, 4)[0] == -errno.EINVAL

    def test_counters_begin_at_zero(self, mirror):
        with Mirror(0) as fresh:
            counters = fresh.counters()
        own = {name: value for name, value in counters._asdict().items() if not name.startswith("dev_")}
        counted = {name for name, value in own.items() if (any(value.values()) if isinstance(value, dict) else value)}
        # Opening may race with nothing; the process itself does change its memory now and then.
        assert counted <= {"events_seen", "events_obeyed", "seen", "obeyed"}

    def test_counters_have_every_field_of_the_structure(self, mirror):
        fields = [name for name, _ in ffi.typeof("struct dmirror_counters").fields if name not in ("size", "flags")]
        assert fields == list(Counters._fields)


@pytest.mark.contract("L-13")
def test_an_error_leaves_process_and_mirror_usable(mirror, region):
    with pytest.raises(MirrorError):
        mirror.call("READ", 0x1000, 1, Data(1).buffer)
    assert mirror.read(region.fill(3)).data.matches(3)


@pytest.mark.contract("H-02")
def test_the_drivers_own_mapping_is_readable_memory(mirror):
    with Region.of_file(mirror.fd, 3, prot=RW, private=True) as mapping:
        assert mapping.zero()
        assert mirror.snapshot(mapping).where == ["ram"] * 3


@pytest.mark.needs(capability="flags")
class TestFlags:
    def test_unknown_flags_are_einval(self, mirror):
        with pytest.raises(MirrorError) as caught:
            mirror.set_flags(1 << 7)
        assert caught.value.errno == errno.EINVAL

    @pytest.mark.contract("D-15")
    def test_the_next_allocation_fails_once(self, mirror, region):
        region.fill(5)
        mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert mirror.snapshot(region).where == ["ram"] + ["local"] * (len(region) - 1)
        assert mirror.migrate_to_device(region).data.matches(5)

    @pytest.mark.contract("D-15")
    def test_zero_clears(self, mirror, region):
        region.fill(5)
        mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
        mirror.set_flags(0)
        assert mirror.migrate_to_device(region).pages == len(region)

    @pytest.mark.contract("D-05")
    def test_a_page_without_memory_on_the_way_back_is_tried_again(self, mirror, region):
        region.fill(6)
        mirror.migrate_to_device(region)
        mirror.set_flags(lib.HMM_DMIRROR_FLAG_FAIL_ALLOC)
        assert mirror.migrate_to_system(region) == len(region)
        assert mirror.snapshot(region).where == ["ram"] * len(region)
        assert region.matches(6)
