# SPDX-License-Identifier: GPL-2.0
"""What several families of tests share: the driver as a module that goes and comes back, other mirrored processes."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmirror.vm.spec import GuestSpec

if TYPE_CHECKING:
    from dmirror.memory import Region, Span
    from dmirror.mirror import Mirror
    from dmirror.process import Child, Line


class Driver:
    """The module under test as this guest loaded it."""

    def __init__(self, line: str) -> None:
        path, *self._parameters = shlex.split(line)
        self.path = Path(path)

    def insert(self, *parameters: str) -> subprocess.CompletedProcess[str]:
        """insmod with these parameters and no others."""
        return subprocess.run(["insmod", self.path, *parameters], check=False, capture_output=True, text=True)

    def load(self, *more: str) -> None:
        """insmod as it was done when the guest booted, with more parameters."""
        result = self.insert(*self._parameters, *more)
        assert result.returncode == 0, result.stderr

    def unload(self) -> None:
        """rmmod."""
        subprocess.run(["rmmod", self.path.stem], check=True)


@pytest.fixture
def driver() -> Driver:
    """Skips outside a guest of ours: only that says where its module came from."""
    description = os.environ.get("DMIRROR_GUEST")
    if description is None:
        pytest.skip("this machine does not say how its driver was loaded")
    (line,) = GuestSpec.from_json(Path(description).read_text()).modules
    return Driver(line)


@dataclass(frozen=True)
class Mirrored:
    """Another process, which opened `mirrors` for us, and what it mapped."""

    child: Child
    mirrors: list[Mirror]
    memory: Span

    @property
    def mirror(self) -> Mirror:
        return self.mirrors[0]

    def leave(self) -> None:
        """Have it do what is left to it, exit, and be gone."""
        self.child.line.send()
        self.child.result()
        self.child.wait()


@contextmanager
def _mirrored(
    begin: Callable[[Region], list[Mirror]] | None = None,
    act: Callable[..., object] | None = None,
    *,
    npages: int = 16,
    keep: bool = False,
) -> Iterator[Mirrored]:
    from dmirror.memory import PAGE, Region, Span  # noqa: PLC0415  (the host collects the tests without the extension)
    from dmirror.mirror import Mirror  # noqa: PLC0415
    from dmirror.process import Child  # noqa: PLC0415

    def run(line: Line) -> object:
        memory = Region.anonymous(npages, align=npages * PAGE)
        opened = begin(memory) if begin else [Mirror(0)]
        message = " ".join(str(number) for number in (memory.addr, *(mirror.device for mirror in opened)))
        socket.send_fds(theirs, [message.encode()], [mirror.fd for mirror in opened])
        if not keep:
            for mirror in opened:
                mirror.close()
        # From here on it does nothing unasked: the closing of a file ends the holds that its opener or we have armed.
        line.send()
        line.receive()
        return act(*opened, memory) if act else None

    ours, theirs = socket.socketpair()
    with ours, theirs, Child(run) as child, ExitStack() as stack:
        message, descriptors, _, _ = socket.recv_fds(ours, 4096, 16)
        child.line.receive()
        addr, *devices = (int(word) for word in message.split())
        mirrors = [
            stack.enter_context(Mirror.received(fd, device)) for fd, device in zip(descriptors, devices, strict=True)
        ]
        yield Mirrored(child, mirrors, Span(addr, npages))


@pytest.fixture
def mirrored() -> Callable[..., AbstractContextManager[Mirrored]]:
    """Another process, mirrored, as `with mirrored(begin, act) as other:`; killed when the block ends.

    It maps `npages` pages, opens the mirrors that `begin(memory)` returns, or one on device 0, and passes them to us
    (SCM_RIGHTS). Unless it shall `keep` its own descriptors of them it closes those, so that its end closes nothing.
    When its line brings something it does `act(*mirrors, memory)` and exits.
    """
    return _mirrored


@pytest.fixture
def block() -> Iterator[Region]:
    """Sixteen pages of one page table, not populated: one migrate_vma_setup() covers them."""
    from dmirror.memory import PAGE, Region  # noqa: PLC0415

    with Region.anonymous(16, align=16 * PAGE) as region:
        yield region


class Still:
    """A process that is stopped, and what the test has of it: `mirror` and `mirror2` of it, `memory` that it filled.

    Nothing happens in its address space but what the test does there, and whoever is held there holds no lock of the
    test's own process. `child` is the process. Calls act on `memory` by the mirrors, `load` by the CPU.
    """

    def __init__(self, mirror: Mirror, mirror2: Mirror, memory: Span, child: Child) -> None:
        self.mirror = mirror
        self.mirror2 = mirror2
        self.memory = memory
        self.child = child
        self.mem = -1

    def start(self) -> None:
        """Let it run: what it is to do, and then it stops again."""
        os.kill(self.child.pid, signal.SIGCONT)

    def stopped(self) -> None:
        """Wait until it is stopped. Raises what it raised instead."""
        status = os.waitid(os.P_PID, self.child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if status is None or status.si_status != signal.SIGSTOP:
            self.child.result()
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)

    def run(self) -> None:
        """Let it do what it is to do."""
        self.start()
        self.stopped()

    def load(self, page: int = 0) -> int:
        """The first word of a page, by a fault of this thread on the other's behalf (/proc/pid/mem)."""
        return int.from_bytes(os.pread(self.mem, 8, self.memory[page].addr), "little")


@pytest.fixture
def still(mirror: Mirror) -> Iterator[Callable[..., Still]]:
    """Makes one: `still(act)` is a process that does act(its mirror, its memory) when it is let run."""
    from dmirror.memory import PAGE, Region, Span  # noqa: PLC0415
    from dmirror.mirror import Mirror  # noqa: PLC0415
    from dmirror.process import Child  # noqa: PLC0415

    with ExitStack() as stack:

        def make(act: Callable[[Mirror, Span], object] = lambda mirror, memory: None, npages: int = 16) -> Still:
            ours, theirs = socket.socketpair()

            def child(line: Line) -> None:
                opened, second, memory = Mirror(0), Mirror(1), Region.anonymous(npages, align=npages * PAGE)
                memory.fill(1)
                socket.send_fds(theirs, [memory.addr.to_bytes(8, "little")], [opened.fd, second.fd])
                signal.raise_signal(signal.SIGSTOP)
                act(opened, memory)
                signal.raise_signal(signal.SIGSTOP)

            with ours, theirs:
                other = stack.enter_context(Child(child))
                address, fds, _, _ = socket.recv_fds(ours, 8, 2)
            mirrors = [stack.enter_context(Mirror.received(fd, device)) for device, fd in enumerate(fds)]
            made = Still(*mirrors, Span(int.from_bytes(address, "little"), npages), other)
            made.mem = os.open(f"/proc/{other.pid}/mem", os.O_RDONLY)
            stack.callback(os.close, made.mem)
            made.stopped()
            return made

        yield make
