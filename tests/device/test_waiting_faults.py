# SPDX-License-Identifier: GPL-2.0
"""Section 2, H-15: device faults on memory whose handler is user space."""

import errno
import os
import socket
import time
from contextlib import ExitStack

import pytest
from facilities.userfault import Userfault

from dmirror.events import FAULT
from dmirror.memory import PAGE, READ, RW, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child, ChildKilled
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")
UNLOCKED = pytest.mark.needs(capability="read_unlocked")


@pytest.mark.contract("H-15")
@pytest.mark.parametrize("what", ["read", "write", "walk", "exclusive"])
def test_who_holds_the_mmap_lock_does_not_wait_for_user_space(mirror, region, what):
    """Nor does it leave anything: the handler is not even told, or its answer is still wanted by nobody."""
    region[:3].fill(1)
    with Userfault() as userfault:
        userfault.catch_missing(region)
        with pytest.raises(MirrorError) as caught:
            {
                "read": lambda: mirror.read(region),
                "write": lambda: mirror.write(region, 2),
                "walk": lambda: mirror.walk(region, default=("fault",)),
                "exclusive": lambda: mirror.make_exclusive(region[3:]),
            }[what]()
        assert caught.value.errno in (errno.EFAULT, errno.EBUSY)
        assert mirror.snapshot(region).picture() == "rrr" + "." * 13
        assert not any(page.mapped for page in mirror.page_info(region[3:]))
    assert mirror.read(region[3:]).data.zero()


@UNLOCKED
@pytest.mark.contract("H-15")
def test_who_does_not_hold_it_waits_and_gets_what_user_space_gives(mirror, region):
    region[:3].fill(1)
    with Region.anonymous(4) as far, Userfault() as userfault:
        userfault.catch_missing(region)
        with mirror.events(buf=region) as log, Task(mirror.read_unlocked, region[:6]) as task:
            for page in (3, 4, 5):
                assert userfault.wait_caught() == region[page].addr
                task.wait_asleep()
                # The mmap lock is free: other mappings may change, and the log has no fault that ended.
                far.protect(READ)
                far.protect(RW)
                log.expect(FAULT, times=0, pages=6)
                userfault.answer(region[page])
            result = task.result()
            log.expect(FAULT, region[:6], pages=6, result=0)
        assert result.data.matches(1, npages=3) and result.pages == 6
        assert [result.data.word(page) for page in (3, 4, 5)] == [0, 0, 0]
        assert mirror.snapshot(region).picture()[:6] in ("rrrzzz", "rrrrrr")
        assert userfault.caught() is None
        # From here on it is mapped.
        assert mirror.read_unlocked(region[:6]).faults == 0


@UNLOCKED
@pytest.mark.contract("H-15")
def test_the_time_that_user_space_takes_is_not_counted(mirror, region):
    """The call has a second for invalidations, and none of it goes by here."""
    with Userfault() as userfault:
        userfault.catch_missing(region)
        with Task(mirror.read_unlocked, region[:1]) as task:
            assert userfault.wait_caught() == region[0].addr
            began = time.monotonic()
            # Nothing else is caught while more than that second goes by.
            assert userfault.caught(1.3) is None
            assert time.monotonic() - began > 1.2 and not task.done
            userfault.answer(region[0])
            assert task.result().data.zero()


@UNLOCKED
@pytest.mark.contract("H-15")
def test_what_becomes_of_the_mapping_while_it_waits_is_what_it_finds(mirror, region):
    task = Task(mirror.read_unlocked, region[:4])
    with ExitStack() as stack:
        with Userfault() as userfault:
            userfault.catch_missing(region)
            stack.enter_context(task)
            assert userfault.wait_caught() == region[0].addr
            task.wait_asleep()
            region[:4].unmap()
        # Who waits is told when the handler is gone.
        with pytest.raises(MirrorError) as caught:
            task.result()
        assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 0)
    assert not any(page.mapped for page in mirror.page_info(region))


@UNLOCKED
@pytest.mark.contract("H-15")
@pytest.mark.contract("L-06")
def test_who_waits_for_user_space_can_be_killed(mirror):
    """The handler never answers, and outlives it."""
    ours, theirs = socket.socketpair()

    def child(line):
        memory = Region.anonymous(4)
        userfault = Userfault().__enter__()
        userfault.catch_missing(memory)
        socket.send_fds(theirs, [memory.addr.to_bytes(8, "little")], [userfault.fd])
        line.send()
        with Mirror(0) as own:
            own.read_unlocked(memory)

    with ours, theirs, Child(child) as other:
        address, (handler,), _, _ = socket.recv_fds(ours, 8, 1)
        try:
            other.line.receive()
            userfault = Userfault()
            userfault.fd = handler
            assert userfault.wait_caught() == Span(int.from_bytes(address, "little"), 4).addr
            other.kill()
            with pytest.raises(ChildKilled):
                other.result()
        finally:
            os.close(handler)


@UNLOCKED
@pytest.mark.contract("H-15")
@pytest.mark.contract("H-01")
def test_without_a_handler_both_ways_find_the_same(mirror, mirror2, block):
    block[:4].fill(1)
    mirror.migrate(block[:2])
    mirror2.migrate(block[2:4])
    block[4:8].touch()
    block[12:].protect(READ)
    data = mirror.read_unlocked(block).data
    assert data.matches(1, npages=4) and all(data.word(page) == 0 for page in range(4, 16))
    assert [page.index is not None for page in mirror.page_info(block)] == [True] * 2 + [False] * 14
    before = [page.pfn for page in mirror.page_info(block)]
    with mirror.events(buf=block) as log:
        assert mirror.read_unlocked(block).faults == mirror.read(block).faults == 0
        log.expect(FAULT, times=0)
    assert [page.pfn for page in mirror.page_info(block)] == before
    block[3].unmap()
    for read in (mirror.read_unlocked, mirror.read):
        with pytest.raises(MirrorError) as caught:
            read(block)
        assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 3)
    assert block.addr % PAGE == 0
