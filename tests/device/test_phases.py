# SPDX-License-Identifier: GPL-2.0
"""Section 3 between its phases: what others see and do while a migration is held."""

import errno
import mmap
import os
import time
from pathlib import Path

import pytest

from dmirror.memory import HUGE_PAGES, PAGE, Region
from dmirror.mirror import MirrorError
from dmirror.process import PATIENCE, Child
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")


BUSY = 0.1
"""Seconds of processor time that this thread uses while another one ought to sleep."""


def in_a_fault(pid, tid):
    """Whether a thread sleeps in a page fault: outside a system call, by proc_pid_syscall(5)."""
    return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().startswith("-1 ")


def wait_in_a_fault(pid):
    """Wait until another process sleeps in a page fault."""
    until = time.monotonic() + PATIENCE
    while not in_a_fault(pid, pid):
        assert time.monotonic() < until, f"process {pid} did not fall asleep in a page fault"
        os.sched_yield()


def cpu_time(task):
    """Seconds of processor time that a thread of ours has used (MAKE_THREAD_CPUCLOCK of linux/posix-timers_types.h)."""
    return time.clock_gettime(~task.tid << 3 | 6)


# -- what a CPU can do ------------------------------------------------------------------------------------------


@pytest.mark.contract("M-02")
@pytest.mark.parametrize("access", ["load", "store"])
def test_no_thread_reaches_a_page_from_setup_to_finalize(mirror, block, access):
    page = block[3]
    block.fill(1)
    with (
        mirror.hold("migrate.after_setup", block) as begin,
        mirror.hold("migrate.before_finalize", block) as end,
        Task(mirror.migrate, block) as migration,
    ):
        begin.wait()
        with Task(page.load if access == "load" else lambda: page.store(99)) as cpu:
            cpu.wait_asleep()
            begin.resume()
            end.wait()
            assert mirror.peek(block).matches(1)
            cpu.wait_asleep()
            end.resume()
            old = cpu.result()
        assert migration.result().moved == len(block)
    if access == "store":
        assert page.load() == 99
        page.fill(1)
    else:
        assert old == page.load()
    assert block.matches(1)


@pytest.mark.contract("M-02")
def test_no_other_process_reaches_a_page_from_setup_to_finalize(mirror, block):
    block.fill(1)

    def child(line):
        line.send()
        line.receive()
        return block.matches(1)

    with Child(child) as other:
        other.line.receive()
        with (
            mirror.hold("migrate.after_setup", block) as begin,
            mirror.hold("migrate.before_finalize", block) as end,
            Task(mirror.migrate, block) as migration,
        ):
            begin.wait()
            other.line.send()
            wait_in_a_fault(other.pid)
            begin.resume()
            end.wait()
            wait_in_a_fault(other.pid)
            end.resume()
            assert migration.result().moved == len(block)
        assert other.result() is True
    assert block.matches(1)


@pytest.mark.contract("M-16")
@pytest.mark.parametrize(
    ("size", "first", "point"),
    [
        pytest.param(1, "filled", "migrate.after_setup", id="page-under-way"),
        pytest.param(HUGE_PAGES, "filled", "migrate.after_setup", id="huge-page-under-way"),
        pytest.param(
            *(1, "nothing", "migrate.after_pages"),
            id="locked-device-page",
            marks=pytest.mark.needs(kernel=">=7.2"),
        ),
    ],
)
def test_a_cpu_fault_on_a_locked_page_sleeps(mirror, size, first, point):
    with Region.anonymous(1) if size == 1 else Region.huge(1) as memory:
        if first == "filled":
            memory.fill(1)
        with mirror.hold(point, memory) as held, Task(mirror.migrate, memory) as migration:
            held.wait()
            with Task(memory.load) as cpu:
                while not in_a_fault("self", cpu.tid) and cpu_time(cpu) < 0.2:
                    os.sched_yield()
                before, until = cpu_time(cpu), time.thread_time() + BUSY
                while time.thread_time() < until:
                    pass
                used = cpu_time(cpu) - before
                held.resume()
            assert migration.result().moved == size
        assert used < BUSY / 2
        assert not memory.load() if first == "nothing" else memory.matches(1)


# -- what stays mapped, what is discarded -----------------------------------------------------------------------


