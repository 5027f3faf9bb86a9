# SPDX-License-Identifier: GPL-2.0
"""Hold points: who is held where, what lets him go, and that nothing stays held for ever.

Who is held in a migration has the mmap lock, for which this interpreter would wait with its next allocation. So what is
migrated is the memory of another process, which stands still.
"""

import fcntl
import mmap
import os
import select
import signal
import subprocess

import pytest

from dmirror.events import (
    CLEAR,
    CPU_BEGIN,
    CPU_COPIED,
    CPU_END,
    CPU_MAPPED,
    CPU_PAGES,
    CPU_SETUP,
    MADE_EXCLUSIVE,
    MIGRATE,
    MIGRATE_BEGIN,
    MIGRATE_COPIED,
    MIGRATE_MAPPED,
    MIGRATE_PAGES,
    MIGRATE_SETUP,
    PROTECTION_VMA,
)
from dmirror.holds import POINTS, HoldOver
from dmirror.memory import READ
from dmirror.mirror import Mirror
from dmirror.process import PATIENCE, Child
from dmirror.threads import Task
from dmirror.uapi import ffi, lib

pytestmark = pytest.mark.needs(capability="steer")

LAST_RECORD = {
    "fault.before_check": None,
    "fault.before_install": None,
    "migrate.begin": MIGRATE_BEGIN,
    "migrate.after_setup": MIGRATE_SETUP,
    "migrate.after_copy": MIGRATE_COPIED,
    "migrate.after_pages": MIGRATE_PAGES,
    "migrate.before_finalize": MIGRATE_MAPPED,
    "cpu_fault.begin": CPU_BEGIN,
    "cpu_fault.after_setup": CPU_SETUP,
    "cpu_fault.after_copy": CPU_COPIED,
    "cpu_fault.after_pages": CPU_PAGES,
    "cpu_fault.before_finalize": CPU_MAPPED,
    "cpu_fault.end": CPU_END,
    "invalidate": MIGRATE_BEGIN,
    "exclusive.after": MADE_EXCLUSIVE,
}
"""What the log ends with where a thread is held at a point."""

# Not in a CPU fault, which is no call; nor where the lock is held for which the opener's next copy-on-write waits.
CLOSABLE = [point for point in POINTS if not point.startswith("cpu_fault") and point != "fault.before_install"]


