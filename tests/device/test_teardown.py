# SPDX-License-Identifier: GPL-2.0
"""Section 12: the end in the middle: files are closed and processes die while a thread is held, at every point.

Random moments are the subject of torture/test_close.py and torture/test_kill.py.
"""

import errno
import mmap
import os
import select
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmirror.events import CLEAR, RELEASE
from dmirror.holds import POINTS
from dmirror.memory import PAGE, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import PATIENCE, Child
from dmirror.quiet import quieten
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

LONGEST = 60.0  # s that a hold can last: longer than anybody waits here
PAGES = 2048  # of a process that is charged: far more than its cgroup's counters may be behind by


def fill(mirror, memory):
    memory.fill(1)


def fill_on_device(mirror, memory):
    mirror.migrate_to_device(memory.fill(1))


# What passes the points that begin with a word: what goes before, and what it does.
CALLS = {
    "read": ("fault.", fill, lambda mirror, memory: mirror.read(memory)),
    "to_device": ("migrate.", fill, lambda mirror, memory: mirror.migrate_to_device(memory)),
    "to_system": ("migrate.", fill_on_device, lambda mirror, memory: mirror.migrate_to_system(memory)),
    "exclusive": ("exclusive.", fill, lambda mirror, memory: mirror.exclusive(memory)),
}
ACCESSES = {
    "load": ("cpu_fault.", fill_on_device, lambda mirror, memory: memory.load()),
    "madvise": ("invalidate", fill, lambda mirror, memory: memory.advise(mmap.MADV_DONTNEED)),
}


@dataclass(frozen=True)
class Operation:
    """One of them, to be held at one point."""

    point: str
    name: str
    prepare: Callable[[Mirror, Span], object]
    act: Callable[[Mirror, Span], object] | None

    def begin(self, memory):
        """For another process: a mirror of it, with everything ready."""
        opened = Mirror(0)
        self.prepare(opened, memory)
        return [opened]

    def remains(self, memory):
        """Whether the memory holds what the operation leaves there."""
        return memory.zero() if self.name == "madvise" else memory.matches(1)


def at_every_point(*operations):
    return pytest.mark.parametrize(
        "operation",
        [
            pytest.param(Operation(point, name, prepare, act), id=f"{point}-{name}")
            for each in operations
            for name, (prefix, prepare, act) in each.items()
            for point in POINTS
            if point.startswith(prefix)
        ],
    )


@contextmanager
def gives_everything_back(mirror):
    """Device pages that the block takes into use are free at its end."""
    before = mirror.counters().dev_pages_in_use
    yield
    assert mirror.counters().dev_pages_in_use == before


@pytest.fixture
def cgroup():
    """A control group of memory, empty; gone at the end."""
    folder = Path("/sys/fs/cgroup/dmirror-test")
    folder.mkdir()
    yield folder
    folder.rmdir()


def charged_pages(cgroup):
    return int((cgroup / "memory.current").read_text()) // PAGE


def over(mirror, memory):
    """Whether the address space of a mirror is gone for all purposes."""
    assert mirror.counters().entries_present == 0
    with pytest.raises(MirrorError) as caught:
        mirror.read(memory)
    return caught.value.errno == errno.EFAULT


@pytest.mark.contract("L-06")
def test_every_point_is_passed_by_some_operation():
    prefixes = tuple(prefix for prefix, *_ in (CALLS | ACCESSES).values())
    assert [point for point in POINTS if not point.startswith(prefixes)] == []


@pytest.mark.contract("L-04")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["told-already", "told-next"])
def test_a_mirror_is_closed_while_its_address_space_goes(mirror, mirrored, order):
    with mirrored(lambda memory: [Mirror(0), Mirror(0)]) as other:
        closing, staying = (other.mirrors[number] for number in order)
        with staying.events() as log, staying.hold("invalidate", events=(RELEASE,)) as held:
            other.child.line.send()
            held.wait()
            with Task(closing.close) as closed:
                closed.wait_asleep()
                held.resume()
            other.child.wait()
        log.expect(RELEASE)
        assert over(staying, other.memory)


@pytest.mark.contract("L-04")
def test_an_address_space_goes_while_a_mirror_of_it_is_closed(mirror, mirrored):
    def act(*mirrors_and_memory):
        mirrors_and_memory[-1].advise(mmap.MADV_DONTNEED)

    with mirrored(lambda memory: [Mirror(0), Mirror(0)], act) as other:
        closing, staying = other.mirrors
        with staying.events() as log, staying.hold("invalidate", other.memory, events=(CLEAR,)) as held:
            other.child.line.send()
            held.wait()
            with Task(closing.close) as closed:
                closed.wait_asleep()
                other.child.kill()
        log.expect(RELEASE)
        assert over(staying, other.memory)