@pytest.mark.contract("M-06")
def test_pages_that_are_there_stay_mapped_while_their_neighbours_move(mirror, block):
    mirror.migrate_to_device(block.fill(1))
    block[:8].touch()
    there = block[8:]
    before, pages = mirror.counters(), mirror.page_info(there)
    with mirror.hold("migrate.after_setup", block) as held, Task(mirror.migrate, block) as migration:
        held.wait()
        assert mirror.peek(there).matches(1)
        held.resume()
        moved = migration.result()
    assert [words.setup.migrate for words in moved.words] == [True] * 8 + [False] * 8
    assert {words.setup for words in moved.words[8:]} == {0}
    delta = mirror.counters() - before
    assert (delta.dev_pages_allocated, delta.dev_cpu_faults, delta.entries_dropped) == (8, 0, 0)
    assert mirror.page_info(there) == pages
    assert mirror.peek(block).matches(1)


@pytest.mark.contract("M-20")
@pytest.mark.parametrize("point", ["after_setup", "after_copy", "after_pages", "before_finalize"])
@pytest.mark.parametrize("what", ["pages", "holes", "huge-page", "huge-hole", "part-of-huge-page"])
def test_what_is_discarded_meanwhile_is_gone_for_cpu_and_device(mirror, what, point):
    before = mirror.counters()
    with Region.huge(1) if "huge" in what else Region.anonymous(16, align=16 * PAGE) as memory:
        part = memory[100:200] if what == "part-of-huge-page" else memory
        if "hole" not in what:
            memory.fill(1)
        with mirror.hold(f"migrate.{point}", memory) as held, Task(mirror.migrate, memory) as migration:
            held.wait()
            part.advise(mmap.MADV_DONTNEED)
            held.resume()
            assert migration.result().moved == len(memory)
        assert {page.mapped for page in mirror.page_info(part)} == {0}
        assert mirror.read(part).data.zero()
        assert {part.load(page) for page in range(len(part))} == {0}
        if part is not memory:
            assert memory[:100].matches(1) and memory[200:].matches(1)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed == len(memory)


# -- two at once ------------------------------------------------------------------------------------------------


@pytest.mark.contract("M-22")
@pytest.mark.parametrize("overlap", [False, True], ids=["one-after-the-other", "overlapping"])
@pytest.mark.parametrize("first", [0, 1], ids=["first-goes-first", "second-goes-first"])
@pytest.mark.parametrize("what", ["page", "hole", "zero-page", "huge-page", "huge-hole"])
def test_of_two_devices_that_migrate_the_same_memory_one_wins(mirror, mirror2, what, first, overlap):
    with Region.huge(1) if "huge" in what else Region.anonymous(1) as memory:
        if what.endswith("page"):
            memory.touch() if what == "zero-page" else memory.fill(1)
        before = [mirror.counters(), mirror2.counters()]
        with (
            mirror.hold("migrate.after_setup", memory) as held1,
            mirror2.hold("migrate.after_setup", memory) as held2,
            (mirror, mirror2)[first].hold("migrate.after_pages", memory) as inserted,
            Task(mirror.migrate, memory) as task1,
        ):
            held1.wait()
            with Task(mirror2.migrate, memory) as task2:
                held2.wait()
                holds, tasks = (held1, held2), (task1, task2)
                holds[first].resume()
                inserted.wait()
                if not overlap:
                    inserted.resume()
                    tasks[first].result()
                holds[1 - first].resume()
                tasks[1 - first].result()
                inserted.resume()
                done = [task.result() for task in tasks]
        # A page that the first one holds is no page to the second; of a hole, who comes first has it.
        winner = first if what in ("hole", "zero-page", "huge-hole") else 0
        loser = 1 - winner
        assert (done[winner].moved, done[loser].moved) == (len(memory), 0)
        assert not any(words.pages.migrate or words.final.migrate for words in done[loser].words)
        assert done[loser].words[0].setup.migrate == (what in ("hole", "zero-page", "huge-hole"))
        delta = (mirror2 if loser else mirror).counters() - before[loser]
        assert delta.dev_pages_allocated == delta.dev_pages_freed
        assert set((mirror, mirror2)[winner].snapshot(memory).where) == {"local"}
        with pytest.raises(MirrorError) as caught:
            (mirror, mirror2)[loser].peek(memory)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        if "hole" in what or what == "zero-page":
            assert {memory.load(page) for page in range(len(memory))} == {0}
        else:
            assert memory.matches(1)
