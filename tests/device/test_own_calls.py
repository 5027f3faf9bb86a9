# SPDX-License-Identifier: GPL-2.0
"""dmirror's own calls, a number space that grows: sizes, unknown values, bad pointers, a process that is gone."""

import errno
import os
import socket
from contextlib import contextmanager

import pytest

from dmirror.memory import READ, RW, Data
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import in_child
from dmirror.uapi import ffi, lib

pytestmark = pytest.mark.needs(capability="steer")

CALLS = (
    *("QUERY", "COUNTERS", "LOG", "HOLD", "INJECT", "MIGRATE", "WALK", "PEEK", "POKE", "WATCH", "UNWATCH"),
    "EXCLUSIVE",
)
STRUCTS = {"POKE": "dmirror_peek", "UNWATCH": "dmirror_watch"}
GIVE_ONLY = ("QUERY", "COUNTERS")
RANGES = ("MIGRATE", "WALK", "PEEK", "POKE", "EXCLUSIVE")
ADDRESS_SPACE = ("MIGRATE", "WALK", "WATCH", "EXCLUSIVE")
UNMAPPED = 0x1000


def struct_of(call):
    return "struct " + STRUCTS.get(call, f"dmirror_{call.lower()}")


class Valid:
    """For each call, fields with which it succeeds; `watch` has been made, `region` is mapped by the device."""

    def __init__(self, mirror, region):
        self.data = Data(len(region))
        self.pages = ffi.new("struct dmirror_page[]", len(region))
        self.mirror = mirror
        mirror.write(region, 1)
        span = {"addr": region.addr, "npages": len(region)}
        ptr = {"ptr": int(ffi.cast("uintptr_t", self.data.buffer))}
        pages = {"pages": int(ffi.cast("uintptr_t", self.pages))}
        self.fields = {
            "QUERY": {},
            "COUNTERS": {},
            "LOG": {"flags": lib.DMIRROR_LOG_START},
            "HOLD": {"nth": 1},
            "INJECT": {"what": lib.DMIRROR_INJECT_COPY},
            "MIGRATE": {**span, "flags": lib.DMIRROR_MIGRATE_TO_DEVICE},
            "WALK": {**span, **pages},
            "PEEK": {**span, **ptr},
            "POKE": {**span, **ptr},
            "WATCH": {"kind": lib.DMIRROR_WATCH_PLAIN},
            "UNWATCH": {"id": mirror.own("WATCH", kind=lib.DMIRROR_WATCH_PLAIN).id},
            "EXCLUSIVE": span,
        }

    def make(self, call, *, size=None, tail=0, poison=0, **changes):
        """The status of a call, and all 8192 bytes that its structure was at the beginning of.

        Its `size` is said; the byte after what the driver knows is `tail`, what is beyond `size` is `poison`.
        """
        kind = struct_of(call)
        known = ffi.sizeof(kind)
        buffer = ffi.new("char[]", 8192)
        argument = ffi.cast(f"{kind} *", buffer)
        for name, value in (self.fields[call] | changes).items():
            setattr(argument, name, value)
        argument.size = known if size is None else size
        if tail:
            buffer[known] = bytes([tail])
        ffi.buffer(buffer)[argument.size :] = bytes([poison]) * (8192 - argument.size)
        status = lib.dm_ioctl(self.mirror.fd, getattr(lib, f"DMIRROR_{call}"), argument)
        if call == "HOLD" and status == 0:
            os.close(argument.fd)
        return status, bytes(ffi.buffer(buffer)), argument


@pytest.fixture
def valid(mirror, region):
    return Valid(mirror, region)


