# SPDX-License-Identifier: GPL-2.0
"""Section 1: the OOM reaper, whose events must not be slept on: a mirror that is busy refuses them."""

import errno
import os
import select
import signal
import time
from pathlib import Path

import pytest

from dmirror.events import CLEAR, FINISH, FREE, RELEASE, UNMAP
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import PATIENCE
from dmirror.running import release_matches
from dmirror.threads import Task
from dmirror.watches import KINDS

pytestmark = pytest.mark.needs(capability="steer")

# __oom_reap_task_mm() of 6.12, and zap_vma_for_reaping() of 7.2, which it calls since.
REAPED = CLEAR if release_matches(os.uname().release, ">=7.2") else UNMAP
ATTEMPTS = 10  # MAX_OOM_REAP_RETRIES


def expendable(memory):
    """What the OOM killer takes first, with memory to reap; mirrored on two devices, the first subscribed first."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    memory.fill(1)
    return [Mirror(0), Mirror(1)]


def run_out_of_memory(other):
    """The OOM killer kills the process; what it leaves of its memory is the reaper's, two seconds later."""
    Path("/proc/sysrq-trigger").write_text("f")
    assert other.child.wait() == -signal.SIGKILL


def wait_for(times, log, mirror, *types, **values):
    """The records of that kind, as soon as there are so many."""
    until = time.monotonic() + PATIENCE
    while len(found := log.select(types, **values)) < times:
        left = until - time.monotonic()
        assert left > 0 and select.select([mirror.fd], [], [], left)[0], log.table()
        log.read()
    return found


@pytest.mark.contract("N-10")
@pytest.mark.contract("L-07")
def test_memory_of_a_busy_mirror_is_not_reaped_and_nothing_hangs(mirror, mirrored):
    """A device read has the context lock, and pins the address space: the reaper tries until it gives up."""
    with mirrored(expendable) as other:
        busy, idle = other.mirrors
        with (
            busy.events(buf=other.memory) as log,
            idle.events(buf=other.memory) as behind,
            busy.hold("fault.before_install", other.memory) as held,
            Task(busy.read, other.memory) as reading,
        ):
            held.wait()
            run_out_of_memory(other)
            refused = wait_for(ATTEMPTS, log, busy, REAPED, over=other.memory, refused=True)
            assert {event.blockable for event in refused} == {False}
            # A refusal is the end of the event: others come and go, and read.
            with idle.watch(other.memory):
                assert idle.read(other.memory).data.matches(1)
            assert held.state().state == "held"
            held.resume()
            assert reading.result().data.matches(1)
            log.expect(REAPED, over=other.memory, refused=True, times=ATTEMPTS)
            # The end of the call was the end of the address space; until then nobody was told that anything went.
            for each in (log, behind):
                (end,) = each.expect(RELEASE, tid=reading.tid)
                first = next(event for event in each.select(over=other.memory, refused=False) if event.told)
                assert first == end


@pytest.mark.contract("N-10")
@pytest.mark.contract("I-26")
def test_memory_of_a_mirror_that_is_not_busy_is_reaped(mirror, mirrored):
    """Another device pins the address space by a read, without its context lock."""
    with mirrored(expendable) as other:
        idle, pinning = other.mirrors
        idle.read(other.memory)
        with (
            idle.events(buf=other.memory) as log,
            pinning.hold("fault.before_check", other.memory) as held,
            Task(pinning.read, other.memory) as reading,
        ):
            held.wait()
            run_out_of_memory(other)
            (event,) = wait_for(1, log, idle, REAPED, over=other.memory)
            assert (event.blockable, event.refused, event.pages) == (False, False, len(other.memory))
            assert idle.snapshot(other.memory).where == ["none"] * len(other.memory)
            held.resume()
            # There is nothing to read any more, and nothing is faulted in.
            with pytest.raises(MirrorError):
                reading.result()


def half_on_the_device(memory):
    mirrors = expendable(memory)
    mirrors[0].migrate(memory[:8])
    mirrors[0].write(memory, 1)
    return mirrors


@pytest.mark.contract("Z-08")
@pytest.mark.contract("I-26")
@pytest.mark.contract("P-06")
def test_device_memory_is_reaped_and_no_device_fills_the_holes_that_leaves(mirror, mirrored):
    """An address space that was reaped is unstable: what is put there would be taken for what was there."""
    before = mirror.counters()
    with mirrored(half_on_the_device) as other:
        idle, pinning = other.mirrors
        with (
            idle.events(buf=other.memory) as log,
            pinning.hold("fault.before_check", other.memory[8:]) as held,
            Task(pinning.read, other.memory[8:]) as reading,
        ):
            held.wait()
            run_out_of_memory(other)
            (event,) = wait_for(1, log, idle, REAPED, over=other.memory)
            assert (event.blockable, event.refused, event.pages) == (False, False, len(other.memory))
            wait_for(8, log, idle, FREE)
            for page in range(len(other.memory)):
                with pytest.raises(MirrorError) as caught:
                    idle.peek(other.memory[page])
                assert caught.value.errno == errno.ENOENT
            migration = idle.migrate(other.memory)
            assert migration.moved == 0
            assert idle.snapshot(other.memory).where == ["none"] * len(other.memory)
            held.resume()
            with pytest.raises(MirrorError):
                reading.result()
    delta = mirror.counters() - before
    assert delta.dev_pages_in_use == 0 and delta.dev_pages_allocated == delta.dev_pages_freed


@pytest.mark.needs(capability="two_pass")
@pytest.mark.contract("N-11")
def test_a_refused_event_has_a_second_pass_for_every_first(mirror, mirrored):
    """Subscriptions with one beginning are asked in the order in which they came: the second mirror refuses last."""

    def begin(memory):
        mirrors = expendable(memory)
        mirrors[0].own("WATCH", kind=KINDS["two_pass"], start=0, length=2**47)
        return [*mirrors, Mirror(1)]

    with mirrored(begin) as other:
        asked, _, refusing = other.mirrors
        with (
            asked.events(buf=other.memory) as log,
            refusing.hold("fault.before_install", other.memory) as held,
            Task(refusing.read, other.memory) as reading,
        ):
            held.wait()
            run_out_of_memory(other)
            second = wait_for(ATTEMPTS, log, asked, FINISH, over=other.memory)
            first = log.expect(REAPED, over=other.memory, watch=1, times=ATTEMPTS)
            assert [event.interval_seq for event in first] == [event.interval_seq for event in second]
            assert all(one.seq < two.seq for one, two in zip(first, second, strict=True))
            assert held.state().state == "held"
            held.resume()
            assert reading.result().data.matches(1)
