# SPDX-License-Identifier: GPL-2.0
"""L-06, L-07: SIGKILL in the middle of every call: to who makes it, to whose memory it is on, to who holds it up."""

import errno
import itertools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from dmirror.holds import POINTS
from dmirror.memory import Data, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child
from dmirror.threads import Task

PAGES = 1024
PROMPT_S = 10.0
MOST_DELAY_S = 0.05

# Calls that are made in turn until the end; None is a loop over the memory by the CPU, "open" opens and closes.
LOOPS = {
    "read": ("READ", "READ_UNLOCKED"),
    "write": ("WRITE",),
    "migrate": ("MIGRATE_TO_DEV", "MIGRATE_TO_SYS", "READ"),
    "fault": ("MIGRATE_TO_DEV", None),
    "exclusive": ("EXCLUSIVE", "CHECK_EXCLUSIVE"),
    "snapshot": ("SNAPSHOT",),
    "release": ("MIGRATE_TO_DEV", "RELEASE"),
    "open": ("open",),
}
# Who passes a hold point; an invalidation is that of a migration.
PASSES = {
    "fault": "read",
    "migrate": "migrate",
    "cpu_fault": "fault",
    "invalidate": "migrate",
    "exclusive": "exclusive",
}
HELD_S = 60.0  # longer than anything is waited for


def loop(what: str, mirror: Mirror, span: Span, data: Data) -> None:
    """Make the calls for ever; the data are what the memory holds already."""
    for call in itertools.cycle(LOOPS[what]):
        if call is None:
            span.touch()
            continue
        if call == "open":
            Mirror(mirror.device).close()
            continue
        with suppress(MirrorError):  # what a call may fail with is the subject of other tests
            mirror.call(call, span.addr, span.npages, data.buffer)


def kill_in_the_middle(child: Child, choices: random.Random) -> None:
    time.sleep(choices.uniform(0, MOST_DELAY_S))  # any moment is as good as another
    begun = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert time.monotonic() - begun < PROMPT_S


def usage(device: int) -> tuple[int, int]:
    """Pages in use and contexts."""
    with Mirror(device) as probe:
        counters = probe.counters()
    return counters.dev_pages_in_use, counters.dev_contexts


@pytest.mark.contract("L-06")
def test_a_process_killed_in_a_call_on_its_own_memory(mirror, devices, rounds):
    for what, choices in zip(itertools.cycle(LOOPS), rounds(len(LOOPS)), strict=False):
        device = choices.choice(devices)
        before = usage(device)

        def child(line, what=what, device=device):
            opened, region = Mirror(device), Region.anonymous(PAGES)
            data = Data.pattern(region.fill(1), 1)
            line.send()
            loop(what, opened, region, data)

        with Child(child) as other:
            other.line.receive()
            kill_in_the_middle(other, choices)
        assert usage(device) == before, what


@pytest.mark.contract("L-01")
@pytest.mark.contract("L-06")
def test_a_process_killed_in_a_call_on_its_parents_memory(mirror, devices, rounds):
    with Region.anonymous(PAGES) as region:
        region.fill(1)
        for what, choices in zip(itertools.cycle(LOOPS), rounds(len(LOOPS)), strict=False):
            with Mirror(choices.choice(devices)) as opened:

                def child(line, what=what, opened=opened):
                    data = Data.pattern(region, 1)
                    line.send()
                    loop(what, opened, region, data)

                with Child(child) as other:
                    other.line.receive()
                    kill_in_the_middle(other, choices)
                assert region.matches(1), what
                assert opened.read(region).data.matches(1), what


