# SPDX-License-Identifier: GPL-2.0
"""Random calls: any number with any argument ends in an error that is documented, and changes only what it names."""

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from dmirror.memory import HUGE_PAGES, MADV_COLLAPSE, NONE, PAGE, READ, RW, Data, Region
from dmirror.mirror import Mirror
from dmirror.running import release_matches
from dmirror.uapi import ffi, lib

CALLS = 1_000  # in a round
ROUNDS = 10
MOST_PAGES = 513  # of a call that has room for its data in the sink
MAP_FIXED = 0x10
EXCLUSIVE_SAYS = release_matches(os.uname().release, ">=6.15")
# T-03 of docs/findings.md: still so in 7.3.
CHARGE_GOES = release_matches(os.uname().release, ">=6.19")

# Of docs/driver.md and kmod/uapi/dmirror.h. EFAULT also stands for a structure that cannot be read or written, EINVAL
# for a bad range; both, and ENOMEM, for what an injected failure makes of a page of another device.
_RANGE = {0, errno.EFAULT, errno.EINVAL}
_FAULTING = _RANGE | {errno.EPERM, errno.EBUSY, errno.ENOMEM}
_OWN = _RANGE | {errno.E2BIG}
_EXCLUSIVE = {errno.EBUSY, errno.EOPNOTSUPP, errno.ENOMEM}  # EOPNOTSUPP where memory is not anonymous
DOCUMENTED = {
    0: ("READ", _FAULTING),
    1: ("WRITE", _FAULTING),
    2: ("MIGRATE_TO_DEV", _RANGE | {errno.ENOENT}),
    3: ("MIGRATE_TO_SYS", _RANGE | {errno.ENOMEM, errno.EIO}),
    4: ("SNAPSHOT", _RANGE | {errno.EBUSY}),
    5: ("EXCLUSIVE", _RANGE | _EXCLUSIVE | {errno.ENOENT}),
    6: ("CHECK_EXCLUSIVE", _RANGE | {errno.EPERM}),
    7: ("RELEASE", {0, errno.EFAULT, errno.EBUSY}),
    8: ("FLAGS", {0, errno.EFAULT, errno.EINVAL}),
    9: ("READ_UNLOCKED", _FAULTING | {errno.ENOTTY}),
    lib.DM_CALL_OWN + 0: ("DMIRROR_QUERY", _RANGE),
    lib.DM_CALL_OWN + 1: ("DMIRROR_COUNTERS", _RANGE),
    lib.DM_CALL_OWN + 2: ("DMIRROR_LOG", _OWN),
    lib.DM_CALL_OWN + 3: ("DMIRROR_HOLD", _OWN),
    lib.DM_CALL_OWN + 4: ("DMIRROR_INJECT", _OWN),
    lib.DM_CALL_OWN + 5: ("DMIRROR_MIGRATE", _OWN | {errno.EOPNOTSUPP}),  # a huge destination, before 6.19
    lib.DM_CALL_OWN + 6: ("DMIRROR_WALK", _OWN | _FAULTING),
    lib.DM_CALL_OWN + 7: ("DMIRROR_PEEK", _OWN | {errno.ENOENT}),
    lib.DM_CALL_OWN + 8: ("DMIRROR_POKE", _OWN | {errno.ENOENT, errno.EPERM}),
    # The core's: a range that wraps.
    lib.DM_CALL_OWN + 9: ("DMIRROR_WATCH", _OWN | {errno.EOPNOTSUPP, errno.EOVERFLOW}),
    lib.DM_CALL_OWN + 10: ("DMIRROR_UNWATCH", _OWN | {errno.ENOENT}),
    lib.DM_CALL_OWN + 11: ("DMIRROR_EXCLUSIVE", _OWN | _EXCLUSIVE),
    lib.DM_CALL_READ: ("read(2) of the log", {0, errno.EFAULT, errno.EINVAL, errno.EAGAIN}),
    lib.DM_CALL_HOLD: ("a call of a hold", {0, errno.EFAULT, errno.EINVAL, errno.ENOTTY}),
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
        whole = stack.enter_context(Region.anonymous(HUGE_PAGES + npages + 1, align=HUGE_PAGES * PAGE))
        self._region = whole[HUGE_PAGES - 1 :]
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

    def collapse(self) -> None:
        """It begins with a huge page, if one is to be had. Of that, too, EXCLUSIVE would take a second."""
        with suppress(OSError):
            if EXCLUSIVE_SAYS:
                self.span[:HUGE_PAGES].advise(MADV_COLLAPSE)

    def unchanged_beside(self) -> bool:
        return self._region[0].matches(2) and self._region[-1].matches(2)


def describe(calls) -> str:
    """The last call."""
    return (
        f"call {calls.made}: number {calls.number:#x}, addr {calls.addr:#x}, npages {calls.npages:#x}, "
        f"ptr {calls.ptr:#x}, words {[hex(word) for word in calls.words]}, result {calls.result}"
    )


def undocumented(calls) -> list[str]:
    """What ended with an errno that is not documented for it."""
    return [
        f"{name}: {count} times {errno.errorcode.get(number, number)}"
        for kind, (name, allowed) in DOCUMENTED.items()
        for number, count in enumerate(calls.results[kind])
        if count and number not in allowed
    ]


@contextmanager
def devices_opened(calls, devices, choices) -> Iterator[None]:
    """Every device for the calls of a round, and somebody who holds up who makes them."""
    with ExitStack() as stack:
        fds = [stack.enter_context(Mirror(device)).fd for device in devices]
        for fd in fds:
            os.set_blocking(fd, False)
        calls.fds, calls.nr_fds, calls.watches = fds, len(fds), [0] * len(fds)
        steerer = ffi.new("struct dm_steerer *")
        steerer.fds, steerer.nr_fds = fds, len(fds)
        steerer.start, steerer.end = calls.arena, calls.arena + calls.arena_pages * PAGE
        steerer.random, steerer.pause = choices.getrandbits(64), choices.choice((2_000, 20_000))
        thread = threading.Thread(target=lib.dm_steer, args=(steerer,))
        thread.start()
        try:
            yield
        finally:
            steerer.stop = 1
            thread.join()
            lib.dm_calls_end(calls)
        assert not ffi.string(steerer.failure)


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


def test_random_calls(mirror, devices, rounds):
    with ExitStack() as stack:
        arena = Arena(stack, mirror)
        source = stack.enter_context(Region.anonymous(MOST_PAGES + 64)).fill(3)
        sink = stack.enter_context(Region.anonymous(MOST_PAGES + 1)).fill(4)
        edge = stack.enter_context(Region.anonymous(4))
        read_only = stack.enter_context(Region.anonymous(1)).fill(5)
        paper_file = os.memfd_create("dmirror")
        stack.callback(os.close, paper_file)
        os.ftruncate(paper_file, PAGE)
        pen, paper = (stack.enter_context(Region.of_file(paper_file, 1, prot=prot)) for prot in (RW, READ))
        edge[-1].protect(NONE)
        source[-1].protect(NONE)
        read_only.protect(READ)
        calls = ffi.new("struct dm_calls *")
        calls.arena, calls.arena_pages, calls.shadow = arena.span.addr, arena.span.npages, arena.shadow
        calls.source, calls.source_bytes = source.addr, source[:-1].bytes
        calls.sink, calls.sink_bytes = sink.addr, sink[:-1].bytes
        calls.edge, calls.read_only = edge[-1].addr, read_only.addr
        calls.pen, calls.paper, calls.no_huge = pen.addr, paper.addr, CHARGE_GOES
        opened = descriptors()
        for choices in rounds(ROUNDS):
            calls.random = choices.getrandbits(64)
            arena.collapse()
            with devices_opened(calls, devices, choices):
                assert lib.dm_calls_make(calls, CALLS) == 0, f"did what it should not: {describe(calls)}"
            assert descriptors() == opened
            assert lib.dm_calls_check(calls) == -1, f"memory not as it was left, after {describe(calls)}"
            assert source[:-1].matches(3) and sink[-1].matches(4) and read_only.matches(5)
            assert arena.unchanged_beside()
            assert not (wrong := undocumented(calls)), wrong
        # Random calls that all fail early would show nothing.
        rare = {7, 9, lib.DM_CALL_UNKNOWN}  # seldom made, not everywhere there, never right
        assert [name for kind, (name, _) in DOCUMENTED.items() if kind not in rare and not calls.results[kind][0]] == []
