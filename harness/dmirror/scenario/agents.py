# SPDX-License-Identifier: GPL-2.0
"""Agents: the processes of a scenario and their threads, each of which does what it is told over a channel of its own.

They are a program of their own (uapi/agent.c), so their memory is what the scenario makes of it, and whoever is held
there holds no lock of ours.
"""

from __future__ import annotations

import array
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from dmirror.process import PATIENCE
from dmirror.threads import sleeping
from dmirror.uapi import build, lib

T = TypeVar("T")

_ORDER = struct.Struct("=8Q")
_PADDING = [(0,) * (7 - given) for given in range(8)]  # behind so many arguments
_REPLY = struct.Struct("=qQII")
_LONGEST = _REPLY.size + 8 * lib.AGENT_VALUES
_SCRATCH = 64 << 10  # bytes
_USUAL = struct.pack("ll", 0, 50_000)  # struct timeval: after so long without an answer it is asked why
_SYS_RECVFROM = "45"  # asm/unistd_64.h: where an agent waits for its next order


class Gone(Exception):
    """The agent has ended; `signal` is what it died of, None if it exited or that is not known."""

    def __init__(self, name: str, number: int | None) -> None:
        super().__init__(f"{name} is gone" + (f": {signal.Signals(number).name}" if number else ""))
        self.signal = number


class Reply(NamedTuple):
    """`result` of a call, or the pages that were accessed; `signal` 0 or what the next raised, `fault` where."""

    result: int
    fault: int
    signal: int
    values: tuple[int, ...]

    def checked(self, what: str) -> int:
        """The result of a call. OSError if it failed."""
        if self.result < 0:
            raise OSError(-self.result, f"{what}: {os.strerror(-self.result)}")
        return self.result


