# SPDX-License-Identifier: GPL-2.0
"""Sections 2 and 12: device faults that cannot be served, for want of memory or of a moment's peace, come to an end."""

import errno
import mmap
import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from facilities.machine import setting

from dmirror.memory import HUGE_PAGES, PAGE, Data, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child
from dmirror.quiet import quieten
from dmirror.running import built_with, release_matches
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

FAIL = Path("/sys/kernel/debug/fail_page_alloc")
# hmm_do_fault() passes the fault's errno on since 7.3, and said EFAULT of everything before.
OUT_OF_MEMORY = errno.ENOMEM if release_matches(os.uname().release, ">=7.3") else errno.EFAULT


@contextmanager
def no_pages(order=0):
    """Allocations of pages by this thread fail in the block, which must need none (Documentation/fault-injection)."""
    values = {
        "ignore-gfp-wait": "N",
        "ignore-gfp-highmem": "N",
        "min-order": order,
        "task-filter": "Y",
        "verbose": 0,
        "times": 16,  # not for ever: a fault of user space would be repeated until it succeeds
        "probability": 100,
    }
    quieten()
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(setting(FAIL / name, value))
        me = os.open("/proc/thread-self/make-it-fail", os.O_WRONLY)
        stack.callback(os.close, me)
        os.write(me, b"1")
        try:
            yield
        finally:
            os.write(me, b"0")


@pytest.mark.needs(config="CONFIG_FAIL_PAGE_ALLOC")
@pytest.mark.contract("H-07")
@pytest.mark.parametrize("kind", ["hole", "zero-page", "file", "read-of-a-file"])
def test_a_device_fault_without_memory_says_so_and_can_be_tried_again(mirror, block, kind):
    with ExitStack() as stack:
        memory = block
        if kind.endswith("file"):
            memory = stack.enter_context(Region.memfd(16))
        if kind == "zero-page":
            memory.touch()
        call = "READ" if kind == "read-of-a-file" else "WRITE"
        memory[:4].fill(1)
        data = Data.pattern(memory, 1)
        # What the call itself takes is there already.
        mirror.call(call, memory.addr, 4, data.buffer)
        before = [bool(word >> 63) for word in memory.pagemap()]
        error = None
        with no_pages():
            try:
                mirror.call(call, memory.addr, 16, data.buffer)
            except MirrorError as caught:
                error = caught
        # KASAN has pages of its own for what the call allocates before it comes to the core.
        wanted = {OUT_OF_MEMORY, errno.ENOMEM} if built_with("CONFIG_KASAN") else {OUT_OF_MEMORY}
        assert error is not None and error.errno in wanted and error.pages == 4
        assert [bool(word >> 63) for word in memory.pagemap()] == before
        assert memory[:4].matches(1) and memory[4:].zero()
        mirror.write(memory, 2)
        assert memory.matches(2)


@pytest.mark.needs(config="CONFIG_FAIL_PAGE_ALLOC")
@pytest.mark.contract("H-07")
def test_a_huge_page_that_cannot_be_had_becomes_small_ones(mirror):
    with Region.huge(1) as huge:
        data = Data.pattern(huge, 1)
        with no_pages(9):
            mirror.call("WRITE", huge.addr, HUGE_PAGES, data.buffer)
        assert {str(page) for page in mirror.snapshot(huge)} == {"ram rw"}
        assert huge.matches(1)


@contextmanager
def storm(span):
    """A thread that zaps the span as fast as it can."""
    over = threading.Event()

    def blow():
        while not over.is_set():
            span.advise(mmap.MADV_DONTNEED)

    with Task(blow):
        try:
            yield
        finally:
            over.set()


@pytest.mark.contract("L-12")
@pytest.mark.parametrize("call", ["read", "write", "migrate_to_device"])
def test_a_call_that_is_invalidated_all_the_time_ends(mirror, call):
    """Done, or with EBUSY after a second: either will do, and leaves nothing behind."""
    with Region.anonymous(HUGE_PAGES, align=HUGE_PAGES * PAGE) as memory:
        memory.advise(mmap.MADV_NOHUGEPAGE)
        acts = {"write": lambda: mirror.write(memory, 2)}
        with storm(memory):
            began = time.monotonic()
            try:
                acts.get(call, lambda: getattr(mirror, call)(memory))()
            except MirrorError as error:
                assert error.errno == (errno.ENOENT if call == "migrate_to_device" else errno.EBUSY)
                assert error.errno != errno.EBUSY or time.monotonic() - began >= 0.9
            assert time.monotonic() - began < 5
        memory.advise(mmap.MADV_DONTNEED)
        assert mirror.counters().dev_pages_in_use == 0
        for page in (0, 100, HUGE_PAGES - 1):
            with pytest.raises(MirrorError) as absent:
                mirror.peek(memory[page])
            assert absent.value.errno == errno.ENOENT
        # In peace it works.
        mirror.write(memory, 3)
        assert memory.matches(3)


@pytest.mark.contract("L-12")
def test_a_process_in_a_storm_of_invalidations_can_be_killed(mirror):
    def child(line):
        with Mirror(0) as own, Region.anonymous(HUGE_PAGES) as memory, storm(memory):
            line.send()
            while True:
                with suppress(MirrorError):
                    own.read(memory)

    with Child(child) as other:
        other.line.receive()
        began = time.monotonic()
        other.kill()
        assert other.wait() == -signal.SIGKILL
        assert time.monotonic() - began < 5


@pytest.mark.contract("L-12")
@pytest.mark.contract("H-08")
def test_a_call_that_is_invalidated_a_few_times_goes_on_and_sees_the_last(mirror, block):
    counted = mirror.counters()
    block.fill(1)
    with ExitStack() as stack:
        hold = stack.enter_context(mirror.hold("fault.before_check", block))
        task = stack.enter_context(Task(mirror.read, block))
        for seed in (2, 3, 4):
            hold.wait()
            block.advise(mmap.MADV_DONTNEED)
            block.fill(seed)
            following = stack.enter_context(mirror.hold("fault.before_check", block)) if seed < 4 else None
            hold.resume()
            hold = following
        assert task.result().data.matches(4)
    assert mirror.peek(block).matches(4)
    assert (mirror.counters() - counted).fault_retries == 3
