# SPDX-License-Identifier: GPL-2.0
"""Section 6: who is charged for memory that is on a device, and what a limit does to it.

The calls on a mirror are made from outside of the group: what counts is whose address space it is.
"""

import mmap
import os
import signal
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from facilities.cgroups import Cgroup, leave
from facilities.disks import swap
from facilities.machine import status

from dmirror.memory import HUGE_PAGES, PAGE, Region, Span
from dmirror.mirror import Mirror
from dmirror.process import Child

pytestmark = pytest.mark.needs(capability="steer")

PAGES = 2 * HUGE_PAGES
# Pages that a charge may be off: 64 in stock on each processor, page tables, what else the process does.
SLACK = 64 * os.cpu_count() + 128


class Member:
    """A process of a group: `mirror` is of it, `memory` its memory, `do(verb, …)` has it do something there."""

    def __init__(self, child, mirror, memory):
        self.child, self.mirror, self.memory = child, mirror, memory

    def do(self, verb, *arguments):
        self.child.line.send((verb, *arguments))
        return self.child.line.receive()

    def rss(self):
        return status("RssAnon", self.child.pid)

    def picture(self):
        """Where the pages are, and how many are there."""
        picture = self.mirror.snapshot(self.memory).picture()
        return {place: picture.count(place) for place in sorted(set(picture))}


def obey(memory, verb, *arguments):
    if verb == "unmap":
        memory.unmap()
    elif verb == "leave":
        leave()
    elif verb == "use":
        Region.anonymous(*arguments).fill(3)
    elif verb == "zero":
        return not any(memory.load(page) for page in range(len(memory)))
    else:
        return getattr(memory, verb)(*arguments)
    return None


@contextmanager
def member(group, make, *, seed=1, device=0):
    """A process that joined the group and then filled what it made with the seed, or nothing if that is None."""
    ours, theirs = socket.socketpair()

    def run(line):
        group.join()
        memory = make()
        if seed is not None:
            memory.fill(seed)
        own = Mirror(device)
        socket.send_fds(theirs, [f"{memory.addr} {len(memory)}".encode()], [own.fd])
        own.close()
        while True:
            line.send(obey(memory, *line.receive()))

    with ours, theirs, Child(run) as child:
        message, fds, _, _ = socket.recv_fds(ours, 64, 1)
        with Mirror.received(fds[0], device) as mirror:
            yield Member(child, mirror, Span(*map(int, message.split())))


class Groups:
    """A group `outer` with one below it, `inner`: what is left of a group that was removed is charged to its parent."""

    def __init__(self, outer, inner):
        self.outer, self.inner = outer, inner

    def charged(self):
        """Pages charged to the inner group."""
        return self.inner.charged() // PAGE

    def anon(self):
        """Pages of anonymous memory, by the statistics of the inner group; they are off by as much."""
        return self.inner.table("memory.stat")["anon"] // PAGE

    def expect(self, pages):
        """The charge of the group, and the anonymous memory of its statistics, are these, to the slack."""
        assert abs(self.charged() - pages) <= SLACK
        assert abs(self.anon() - pages) <= SLACK

    def end(self):
        """Nothing is charged to the group; it goes, and leaves nothing to its parent.

        Whether it goes for good depends on what processors have in stock of it, and says nothing of pages since 7.3,
        which gives them to the parent.
        """
        self.expect(0)
        self.inner.remove()
        assert self.outer.charged() // PAGE <= SLACK


@pytest.fixture
def groups(mirror):
    """Removed at the end; the inner one may be removed by the test."""
    with Cgroup("dmirror-outer") as outer:
        outer.set("cgroup.subtree_control", "+memory")
        inner = Cgroup("dmirror-outer/inner")
        inner.path.mkdir()
        try:
            yield Groups(outer, inner)
        finally:
            if inner.path.exists():
                inner.remove()