class Agent:
    """One process, or one thread of one, of the scenario: `name` as there, `pid` and `tid` the kernel's numbers."""

    def __init__(self, name: str, channel: socket.socket, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.tid = pid
        self.pending = 0  # orders that it has not answered
        self._channel = channel
        self._pidfd = os.pidfd_open(pid)
        self._pagemap = -1

    def send(self, what: int, *args: int) -> None:
        """Give an order; `receive` has the answer."""
        self.pending += 1
        self._channel.send(_ORDER.pack(what, *args, *_PADDING[len(args)]))

    @property
    def channel(self) -> int:
        """The descriptor, for who gives orders and receives answers in one call."""
        return self._channel.fileno()

    def late(self) -> None:
        """Wait for the answer to an order that was given in such a call. Gone, or TimeoutError after PATIENCE."""
        self.pending += 1
        self._wait()
        self.pending -= 1

    def receive(self) -> Reply:
        """The answer to the last order. Gone, or TimeoutError after PATIENCE."""
        data = self._answer(self._channel.recv, _LONGEST)
        self.pending -= 1
        return _reply(data)

    def _answer(self, receive: Callable[..., T], *args: int) -> T:
        """What one of the channel's functions receives, once it is there."""
        try:
            return receive(*args)
        except BlockingIOError:
            self._wait()
            return receive(*args)

    def ask(self, what: int, *args: int) -> Reply:
        """An order and its answer."""
        self.send(what, *args)
        return self.receive()

    def open(self, device: int) -> int:
        """A descriptor of the device, on which the agent's memory is mirrored. OSError as open(2)."""
        self.send(lib.AGENT_OPEN, device)
        data, control, _, _ = self._answer(self._channel.recvmsg, _LONGEST, 64)
        self.pending -= 1
        _reply(data).checked(f"open of hmm_dmirror{device} by {self.name}")
        fds = array.array("i")
        fds.frombytes(control[0][2])
        self._answer(self._channel.recv, _LONGEST)  # it has closed its own copy, which ends every hold of the mirror
        return fds[0]

    def call(self, name: str, number: int, *args: int) -> int:
        """A system call. OSError if it fails."""
        return self.ask(lib.AGENT_CALL, number, *args).checked(f"{name} by {self.name}")

    def _wait(self) -> None:
        """Until there is an answer. Gone, or TimeoutError after PATIENCE."""
        # Other agents have the far end of the channel, too: its end tells nothing.
        ready = select.select([self._channel.fileno(), self._pidfd], [], [], PATIENCE)[0]
        if not ready:
            raise TimeoutError(f"no answer of {self.name} for {PATIENCE:.0f} s")
        if self._channel.fileno() not in ready:
            raise self._gone()

    def _gone(self) -> Gone:
        """Why nothing comes any more; only our own child's status can be asked for."""
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_code != os.CLD_EXITED:
                return Gone(self.name, ended.si_status)
        return Gone(self.name, None)

    def wait_gone(self) -> None:
        """Wait until the process has ended, its memory given back. TimeoutError after PATIENCE."""
        if not select.select([self._pidfd], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{self.name} (process {self.pid}) did not end within {PATIENCE:.0f} s")

    def wait_other_program(self) -> None:
        """Wait until the program that it was told to execute says that it runs."""
        fd = self._channel.fileno()
        if fd not in select.select([fd, self._pidfd], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{self.name} did not execute another program within {PATIENCE:.0f} s")
        self._channel.recv(64)
        self.pending -= 1

    def kill(self) -> None:
        """SIGKILL to the process, if it still runs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def pagemap(self) -> int:
        """A descriptor of /proc/PID/pagemap of its process, for as long as it is the same program."""
        if self._pagemap < 0:
            self._pagemap = os.open(f"/proc/{self.pid}/pagemap", os.O_RDONLY)
        return self._pagemap

    def asleep(self) -> bool:
        """Whether it sleeps in the kernel, elsewhere than where it waits for an order."""
        return bool(sleeping(Path(f"/proc/{self.pid}/task/{self.tid}"), _SYS_RECVFROM))

    def wait_asleep(self) -> bool:
        """Wait until it sleeps in the kernel. False when it answers instead; TimeoutError after PATIENCE."""
        until = time.monotonic() + PATIENCE
        while not self.asleep():
            if select.select([self._channel], [], [], 0)[0]:
                return False
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name} neither answered nor fell asleep within {PATIENCE:.0f} s")
            os.sched_yield()
        return True

    def close(self) -> None:
        """Let go of it; a process then ends by itself."""
        os.close(self._pidfd)
        if self._pagemap >= 0:
            os.close(self._pagemap)


class Agents:
    """All the agents of a player: the first process, and those that it forks or starts. Ended by `close`.

    `scratch` is what each of them has at AGENT_SCRATCH, for arguments of system calls.
    """

    def __init__(self, name: str) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(lib.AGENT_CHANNELS)]
        self._ours = [ours for ours, _ in pairs]
        self._free = list(range(1, len(pairs)))
        self._of: dict[str, int] = {name: 0}
        for ours in self._ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _USUAL)
        scratch = os.memfd_create("scratch")
        os.ftruncate(scratch, _SCRATCH)
        self.scratch = mmap.mmap(scratch, _SCRATCH)
        theirs = [scratch, *(end.detach() for _, end in pairs)]
        for fd in theirs:
            os.set_inheritable(fd, True)
        program = os.fspath(build.folder() / build.AGENT)
        pid = os.posix_spawn(program, [program, str(os.getpid()), *map(str, theirs)], os.environ)
        for fd in theirs:
            os.close(fd)
        self.first = pid  # process number of the first one, our child
        self.all = {name: Agent(name, self._ours[0], pid)}

    def __getitem__(self, name: str) -> Agent:
        return self.all[name]

    def fork(self, parent: str, name: str) -> Agent:
        """A process that is a copy of `parent`. Raises what the parent's answer says."""
        channel = self._free.pop()
        pid = self.all[parent].ask(lib.AGENT_FORK, channel).checked(f"fork by {parent}")
        return self._add(name, channel, pid)

    def thread(self, process: str, name: str) -> Agent:
        """One more thread of a process."""
        channel = self._free.pop()
        self.all[process].ask(lib.AGENT_THREAD, channel).checked(f"a thread of {process}")
        agent = self._add(name, channel, self.all[process].pid)
        agent.tid = agent.ask(lib.AGENT_TID).result
        return agent

    def _add(self, name: str, channel: int, pid: int) -> Agent:
        self._of[name] = channel
        agent = self.all[name] = Agent(name, self._ours[channel], pid)
        return agent

    def end(self, name: str) -> None:
        """Kill a process and all its threads, and wait until it is gone."""
        agent = self.all[name]
        agent.kill()
        agent.wait_gone()
        for other in [other for other in self.all.values() if other.pid == agent.pid]:
            self.forget(other.name)

    def stop(self, name: str) -> None:
        """Have a thread end; its process goes on."""
        agent = self.all[name]
        agent.send(lib.AGENT_STOP)
        agent.receive()
        self.forget(name)

    def forget(self, name: str) -> None:
        """It has ended: nothing more is asked of it."""
        agent = self.all.pop(name)
        agent.close()
        channel = self._of.pop(name)
        # The next agent there would obey what this one was told and has not obeyed.
        if not agent.pending:
            self._free.append(channel)

    def close(self) -> None:
        """End all of them."""
        for agent in self.all.values():
            agent.kill()
        for agent in self.all.values():
            agent.wait_gone()
            agent.close()
        self.all.clear()
        with suppress(ChildProcessError):
            os.waitpid(self.first, 0)
        for ours in self._ours:
            ours.close()
        self.scratch.close()


def _reply(data: bytes) -> Reply:
    result, fault, number, count = _REPLY.unpack_from(data)
    return Reply(result, fault, number, struct.unpack_from(f"={count}Q", data, _REPLY.size) if count else ())