@pytest.mark.contract("L-04")
@pytest.mark.contract("N-09")
@pytest.mark.parametrize(
    ("event", "told"),
    [
        # It begins to end before the address space does, during another event; or while that goes.
        pytest.param(CLEAR, [CLEAR], id="before"),
        pytest.param(RELEASE, [RELEASE], id="during"),
    ],
)
def test_a_subscription_ends_with_its_address_space_and_is_told_nothing_more(mirror, mirrored, event, told):
    """The mirror is held, which is told first; what the watch is told is in the log."""

    def act(opened, memory):
        if event == CLEAR:
            memory.advise(mmap.MADV_DONTNEED)

    with mirrored(None, act) as other, ExitStack() as watching:
        watch = watching.enter_context(other.mirror.watch(other.memory))
        with (
            other.mirror.events() as log,
            other.mirror.hold("invalidate", other.memory, events=(event,)) as held,
        ):
            other.child.line.send()
            held.wait()
            with Task(watching.close) as ending:
                ending.wait_asleep()
                if event == CLEAR:
                    other.child.kill()
                held.resume()
            other.child.wait()
        log.expect(RELEASE, watch=0)
        assert [each.type for each in log.select(watch=watch.id)] == told


@pytest.mark.contract("L-05")
@at_every_point(CALLS, ACCESSES)
@pytest.mark.parametrize("which", ["both", "duplicate"])
def test_who_is_held_goes_on_when_the_file_is_closed(mirror, operation, which):
    with gives_everything_back(mirror), Region.anonymous(16) as memory, Mirror(0) as opened:
        operation.prepare(opened, memory)
        duplicate = os.dup(opened.fd)
        with opened.hold(operation.point, memory) as held, Task(operation.act, opened, memory) as acting:
            held.wait()
            os.close(duplicate)
            if which == "both":
                opened.close()
            acting.result()
            assert held.state().state == "closed"
        assert operation.remains(memory)


@pytest.mark.contract("L-05")
@at_every_point(CALLS, ACCESSES)
def test_who_is_held_goes_on_when_the_descriptor_of_the_hold_is_closed(mirror, region, operation):
    operation.prepare(mirror, region)
    quieten()
    point, limit = POINTS[operation.point], round(LONGEST * 1000)
    hold = mirror.own("HOLD", point=point, nth=1, limit=limit, start=region.addr, end=region.end).fd
    with Task(operation.act, mirror, region) as acting:
        assert select.select([hold], [], [], PATIENCE)[0]
        acting.wait_asleep()
        os.close(hold)
        acting.result()
    assert operation.remains(region)


@pytest.mark.contract("L-05")
@at_every_point(CALLS, ACCESSES)
def test_who_is_held_goes_on_when_the_process_that_holds_it_dies(mirror, mirrored, operation):
    def act(opened, memory):
        operation.act(opened, memory)
        return operation.remains(memory)

    def hold(line):
        with other.mirror.hold(operation.point, other.memory, limit=LONGEST) as held:
            line.send()
            line.send(held.wait().tid)
            line.receive()

    with mirrored(operation.begin, act, keep=True) as other, Child(hold) as holder:
        holder.line.receive()
        other.child.line.send()
        assert holder.line.receive() == other.child.pid
        holder.kill()
        assert other.child.result() is True


@pytest.mark.contract("L-05")
@pytest.mark.contract("L-06")
@at_every_point(CALLS)
def test_a_caller_killed_in_a_call_leaves_the_memory_as_it_was(mirror, mirrored, operation):
    """The memory is that of another process, which goes on."""

    def call(line):
        line.receive()
        operation.act(other.mirror, other.memory)

    with mirrored(operation.begin, lambda _, memory: operation.remains(memory)) as other, Child(call) as caller:
        with other.mirror.hold(operation.point, other.memory) as held:
            caller.line.send()
            assert held.wait().tid == caller.pid
            caller.kill()
            assert held.state().state == "killed"
        assert other.mirror.read(other.memory).data.matches(1)
        other.child.line.send()
        assert other.child.result() is True


@pytest.mark.needs(config="CONFIG_MEMCG")
@pytest.mark.contract("L-06")
@at_every_point(CALLS, ACCESSES)
def test_a_process_killed_at_a_point_gives_memory_and_charges_back(mirror, mirrored, cgroup, operation):
    def begin(memory):
        (cgroup / "cgroup.procs").write_text("0")
        return operation.begin(memory)

    with gives_everything_back(mirror), mirrored(begin, operation.act, npages=PAGES, keep=True) as other:
        assert charged_pages(cgroup) > PAGES
        with other.mirror.hold(operation.point, other.memory) as held:
            other.child.line.send()
            assert held.wait().tid == other.child.pid
            other.child.kill()
            assert held.state().state == "killed"
        assert over(other.mirror, other.memory)
    assert charged_pages(cgroup) < PAGES // 8


@pytest.mark.contract("L-06")
@pytest.mark.contract("L-07")
@at_every_point(CALLS, {"procfs": ("cpu_fault.", fill_on_device, None)})
def test_who_outlives_a_process_takes_its_memory_down(mirror, mirrored, operation):
    """What is held has the last reference to the address space of a process that was killed."""

    def look(_, memory):
        with Path(f"/proc/{other.child.pid}/mem").open("rb", buffering=0) as file:
            os.pread(file.fileno(), 8, memory.addr)

    with gives_everything_back(mirror), mirrored(operation.begin) as other:
        with (
            other.mirror.events(memory=other.memory) as log,
            other.mirror.hold(operation.point, other.memory) as held,
            Task(operation.act or look, other.mirror, other.memory) as acting,
        ):
            held.wait()
            other.child.kill()
            log.expect(RELEASE, times=0)
            held.resume()
            acting.result()
            log.expect(RELEASE, tid=acting.tid)
        assert over(other.mirror, other.memory)