def poll(fd, seconds=0):
    """What it says, or nothing within that time."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return [event for _, event in waiting.poll(seconds * 1000)]


def way_to(point, one):
    """What passes the point, and with which range."""
    family = point.partition(".")[0]
    if family == "cpu_fault":
        one.mirror.migrate_to_device(one.memory)
        return (one.load, 3), one.memory[3]
    if family == "exclusive":
        return (one.mirror.exclusive, one.memory[2]), one.memory[2]
    if family == "fault":
        return (one.mirror.read, one.memory), one.memory
    return (one.mirror.migrate_to_device, one.memory), one.memory


@pytest.mark.parametrize("point", POINTS)
def test_a_thread_is_held_at_every_point_as_far_as_its_name_says(still, point):
    one = still()
    passes, span = way_to(point, one)
    with one.mirror.events() as log, one.mirror.hold(point) as held, Task(*passes) as task:
        state = held.wait()
        assert (state.tid, state.passages, state.start, state.end) == (task.tid, 1, span.addr, span.end)
        assert not task.done
        log.read()
        assert (log.seen[-1].type if log.seen else None) == LAST_RECORD[point]
        held.resume()
        task.result()
        assert held.state().state == "resumed"
    assert one.mirror.read(one.memory).data.matches(1)


@pytest.mark.parametrize(("point", "locked"), [("fault.before_check", False), ("fault.before_install", True)])
def test_the_context_lock_is_held_from_the_check_to_the_installation(still, point, locked):
    """COUNTERS takes it."""
    one = still()
    with one.mirror.hold(point) as held, Task(one.mirror.read, one.memory):
        held.wait()
        with Task(one.mirror.counters) as counting:
            if locked:
                counting.wait_asleep()
            else:
                counting.result()
            held.resume()


class TestWho:
    """Which passage is held."""

    def test_the_nth(self, still):
        one = still()
        with one.mirror.hold("migrate.after_setup", nth=3) as held:
            one.mirror.migrate_to_device(one.memory[0])
            one.mirror.migrate_to_device(one.memory[1])
            assert (held.state().state, held.state().passages) == ("armed", 2)
            with Task(one.mirror.migrate_to_device, one.memory[2]):
                state = held.wait()
                assert (state.passages, state.start) == (3, one.memory[2].addr)
                one.mirror.migrate_to_device(one.memory[3])
                assert held.state().passages == 4
                held.resume()
            one.mirror.migrate_to_device(one.memory[4])
            assert held.state().passages == 4

    def test_only_a_range_that_overlaps(self, still):
        one = still()
        with one.mirror.hold("migrate.after_setup", one.memory[4:8]) as held:
            one.mirror.migrate_to_device(one.memory[:4])
            one.mirror.migrate_to_device(one.memory[8:])
            assert (held.state().state, held.state().passages) == ("armed", 0)
            with Task(one.mirror.migrate_to_device, one.memory[7]):
                assert held.wait().passages == 1
                held.resume()

    def test_only_the_events_asked_for(self, still):
        def act(mirror, memory):
            memory.protect(READ)
            memory.advise(mmap.MADV_DONTNEED)

        one = still(act)
        with one.mirror.events() as log:
            with one.mirror.hold("invalidate", one.memory, events=(CLEAR,)) as held:
                one.mirror.migrate_to_device(one.memory)
                one.start()
                state = held.wait()
                assert (state.tid, state.passages) == (one.child.pid, 1)
                log.expect(PROTECTION_VMA, one.memory)
                log.expect(CLEAR, one.memory, times=0)
            one.stopped()
            log.expect(CLEAR, one.memory)

    def test_only_the_watch_asked_for(self, still):
        one = still()
        with (
            one.mirror.events() as log,
            one.mirror.watch(one.memory) as first,
            one.mirror.watch(one.memory) as second,
            one.mirror.hold("invalidate", watch=second) as held,
            Task(one.mirror.migrate_to_device, one.memory),
        ):
            held.wait()
            log.expect(MIGRATE, one.memory, watch=second.id)
            held.resume()
            log.wait_for(MIGRATE, one.memory, watch=first.id)
            log.wait_for(MIGRATE, one.memory, watch=0)

    def test_only_the_context_asked_for(self, still):
        one = still()
        with one.mirror.hold("migrate.begin") as held:
            one.mirror2.migrate_to_device(one.memory)
            assert held.state().passages == 0

    def test_a_cpu_fault_belongs_to_who_migrated_the_page(self, mirror, region):
        with Mirror(0) as other, other.hold("cpu_fault.begin") as held:
            mirror.migrate_to_device(region.fill(1))
            region.touch()
            assert held.state().passages == 0

    def test_several_at_once_at_one_point(self, still):
        one = still()
        with (
            one.mirror.hold("migrate.after_setup", nth=1) as first,
            one.mirror.hold("migrate.after_setup", nth=2) as second,
            Task(one.mirror.migrate_to_device, one.memory[:4]) as task,
        ):
            first.wait()
            with Task(one.mirror.migrate_to_device, one.memory[4:]) as another:
                assert second.wait().tid == another.tid
                assert first.state().tid == task.tid
                second.resume()
                another.result()
                assert not task.done
                first.resume()
        assert one.mirror.snapshot(one.memory).picture() == "D" * 16

    def test_one_thread_at_one_point_after_the_other(self, still):
        one = still()
        with (
            one.mirror.hold("migrate.after_setup") as first,
            one.mirror.hold("migrate.after_pages") as second,
            Task(one.mirror.migrate_to_device, one.memory) as task,
        ):
            first.wait()
            assert second.state().state == "armed"
            first.resume()
            assert second.wait().tid == task.tid
            assert first.state().state == "resumed"
            second.resume()


class TestEnd:
    """What lets a held thread go."""

    def test_its_limit(self, still):
        one = still()
        with (
            one.mirror.hold("migrate.after_setup", limit=0.05) as held,
            Task(one.mirror.migrate_to_device, one.memory) as task,
        ):
            assert task.result().data.matches(1)
            assert (held.state().state, held.state().tid) == ("expired", task.tid)

    def test_a_limit_that_nobody_noticed_is_an_error(self, still):
        one = still()
        with (
            pytest.raises(HoldOver, match="expired at migrate"),
            one.mirror.hold("migrate.after_setup", limit=0.05),
        ):
            one.mirror.migrate_to_device(one.memory)

    def test_a_resume_before_anybody_came(self, still):
        one = still()
        with one.mirror.hold("migrate.after_setup") as held:
            held.resume()
            assert held.state().state == "unused"
            one.mirror.migrate_to_device(one.memory)
            assert (held.state().state, held.state().passages) == ("unused", 0)
            with pytest.raises(HoldOver):
                held.wait()

    def test_a_second_resume_does_nothing(self, still):
        one = still()
        with one.mirror.hold("migrate.after_setup") as held, Task(one.mirror.migrate_to_device, one.memory) as task:
            held.wait()
            held.resume()
            held.resume()
            task.result()
            assert held.state().state == "resumed"

    def test_the_close_of_its_descriptor(self, still):
        one = still()
        fd = one.mirror.own("HOLD", point=lib.DMIRROR_HOLD_MIGRATE_SETUP, nth=1).fd
        with os.fdopen(fd, "rb", buffering=0) as armed, Task(one.mirror.migrate_to_device, one.memory) as task:
            assert poll(fd, PATIENCE) == [select.POLLIN]
            armed.close()
            assert task.result().data.matches(1)

    def test_the_death_of_the_process_that_armed_it(self, mirror, region):
        def holder(line):
            with mirror.hold("fault.before_check", region) as held:
                line.send()
                line.send(held.wait().tid)
                signal.pause()

        region.fill(1)
        with Child(holder) as child:
            child.line.receive()
            with Task(mirror.read, region) as task:
                assert child.line.receive() == task.tid
                assert not task.done
                child.kill()
                assert task.result().data.matches(1)

    @pytest.mark.contract("L-06")
    @pytest.mark.parametrize("point", POINTS)
    def test_the_death_of_the_held(self, still, point):
        family = point.partition(".")[0]

        def act(mirror, memory):
            if family == "cpu_fault":
                memory.touch()
            elif family == "exclusive":
                mirror.exclusive(memory)
            elif family == "fault":
                mirror.read(memory)
            else:
                mirror.migrate_to_device(memory)

        one = still(act)
        if family == "cpu_fault":
            one.mirror.migrate_to_device(one.memory)
        with one.mirror.hold(point, one.memory) as held:
            one.start()
            assert held.wait().tid == one.child.pid
            one.child.kill()
            assert (held.state().state, held.state().tid) == ("killed", one.child.pid)

    @pytest.mark.parametrize("point", CLOSABLE)
    def test_the_openers_close(self, still, point):
        one = still(lambda mirror, memory: mirror.close())
        passes, _ = way_to(point, one)
        with one.mirror.hold(point) as held, Task(*passes) as task:
            held.wait()
            one.run()
            assert held.state().state == "closed"
            task.result()

    def test_the_openers_close_while_its_own_call_is_held(self, mirror, region):
        """The call keeps the file, which therefore is not released, but the close does not wait for it."""
        with (
            Mirror(0) as opened,
            opened.hold("fault.before_check", region) as held,
            Task(opened.read, region.fill(1)) as task,
        ):
            held.wait()
            opened.close()
            assert task.result().data.matches(1)
            assert held.state().state == "closed"

    def test_the_openers_close_of_a_duplicate(self, mirror, region):
        duplicate = os.dup(mirror.fd)
        with mirror.hold("fault.before_check", region) as held:
            os.close(duplicate)
            assert held.state().state == "closed"
            mirror.read(region)

    def test_the_openers_death(self, still):
        one = still()
        with one.mirror.hold("migrate.after_setup") as held, Task(one.mirror.migrate_to_device, one.memory) as task:
            held.wait()
            one.child.kill()
            assert held.state().state == "closed"
            task.result()

    def test_not_the_close_by_a_child_that_inherited_it(self, mirror, region):
        region.fill(1)
        with mirror.hold("fault.before_check", region) as held, Task(mirror.read, region) as task:
            held.wait()
            with Child(lambda line: mirror.close()) as child:
                child.result()
            assert held.state().state == "held"
            assert not task.done
            held.resume()


def test_poll_tells_armed_held_and_over(still):
    one = still()
    fd = one.mirror.own("HOLD", point=lib.DMIRROR_HOLD_MIGRATE_SETUP, nth=1).fd
    try:
        assert poll(fd) == []
        with Task(one.mirror.migrate_to_device, one.memory) as task:
            assert poll(fd, PATIENCE) == [select.POLLIN]
            assert lib.dm_ioctl(fd, lib.DMIRROR_HOLD_RESUME, ffi.NULL) == 0
            task.result()
        assert poll(fd) == [select.POLLHUP]
    finally:
        os.close(fd)


def test_its_descriptor_is_closed_by_exec(mirror):
    fd = mirror.own("HOLD", nth=1).fd
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(fd)


def test_its_descriptor_outlives_the_mirror(mirror):
    with Mirror(0) as opened, opened.hold("fault.before_check") as held:
        opened.close()
        assert held.state().state == "closed"
        held.resume()


@pytest.mark.contract("L-09")
def test_the_module_cannot_go_while_a_hold_is_open(mirror, driver):
    fd = mirror.own("HOLD", nth=1).fd
    mirror.close()
    result = subprocess.run(["rmmod", driver.path.stem], check=False, capture_output=True, text=True)
    os.close(fd)
    assert result.returncode != 0
    assert "in use" in result.stderr.lower()
    driver.unload()
    driver.load()
