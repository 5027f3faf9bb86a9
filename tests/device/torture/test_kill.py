# SPDX-License-Identifier: GPL-2.0
"""L-06, L-07: SIGKILL in the middle of every call, to the process that makes it or to the one whose memory it is on."""

import errno
import itertools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dmirror.memory import Data, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child

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
    opened = Mirror.__new__(Mirror)
    opened.fd, opened.device = descriptor, device
    with opened:
        yield opened, Span(int.from_bytes(message, "little"), PAGES)


def until_gone(what: str, mirror: Mirror, span: Span, gone: threading.Event) -> None:
    data = Data.pattern(span, 1)
    for call in itertools.cycle(LOOPS[what]):
        if gone.is_set():
            return
        with suppress(MirrorError):
            mirror.call(call, span.addr, span.npages, data.buffer)