MAKES = {
    "small": lambda: Region.anonymous(PAGES, align=HUGE_PAGES * PAGE),
    "huge": lambda: Region.huge(PAGES // HUGE_PAGES),
}
MEMORY = pytest.mark.parametrize("kind", MAKES)


def bring_back(one, how):
    if how == "touch":
        one.do("touch")
    elif how == "system":
        assert one.mirror.migrate_to_system(one.memory) == PAGES
    elif how == "release":
        one.mirror.release()
    elif how == "remote":
        with open(f"/proc/{one.child.pid}/mem", "rb", buffering=0) as file:
            for page in range(PAGES):
                os.pread(file.fileno(), 8, one.memory[page].addr)


@pytest.mark.contract("A-02")
@pytest.mark.contract("A-01")
@MEMORY
@pytest.mark.parametrize("back", ["touch", "system", "release", "remote"])
def test_a_migration_moves_the_charge_with_the_page(groups, kind, back):
    with member(groups.inner, MAKES[kind]) as one:
        filled, rss = groups.charged(), one.rss()
        assert filled >= PAGES
        for _ in range(2):
            assert one.mirror.migrate(one.memory).moved == PAGES
            assert abs(groups.charged() - filled) <= SLACK and abs(groups.anon() - PAGES) <= SLACK
            assert abs(one.rss() - rss) <= SLACK
            bring_back(one, back)
            assert one.picture() == {"r": PAGES}
            assert abs(groups.charged() - filled) <= SLACK and abs(groups.anon() - PAGES) <= SLACK
            assert abs(one.rss() - rss) <= SLACK
        assert one.do("matches", 1) is True
        one.do("advise", mmap.MADV_DONTNEED)
        assert abs(filled - PAGES - groups.charged()) <= SLACK
        assert abs(rss - PAGES - one.rss()) <= SLACK


@pytest.mark.contract("A-02")
@pytest.mark.contract("A-04")
@pytest.mark.parametrize("back", ["system", "release", "unmap", "kill"])
def test_a_migration_to_a_coherent_device_moves_the_charge_with_the_page(groups, coherent, back):
    with member(groups.inner, MAKES["small"], device=coherent.device) as one:
        filled, rss = groups.charged(), one.rss()
        assert one.mirror.migrate(one.memory).moved == PAGES
        assert abs(groups.charged() - filled) <= SLACK and abs(one.rss() - rss) <= SLACK
        if back in ("system", "release"):
            bring_back(one, back)
            assert one.picture() == {"r": PAGES}
            assert abs(groups.charged() - filled) <= SLACK and abs(one.rss() - rss) <= SLACK
            assert one.do("matches", 1) is True
        elif back == "unmap":
            one.do("unmap")
            groups.expect(0)
        if back != "unmap":
            one.child.kill()
    assert coherent.counters().dev_pages_in_use == 0
    groups.end()


@pytest.mark.contract("A-09")
@pytest.mark.contract("A-02")
@MEMORY
def test_reclaim_of_a_group_takes_its_system_memory_and_not_that_of_a_device(groups, kind):
    with swap(), member(groups.inner, MAKES[kind]) as one:
        part, rest = one.memory[:HUGE_PAGES], one.memory[HUGE_PAGES:]
        assert one.mirror.migrate(part).moved == HUGE_PAGES
        counted, places = one.mirror.counters(), one.mirror.page_info(part)
        with suppress(OSError):  # EAGAIN: it could not reclaim as much
            groups.inner.set("memory.reclaim", PAGES * PAGE)
        assert one.mirror.snapshot(rest).picture().count("r") < HUGE_PAGES
        assert one.mirror.page_info(part) == places
        assert (one.mirror.counters() - counted).dev_pages_in_use == 0
        assert groups.charged() >= HUGE_PAGES
        assert one.do("matches", 1) is True


@pytest.mark.contract("A-03")
@MEMORY
@pytest.mark.parametrize("back", ["touch", "system"])
def test_a_limit_that_is_reached_keeps_nobody_from_migrating_either_way(groups, kind, back):
    with member(groups.inner, MAKES[kind]) as one:
        groups.inner.set("memory.max", groups.inner.charged() + SLACK * PAGE)
        for _ in range(2):
            assert one.mirror.migrate(one.memory).moved == PAGES
            bring_back(one, back)
            assert one.picture() == {"r": PAGES}
        events = groups.inner.table("memory.events")
        assert (events["oom"], events["oom_kill"], events["max"]) == (0, 0, 0)
        assert one.do("matches", 1) is True


@pytest.mark.contract("A-04")
@pytest.mark.contract("P-06")
@pytest.mark.parametrize(
    ("kind", "end"),
    [(kind, end) for kind in MAKES for end in ("munmap", "dontneed", "kill", "oom") if (kind, end) != ("small", "oom")],
)
def test_what_goes_while_on_the_device_is_uncharged(groups, mirror, kind, end):
    counted = mirror.counters()
    with member(groups.inner, MAKES[kind]) as one:
        rss = one.rss()
        assert one.mirror.migrate(one.memory).moved == PAGES
        if end == "munmap":
            one.do("unmap")
        elif end == "dontneed":
            one.do("advise", mmap.MADV_DONTNEED)
        elif end == "kill":
            one.child.kill()
        else:
            groups.inner.set("memory.max", groups.inner.charged() + SLACK * PAGE)
            one.child.line.send(("use", PAGES))
            assert one.child.wait() == -signal.SIGKILL
            assert groups.inner.table("memory.events")["oom_kill"] == 1
        if end not in ("kill", "oom"):
            assert abs(rss - PAGES - one.rss()) <= SLACK
            groups.expect(0)
            assert one.mirror.counters().dev_pages_in_use == counted.dev_pages_in_use
    delta = mirror.counters() - counted
    assert delta.dev_pages_in_use == 0 and delta.dev_pages_allocated == delta.dev_pages_freed == PAGES
    groups.end()


@pytest.mark.contract("A-04")
@MEMORY
def test_device_pages_outlive_the_group_that_is_charged_for_them(groups, kind):
    """The process goes elsewhere, and its pages stay charged where they were, then to the group above."""
    with member(groups.inner, MAKES[kind]) as one:
        assert one.mirror.migrate(one.memory).moved == PAGES
        one.do("leave")
        groups.inner.remove()
        assert abs(groups.outer.charged() // PAGE - PAGES) <= SLACK
        one.do("touch")
        assert one.mirror.migrate(one.memory).moved == PAGES
        assert abs(groups.outer.charged() // PAGE - PAGES) <= SLACK
        assert one.do("matches", 1) is True
        assert one.mirror.migrate(one.memory).moved == PAGES
        one.do("unmap")
        assert groups.outer.charged() // PAGE <= SLACK


@pytest.mark.contract("A-06")
@pytest.mark.contract("A-04")
@MEMORY
def test_a_device_page_that_is_used_again_is_charged_to_who_uses_it(groups, kind):
    with Cgroup("dmirror-other") as other:
        with member(groups.inner, MAKES[kind]) as one, member(other, MAKES[kind]) as two:
            for first, second in ((one, two), (two, one)):
                assert first.mirror.migrate(first.memory).moved == PAGES
                first.do("advise", mmap.MADV_DONTNEED)
                assert second.mirror.migrate(second.memory).moved == PAGES
                charges = {one: groups.charged(), two: other.charged() // PAGE}
                assert charges[first] <= SLACK and abs(charges[second] - PAGES) <= SLACK
                second.do("touch")
                first.do("fill", 1)
            for each, group in ((one, groups.inner), (two, other)):
                assert each.do("matches", 1) is True
                assert abs(group.charged() // PAGE - PAGES) <= SLACK
        assert other.charged() // PAGE <= SLACK


# -- holes ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("Z-07")
@MEMORY
@pytest.mark.parametrize("first", ["nothing", "cpu-read"])
def test_holes_that_a_device_fills_are_charged_as_by_a_fault(groups, kind, first):
    with member(groups.inner, MAKES[kind], seed=None) as one:
        if first == "cpu-read":
            one.do("touch")
        empty, rss = groups.charged(), one.rss()
        assert one.mirror.migrate(one.memory).moved == PAGES
        assert abs(groups.charged() - empty - PAGES) <= SLACK and abs(groups.anon() - PAGES) <= SLACK
        assert abs(one.rss() - rss - PAGES) <= SLACK
        # Not again by the next fault.
        one.do("touch")
        assert one.picture() == {"r": PAGES}
        assert abs(groups.charged() - empty - PAGES) <= SLACK
        assert abs(one.rss() - rss - PAGES) <= SLACK
        one.do("advise", mmap.MADV_DONTNEED)
        assert abs(groups.charged() - empty) <= SLACK
        assert abs(one.rss() - rss) <= SLACK
    groups.end()


@pytest.mark.contract("Z-07")
def test_holes_above_the_limit_stay_holes(groups):
    """Nobody of the group may be killed for them: so there is no memory, and these pages stay as they are."""

    def make():
        Path("/proc/self/oom_score_adj").write_text("-1000")
        return Region.anonymous(PAGES, align=HUGE_PAGES * PAGE)

    with member(groups.inner, make, seed=None) as one:
        one.do("store", 1)
        rss, room = one.rss(), 100
        groups.inner.set("memory.max", groups.inner.charged() + room * PAGE)
        counted = one.mirror.counters()
        full = next(page for page in range(1, PAGES) if not one.mirror.migrate(one.memory[page]).moved)
        assert room < full <= room + SLACK
        assert one.mirror.snapshot(one.memory[: full + 1]).picture() == "r" + "D" * (full - 1) + "."
        delta = one.mirror.counters() - counted
        assert (delta.dev_pages_in_use, delta.stayed["core"]) == (full - 1, 1)
        assert groups.inner.charged() <= groups.inner.get("memory.max")
        assert abs(one.rss() - rss - full + 1) <= SLACK
        # A page that is there already goes, whatever the limit.
        assert one.mirror.migrate(one.memory[0]).moved == 1
        groups.inner.set("memory.max", "max")
        assert one.mirror.migrate(one.memory).moved == PAGES - full
        assert [one.do("load", page) for page in (0, 1, full, full + 1)] == [1, 0, 0, 0]
        assert groups.inner.table("memory.events")["oom_kill"] == 0


@pytest.mark.needs(capability="device_thp")
@pytest.mark.contract("Z-07")
def test_a_huge_hole_above_the_limit_stays_one_and_nobody_is_killed_for_it(groups):
    """As a huge page by a fault: what there is no memory for is not made."""
    with member(groups.inner, MAKES["huge"], seed=None) as one:
        one.do("touch")
        rss, before = one.rss(), one.mirror.snapshot(one.memory[HUGE_PAGES:])
        charged = groups.charged()
        groups.inner.set("memory.max", (charged + HUGE_PAGES + 200) * PAGE)
        migration = one.mirror.migrate(one.memory)
        assert migration.moved == one.mirror.counters().dev_pages_in_use == HUGE_PAGES
        assert one.picture() == {"D": HUGE_PAGES, before.picture()[0]: HUGE_PAGES}
        assert one.mirror.snapshot(one.memory[HUGE_PAGES:]) == before
        assert abs(one.rss() - rss - HUGE_PAGES) <= SLACK
        assert abs(groups.charged() - charged - HUGE_PAGES) <= SLACK
        events = groups.inner.table("memory.events")
        assert (events["oom"], events["oom_kill"]) == (0, 0)
        groups.inner.set("memory.max", "max")
        assert one.mirror.migrate(one.memory).moved == HUGE_PAGES
        assert one.do("zero") is True


@pytest.mark.contract("Z-07")
@pytest.mark.contract("P-06")
def test_who_is_killed_for_the_holes_leaves_the_device_all_its_memory(groups, mirror):
    """The call has the address space, and so the last of it to end."""
    counted = mirror.counters()
    with member(groups.inner, lambda: Region.anonymous(900), seed=None) as one:
        room = 300
        groups.inner.set("memory.max", groups.inner.charged() + room * PAGE)
        migration = one.mirror.migrate(one.memory)
        # Of an address space whose owner is dead nobody counts pages, until the reaper comes.
        assert room <= migration.moved < 900
        assert one.child.wait() == -signal.SIGKILL
        assert groups.inner.table("memory.events")["oom_kill"] == 1
    delta = mirror.counters() - counted
    assert delta.dev_pages_in_use == 0 and delta.dev_pages_allocated == delta.dev_pages_freed == 900
    groups.end()