@pytest.mark.parametrize("call", CALLS)
def test_the_table_of_calls_is_valid(valid, call):
    status, _, argument = valid.make(call)
    assert (status, argument.size) == (0, ffi.sizeof(struct_of(call)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("size", [0, 7])
def test_a_size_below_its_own_fields_is_einval(valid, call, size):
    assert valid.make(call, size=size)[0] == -errno.EINVAL


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("more", [1, 512])
def test_a_newer_structure_with_zeroes_is_taken_and_told_how_much_is_known(valid, call, more):
    known = ffi.sizeof(struct_of(call))
    status, after, argument = valid.make(call, size=known + more)
    assert (status, argument.size) == (0, known)
    assert not any(after[known:])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("more", [1, 512])
def test_a_newer_structure_that_asks_for_more_is_e2big(valid, call, more):
    known = ffi.sizeof(struct_of(call))
    status, after, _ = valid.make(call, size=known + more, tail=7)
    assert status == (0 if call in GIVE_ONLY else -errno.E2BIG)
    assert after[known] == 7


@pytest.mark.parametrize("call", [call for call in CALLS if call not in GIVE_ONLY])
def test_a_structure_longer_than_a_page_is_e2big(valid, call):
    assert valid.make(call, size=4097)[0] == -errno.E2BIG


# The first field that an older client may be without.
@pytest.mark.parametrize(
    ("call", "field", "changes"),
    [
        ("QUERY", "capabilities", {}),
        ("COUNTERS", "events_seen", {}),
        ("LOG", "records", {}),
        ("INJECT", "reserved", {}),
        ("MIGRATE", "owner", {}),
        ("WALK", "done", {}),
        ("PEEK", "done", {}),
        ("POKE", "done", {}),
        ("WATCH", "start", {}),
        ("UNWATCH", "start", {}),
        ("EXCLUSIVE", "owner", {}),
    ],
)
def test_what_an_older_structure_lacks_is_zero_and_left_alone(valid, call, field, changes):
    """Every byte beyond the size is one that would be refused if the driver looked at it."""
    size = ffi.offsetof(struct_of(call), field)
    status, after, argument = valid.make(call, size=size, poison=0xA5, **changes)
    assert (status, argument.size) == (0, size)
    assert set(after[size:]) == {0xA5}


def test_a_hold_without_room_for_its_descriptor_is_einval(valid):
    """Nobody could ever close it."""
    before = len(os.listdir("/proc/self/fd"))
    status, _, _ = valid.make("HOLD", size=ffi.offsetof("struct dmirror_hold", "fd"))
    assert status == -errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_flag_is_einval(valid, call):
    flags = valid.fields[call].get("flags", 0) | 1 << 31
    assert valid.make(call, flags=flags)[0] == -errno.EINVAL


@pytest.mark.parametrize(
    ("call", "changes"),
    [
        ("LOG", {"flags": 2}),
        ("LOG", {"records": 3}),
        ("LOG", {"records": 1 << 17}),
        ("LOG", {"records": 1 << 40}),
        ("HOLD", {"point": lib.DMIRROR_HOLD_CPU_END + 1}),
        ("HOLD", {"nth": 0}),
        ("HOLD", {"limit": 60001}),
        ("HOLD", {"reserved": 1}),
        ("HOLD", {"watch": 1}),
        ("HOLD", {"events": 1 << lib.DMIRROR_EVENT_CLEAR}),
        ("HOLD", {"point": lib.DMIRROR_HOLD_INVALIDATE, "events": 1 << (lib.DMIRROR_EVENT_EXCLUSIVE + 1)}),
        ("HOLD", {"point": lib.DMIRROR_HOLD_INVALIDATE, "events": 1 << 31}),
        ("HOLD", {"start": 0x2000, "end": 0x1000}),
        ("HOLD", {"start": 0x1000, "end": 0x1000}),
        ("HOLD", {"start": 0x1000}),
        ("INJECT", {"what": lib.DMIRROR_INJECT_COPY + 1}),
        ("INJECT", {"flags": 4}),
        ("INJECT", {"reserved": 1}),
        ("MIGRATE", {"flags": 4}),
        ("MIGRATE", {"owner": lib.DMIRROR_OWNER_NONE + 1}),
        ("MIGRATE", {"select": 1 << 4}),
        ("MIGRATE", {"order": lib.DMIRROR_ORDER_HUGE + 1}),
        ("MIGRATE", {"reserved": 1}),
        ("WALK", {"flags": 2}),
        ("WALK", {"default_flags": 1 << 2}),
        ("WALK", {"mask": 1 << 2}),
        ("WALK", {"owner": lib.DMIRROR_OWNER_NONE + 1}),
        ("WALK", {"reserved": 1}),
        ("WATCH", {"kind": lib.DMIRROR_WATCH_PLAIN + 1}),
        ("WATCH", {"id": 1}),
        ("WATCH", {"start": 0x1000}),
        ("WATCH", {"length": 0x1000}),
        ("UNWATCH", {"kind": 1}),
        ("UNWATCH", {"start": 0x1000}),
        ("UNWATCH", {"length": 0x1000}),
        ("EXCLUSIVE", {"owner": lib.DMIRROR_OWNER_NONE + 1}),
        ("EXCLUSIVE", {"reserved": 1}),
    ],
    ids=str,
)
def test_an_unknown_value_is_einval(valid, region, call, changes):
    assert valid.make(call, **changes)[0] == -errno.EINVAL
    assert region.matches(1)


def test_an_unknown_choice_for_a_page_is_einval(valid, mirror, region):
    how = ffi.new("unsigned char[]", [0] * 15 + [1 << 7])
    assert valid.make("MIGRATE", how=int(ffi.cast("uintptr_t", how)))[0] == -errno.EINVAL
    assert mirror.snapshot(region).where == ["ram"] * 16


def test_the_end_of_a_watch_that_is_none_is_enoent(valid):
    assert valid.make("UNWATCH", id=99)[0] == -errno.ENOENT
    assert valid.make("UNWATCH")[0] == 0
    assert valid.make("UNWATCH")[0] == -errno.ENOENT


@pytest.mark.parametrize("call", RANGES)
@pytest.mark.parametrize(
    ("addr", "npages"),
    [
        pytest.param(0x10001, 1, id="unaligned"),
        pytest.param(0x10000, 0, id="empty"),
        pytest.param(0x10000, 1 << 52, id="wraps"),
        pytest.param(0xFFFF888000000000, 1, id="kernel"),
    ],
)
def test_a_bad_range_is_einval(valid, call, addr, npages):
    assert valid.make(call, addr=addr, npages=npages)[0] == -errno.EINVAL


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pointer", [0, UNMAPPED, 0xFFFF888000000000], ids=hex)
def test_an_unmapped_structure_is_efault(mirror, call, pointer):
    assert lib.dm_ioctl(mirror.fd, getattr(lib, f"DMIRROR_{call}"), ffi.cast("void *", pointer)) == -errno.EFAULT


def test_a_hold_in_memory_that_cannot_be_written_leaves_no_descriptor(mirror, region):
    argument = ffi.cast("struct dmirror_hold *", region.addr)
    argument.size, argument.nth = ffi.sizeof("struct dmirror_hold"), 1
    region.protect(READ)
    before = sorted(os.listdir("/proc/self/fd"))
    assert lib.dm_ioctl(mirror.fd, lib.DMIRROR_HOLD, argument) == -errno.EFAULT
    assert sorted(os.listdir("/proc/self/fd")) == before
    region.protect(RW)
    assert mirror.read(region).pages == len(region)


@pytest.mark.parametrize(
    ("call", "field", "done"),
    [("MIGRATE", "how", 0), ("MIGRATE", "words", 16), ("WALK", "pages", 0), ("PEEK", "ptr", 0), ("POKE", "ptr", 0)],
)
def test_a_bad_pointer_in_a_structure_is_efault_and_says_how_far_it_came(valid, region, call, field, done):
    status, _, argument = valid.make(call, **{field: UNMAPPED})
    assert (status, argument.done) == (-errno.EFAULT, done)
    assert region.matches(1)


@pytest.mark.parametrize(
    "number",
    [
        lib.DMIRROR_EXCLUSIVE + 1,
        lib.DMIRROR_HOLD_STATE,
        lib.DMIRROR_HOLD_RESUME,
        lib.DMIRROR_QUERY | 0xFF,
        lib.DMIRROR_QUERY | 1 << 30,
        lib.DMIRROR_QUERY | 32 << 16,
    ],
    ids=hex,
)
def test_an_unknown_number_is_enotty(mirror, number):
    assert lib.dm_ioctl(mirror.fd, number, ffi.new("char[]", 4096)) == -errno.ENOTTY


class TestHoldDescriptor:
    """The two calls on what HOLD gives."""

    @pytest.fixture
    def fd(self, mirror):
        fd = mirror.own("HOLD", nth=1).fd
        yield fd
        os.close(fd)

    def state(self, fd, size, flags=0):
        buffer = ffi.new("char[]", 4096)
        ffi.buffer(buffer)[:] = b"\xa5" * 4096
        state = ffi.cast("struct dmirror_hold_state *", buffer)
        state.size, state.flags = size, flags
        return lib.dm_ioctl(fd, lib.DMIRROR_HOLD_STATE, state), state, bytes(ffi.buffer(buffer))

    @pytest.mark.parametrize("size", [0, 4, 7])
    def test_a_size_below_its_own_fields_is_einval(self, fd, size):
        assert self.state(fd, size)[0] == -errno.EINVAL

    def test_an_unknown_flag_is_einval(self, fd):
        assert self.state(fd, ffi.sizeof("struct dmirror_hold_state"), flags=1)[0] == -errno.EINVAL

    @pytest.mark.parametrize("size", [8, 16, 40, 48, 4096])
    def test_it_fills_what_both_sides_know(self, fd, size):
        known = min(size, ffi.sizeof("struct dmirror_hold_state"))
        status, state, after = self.state(fd, size)
        assert (status, state.size) == (0, known)
        assert set(after[known:]) == {0xA5}

    @pytest.mark.parametrize(
        "number", [lib.DMIRROR_QUERY, lib.DMIRROR_HOLD, lib.HMM_DMIRROR_READ, lib.DMIRROR_HOLD_RESUME + 1]
    )
    def test_an_unknown_number_is_enotty(self, fd, number):
        assert lib.dm_ioctl(fd, number, ffi.new("char[]", 4096)) == -errno.ENOTTY

    def test_an_unmapped_structure_is_efault(self, fd):
        assert lib.dm_ioctl(fd, lib.DMIRROR_HOLD_STATE, ffi.cast("void *", UNMAPPED)) == -errno.EFAULT


@contextmanager
def orphan():
    """A mirror whose address space is gone: a child opened it, sent it over a socket (SCM_RIGHTS) and ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def child():
            with Mirror(0) as opened:
                socket.send_fds(theirs, [b"."], [opened.fd])

        in_child(child)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    with Mirror.received(fd, 0) as mirror:
        yield mirror


@pytest.mark.contract("L-02")
@pytest.mark.parametrize("call", CALLS)
def test_after_the_address_space_is_gone(valid, call):
    """Calls that need it say so; the device has no entry any more; the rest answers."""
    with orphan() as mirror:
        if call == "UNWATCH":  # none can be made
            valid.fields[call]["id"] = 1
        valid.mirror = mirror
        status, _, _ = valid.make(call)
    wanted = {"PEEK": -errno.ENOENT, "POKE": -errno.ENOENT, "UNWATCH": -errno.ENOENT}
    assert status == (-errno.ESRCH if call in ADDRESS_SPACE else wanted.get(call, 0))


def test_an_error_names_call_range_and_device(mirror, region):
    with pytest.raises(MirrorError) as caught:
        mirror.peek(region)
    assert f"PEEK of {region} on hmm_dmirror0" in str(caught.value)
