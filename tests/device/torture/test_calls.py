# SPDX-License-Identifier: GPL-2.0
"""Random calls: any number with any argument ends in an error that is documented, and changes only what it names."""

import errno
import mmap
import os
from contextlib import ExitStack

from dmirror.memory import NONE, PAGE, READ, RW, Data, Region
from dmirror.mirror import Mirror
from dmirror.plugin.markers import release_matches
from dmirror.uapi import ffi, lib

CALLS = 10_000  # in a round
ROUNDS = 10
MOST_PAGES = 513  # of a call that has room for its data in the sink
MAP_FIXED = 0x10
EXCLUSIVE_SAYS = release_matches(os.uname().release, ">=6.15")

# Of docs/driver.md. EFAULT also stands for a structure that cannot be read or written, EINVAL for a bad range.
_RANGE = {0, errno.EFAULT, errno.EINVAL}
_FAULTING = _RANGE | {errno.EPERM, errno.EBUSY}
DOCUMENTED = {
    0: ("READ", _FAULTING),
    1: ("WRITE", _FAULTING),
    2: ("MIGRATE_TO_DEV", _RANGE | {errno.ENOENT}),
    3: ("MIGRATE_TO_SYS", _RANGE | {errno.ENOMEM}),
    4: ("SNAPSHOT", _RANGE | {errno.EBUSY}),
    5: ("EXCLUSIVE", _RANGE | {errno.EBUSY, errno.EOPNOTSUPP}),  # the latter where memory is not anonymous
    6: ("CHECK_EXCLUSIVE", _RANGE | {errno.EPERM}),
    7: ("RELEASE", {0, errno.EFAULT, errno.EBUSY}),
    8: ("FLAGS", {0, errno.EFAULT, errno.EINVAL}),
    9: ("READ_UNLOCKED", _FAULTING | {errno.ENOTTY}),
    lib.DM_CALL_OWN: ("QUERY and COUNTERS", _RANGE),
    lib.DM_CALL_UNKNOWN: ("an unknown number", {errno.ENOTTY}),
}


class Arena:
    """Memory of every kind in one range, for calls to act on, with a page on either side that none may change."""

    def __init__(self, stack: ExitStack, opened: Mirror) -> None:
        files = [os.memfd_create("dmirror") for _ in range(2)]
        for file in files:
            stack.callback(os.close, file)
            os.ftruncate(file, 8 * PAGE)
        private, shared, anonymous = mmap.MAP_PRIVATE, mmap.MAP_SHARED, mmap.MAP_ANONYMOUS
        pieces = (  # pages, flags, file, protection
            (MOST_PAGES + 7, private | anonymous, -1, RW),
            (1, private | anonymous, -1, NONE),
            (8, private | anonymous, -1, READ),
            (8, private, files[1], RW),
            # Before make_device_exclusive() each try of EXCLUSIVE at memory that is not anonymous takes a second.
            *((8, shared, file, RW) for file in (files[0], opened.fd) if EXCLUSIVE_SAYS),
            (8, private | anonymous, -1, RW),
            (1, private | anonymous, -1, NONE),
        )
        npages = sum(piece[0] for piece in pieces)
        self._region = stack.enter_context(Region.anonymous(npages + 2))
        self.span = self._region[1:-1]
        self._origin = Data.pattern(self.span, 1)
        self.shadow = ffi.new("uint64_t[]", npages)
        for page in range(npages):
            self.shadow[page] = int(ffi.cast("uintptr_t", self._origin.buffer)) + page * PAGE
        self._region[0].fill(2)
        self._region[-1].fill(2)
        first = 0
        for length, flags, file, prot in pieces:
            piece = self.span[first : first + length]
            assert lib.dm_mmap(piece.addr, piece.bytes, RW, flags | MAP_FIXED, file, 0) == piece.addr
            piece.fill(1)
            piece.protect(prot)
            for page in range(first, first + length):
                if prot == NONE:
                    self.shadow[page] = 0
            first += length

    def unchanged_beside(self) -> bool:
        return self._region[0].matches(2) and self._region[-1].matches(2)


def describe(calls) -> str:
    """The last call."""
    return (
        f"call {calls.made}: number {calls.number:#x}, addr {calls.addr:#x}, npages {calls.npages:#x}, "
        f"ptr {calls.ptr:#x}, result {calls.result}"
    )


def undocumented(calls) -> list[str]:
    """What ended with an errno that is not documented for it."""
    return [
        f"{name}: {count} times {errno.errorcode.get(number, number)}"
        for kind, (name, allowed) in DOCUMENTED.items()
        for number, count in enumerate(calls.results[kind])
        if count and number not in allowed
    ]


def test_random_calls(mirror, devices, rounds):
    with ExitStack() as stack:
        mirrors = [stack.enter_context(Mirror(device)) for device in devices]
        arena = Arena(stack, mirror)
        source = stack.enter_context(Region.anonymous(MOST_PAGES + 64)).fill(3)
        sink = stack.enter_context(Region.anonymous(MOST_PAGES + 1)).fill(4)
        edge = stack.enter_context(Region.anonymous(4))
        read_only = stack.enter_context(Region.anonymous(1)).fill(5)
        edge[-1].protect(NONE)
        source[-1].protect(NONE)
        read_only.protect(READ)
        calls = ffi.new("struct dm_calls *")
        calls.arena, calls.arena_pages, calls.shadow = arena.span.addr, arena.span.npages, arena.shadow
        calls.source, calls.source_bytes = source.addr, source[:-1].bytes
        calls.sink, calls.sink_bytes = sink.addr, sink[:-1].bytes
        calls.edge, calls.read_only = edge[-1].addr, read_only.addr
        calls.fds, calls.nr_fds = [opened.fd for opened in mirrors], len(mirrors)
        for choices in rounds(ROUNDS):
            calls.random = choices.getrandbits(64)
            assert lib.dm_calls_make(calls, CALLS) == 0, f"did what it should not: {describe(calls)}"
            assert lib.dm_calls_check(calls) == -1, f"memory not as WRITE left it, after {describe(calls)}"
            assert source[:-1].matches(3) and sink[-1].matches(4) and read_only.matches(5)
            assert arena.unchanged_beside()
            assert undocumented(calls) == []
            # Random calls that all fail early would show nothing.
            assert all(calls.results[kind][0] for kind in range(9) if kind != 7)
