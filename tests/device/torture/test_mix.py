# SPDX-License-Identifier: GPL-2.0
"""L-11: any mix of calls and of changes to memory, by many threads on every device, loses no value.

Every word of the memory says its page, its place in it, its writer and which value of the page it is of; a ledger says
which values a reader may find (uapi/ledger.c). One slice of the memory is everybody's. Each thread has one more, which
only its own CPU accesses touch, so that it may be taken from the CPU; the other threads' devices go there all the same.
What a thread does is uapi/mix.c. A further one holds them up, reads the log of the devices that they share, and lets
allocations fail: uapi/steer.c.
"""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror, node
from dmirror.uapi import ffi, lib

THREADS = 8
ROUNDS = 5
ROUND_NS = 1_000_000_000
PAUSES = (200, 2_000, 20_000)  # µs, at most, between two acts of the steerer
SLICE = lib.DM_MIX_SLICE

# What a race may make of a call on a thread's own slice, and, beside that, where others may just have changed what is
# there and what access there is to it. Any other error fails the test.
TOLERATED = {
    0: ("READ", {errno.EBUSY}, {errno.EFAULT}),
    1: ("WRITE", {errno.EBUSY}, set()),
    2: ("MIGRATE_TO_DEV", {errno.ENOENT, errno.EBUSY}, {errno.EINVAL}),
    3: ("MIGRATE_TO_SYS", {errno.ENOMEM}, {errno.EINVAL}),
    4: ("SNAPSHOT", {errno.EBUSY}, set()),
    # The last where the kernel cannot migrate a coherent page that is exclusive.
    5: ("EXCLUSIVE", {errno.ENOENT, errno.EBUSY, errno.EOPNOTSUPP}, {errno.EFAULT}),
    7: ("RELEASE", {errno.EBUSY}, set()),
    # madvise(2): the pages are in use or not all there, no huge page is to be had.
    10: ("MADV_COLLAPSE", {errno.EINVAL, errno.EAGAIN, errno.EBUSY, errno.ENOMEM}, set()),
    11: ("fork", set(), set()),
    12: ("WRITE to protected memory", {errno.EBUSY, errno.EPERM, errno.EFAULT}, set()),
}
# And where allocations fail: a page of another device does not come back, of which the kernel says one or the other.
FAILING = {kind: {errno.EFAULT, errno.ENOMEM} for kind in (0, 1, 5, 12)}


class Mix:
    """The memory, its ledger and the threads that work on it."""

    def __init__(self, stack: ExitStack, devices: list[int]) -> None:
        npages = (THREADS + 1) * SLICE
        self.memory = stack.enter_context(Region.anonymous(npages, align=SLICE * PAGE))
        # Shared, so that a forked process sees what is written until it looks.
        entry = ffi.sizeof("struct dm_entry")
        ledger = stack.enter_context(Region.shared(npages * entry // PAGE + 1))
        self.common = ffi.new("struct dm_mix *")
        self.common.memory, self.common.threads = self.memory.addr, THREADS
        self.common.entries = ffi.cast("struct dm_entry *", ledger.addr)
        self.common.nodes = [bytes(node(device)) for device in devices]
        self.common.nr_nodes = len(devices)
        self.common.fds = [stack.enter_context(Mirror(device)).fd for device in devices]
        self.steerer = ffi.new("struct dm_steerer *")
        self.steerer.nr_fds = len(devices)
        for number, fd in enumerate(self.common.fds[0 : len(devices)]):
            os.set_blocking(fd, False)
            self.steerer.fds[number] = fd
        self.steerer.start, self.steerer.end, self.steerer.logs = self.memory.addr, self.memory.end, 1
        self.workers = [ffi.new("struct dm_worker *") for _ in range(THREADS)]
        for number, worker in enumerate(self.workers):
            data, scratch = (stack.enter_context(Region.anonymous(SLICE, align=SLICE * PAGE)) for _ in range(2))
            worker.mix, worker.number = self.common, number
            worker.data, worker.scratch = ffi.cast("char *", data.addr), scratch.addr

    def work(self, choices) -> None:
        """One round."""
        self.common.hot, self.common.calm = choices.choice((2, 8, 64, SLICE)), choices.randrange(2)
        self.common.until = time.monotonic_ns() + ROUND_NS
        threads = []
        for worker in self.workers:
            worker.random = choices.getrandbits(64)
            threads.append(threading.Thread(target=lib.dm_mix_work, args=(worker,)))
        with self.steered(choices):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    @contextmanager
    def steered(self, choices) -> Iterator[None]:
        """With somebody who gets in the way, if that is wanted."""
        if not self.common.steered:
            yield
            return
        self.steerer.random, self.steerer.pause = choices.getrandbits(64), choices.choice(PAUSES)
        self.steerer.stop = 0
        thread = threading.Thread(target=lib.dm_steer, args=(self.steerer,))
        thread.start()
        yield
        self.steerer.stop = 1
        thread.join()

    def failures(self) -> list[str]:
        said = [(worker.number, ffi.string(worker.failure).decode()) for worker in self.workers]
        said.append(("that steers", ffi.string(self.steerer.failure).decode()))
        return [f"thread {number}: {failure}" for number, failure in said if failure]

    def lost(self) -> int:
        """The offset of the first word that is wrong, now that nobody writes; -1 when there is none."""
        npages, found = len(self.memory), ffi.new("uint64_t *")
        floor = ffi.new("uint32_t[]", npages)
        lib.dm_ledger_floor(self.common.entries, floor, npages)
        return lib.dm_ledger_check(self.common.entries, floor, self.memory.addr, 0, npages, found)

    def untolerated(self) -> list[str]:
        return [
            f"{name} of {whose} memory: {count} times {errno.errorcode[number]}"
            for kind, (name, own, others) in TOLERATED.items()
            for whose, allowed in (("own", own), ("others", own | others))
            for worker in self.workers
            for number, count in enumerate(getattr(worker, whose)[kind])
            if number
            and count
            and number not in allowed
            and not (self.steerer.fails and number in FAILING.get(kind, ()))
        ]

    def succeeded(self, kind: int) -> int:
        return sum(worker.own[kind][0] + worker.others[kind][0] for worker in self.workers)


@pytest.mark.contract("L-11")
@pytest.mark.contract("M-13")
@pytest.mark.parametrize("how", ["undisturbed", "held", "failing"])
def test_no_value_is_lost(mirror, devices, rounds, how):
    with ExitStack() as stack:
        mix = Mix(stack, devices)
        mix.common.steered, mix.steerer.fails = how != "undisturbed", how == "failing"
        for choices in rounds(ROUNDS):
            mix.work(choices)
            print({name: mix.succeeded(kind) for kind, (name, _, _) in TOLERATED.items()})
            print({name: getattr(mix.steerer, name) for name in ("held", "records", "lost", "failed")})
            assert not mix.failures(), "\n".join(mix.failures())
            assert mix.untolerated() == []
            assert mix.lost() == -1
        # Not a RELEASE, a huge page or a fork in every short run.
        assert all(mix.succeeded(kind) for kind in range(6))
        assert how == "undisturbed" or (mix.steerer.held and mix.steerer.records)
        assert how != "failing" or mix.steerer.failed