@pytest.mark.contract("L-02")
@pytest.mark.contract("L-07")
def test_a_call_whose_memory_is_killed_under_it(mirror, devices, rounds):
    """The call may hold the last reference to the address space, and takes it down itself."""
    loops = [what for what in LOOPS if what not in ("fault", "open")]
    for choices in rounds(len(loops)):
        device = choices.choice(devices)
        before = usage(device)
        ours, theirs = socket.socketpair()

        def owner(line, device=device, theirs=theirs):
            opened, region = Mirror(device), Region.anonymous(PAGES)
            region.fill(1)
            socket.send_fds(theirs, [region.addr.to_bytes(8, "little")], [opened.fd])
            line.receive()

        with ours, theirs, Child(owner) as other, received(ours, device) as (opened, span):
            gone = threading.Event()
            threads = [
                threading.Thread(target=until_gone, args=(choices.choice(loops), opened, span, gone), daemon=True)
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            kill_in_the_middle(other, choices)
            gone.set()
            for thread in threads:
                thread.join(PROMPT_S)
                assert not thread.is_alive()
            with pytest.raises(MirrorError) as caught:
                opened.call("READ", span.addr, 1, Data(1).buffer)
            assert caught.value.errno == errno.EFAULT
        assert usage(device) == before


@contextmanager
def received(line: socket.socket, device: int) -> Iterator[tuple[Mirror, Span]]:
    """The mirror of another process, and what it mirrors."""
    message, (descriptor,), _, _ = socket.recv_fds(line, 8, 1)
    with Mirror.received(descriptor, device) as opened:
        yield opened, Span(int.from_bytes(message, "little"), PAGES)


def until_gone(what: str, mirror: Mirror, span: Span, gone: threading.Event) -> None:
    data = Data.pattern(span, 1)
    for call in itertools.cycle(LOOPS[what]):
        if gone.is_set():
            return
        with suppress(MirrorError):
            mirror.call(call, span.addr, span.npages, data.buffer)


def held(point: str, mirror: Mirror, span: Span):
    """A hold of whoever comes by next."""
    return mirror.hold(point, span, limit=HELD_S)


def calls_that_pass(point: str) -> str:
    """Of LOOPS, the first call of which passes a hold point."""
    return PASSES[point.partition(".")[0]]


@contextmanager
def victim(device: int, act: Callable[[Mirror, Region], object]) -> Iterator[tuple[Child, Mirror, Span]]:
    """A process that acts on a mirror of its own memory, once it is told to; that mirror, and the memory.

    Who looks on is another process: whatever changes a mapping of the mirrored one may wait for who is held.
    """
    ours, theirs = socket.socketpair()

    def run(line):
        with Mirror(device) as opened, Region.anonymous(PAGES) as region:
            region.fill(1)
            socket.send_fds(theirs, [region.addr.to_bytes(8, "little")], [opened.fd])
            line.receive()
            return act(opened, region)

    with ours, theirs, Child(run) as child, received(ours, device) as (opened, span):
        yield child, opened, span


@pytest.mark.contract("L-06")
def test_a_process_killed_while_it_is_held(mirror, devices, rounds):
    for point, choices in zip(itertools.cycle(POINTS), rounds(len(POINTS)), strict=False):
        what = calls_that_pass(point)
        # The CPU does not fault on a coherent page.
        device = choices.choice(devices[:2] if what == "fault" else devices)
        before = usage(device)

        def act(opened, region, what=what):
            loop(what, opened, region, Data.pattern(region, 1))

        with victim(device, act) as (child, opened, span), held(point, opened, span) as hold:
            child.line.send()
            hold.wait()
            kill_in_the_middle(child, choices)
            assert hold.state().state == "killed", point
        assert usage(device) == before, point


CALL_POINTS = [point for point in POINTS if calls_that_pass(point) != "fault"]


def call_once(point: str, opened: Mirror, span: Span) -> bool:
    """Make the call that passes a point; whether it gave what memory holds that was filled with 1."""
    data = Data(span.npages)
    try:
        pages, _ = opened.call(LOOPS[calls_that_pass(point)][0], span.addr, span.npages, data.buffer)
    except MirrorError as error:
        if error.errno != errno.ENOENT:  # a page that the core did not let go stays
            raise
        pages = error.pages
    return data.matches(1, npages=pages)


@pytest.mark.contract("L-06")
def test_a_process_killed_that_holds_another(mirror, devices, rounds):
    for point, choices in zip(itertools.cycle(CALL_POINTS), rounds(len(CALL_POINTS)), strict=False):
        device = choices.choice(devices)

        def act(opened, region, point=point):
            return call_once(point, opened, region)

        with victim(device, act) as (child, opened, span):

            def holder(line, point=point, opened=opened, span=span):
                with held(point, opened, span) as hold:
                    line.send()
                    hold.wait()
                    line.send()
                    line.receive()

            with Child(holder) as other:
                other.line.receive()
                child.line.send()
                other.line.receive()
                kill_in_the_middle(other, choices)
                assert child.result() is True, point


@pytest.mark.contract("L-07")
def test_a_file_closed_while_its_hold_ends(mirror, devices, rounds):
    with Region.anonymous(PAGES) as region:
        for point, choices in zip(itertools.cycle(CALL_POINTS), rounds(len(CALL_POINTS)), strict=False):
            region.fill(1)
            delays = [choices.uniform(0, MOST_DELAY_S / 10) for _ in range(2)]
            with Mirror(choices.choice(devices)) as opened, held(point, opened, region) as hold:
                with Task(call_once, point, opened, region) as call:
                    hold.wait()
                    with Task(after, delays[0], hold.resume), Task(after, delays[1], opened.close):
                        assert call.result(), point
                assert hold.state().state in ("resumed", "closed"), point


def after(seconds: float, function: Callable[[], object]) -> None:
    """Call it after a while."""
    time.sleep(seconds)
    function()
