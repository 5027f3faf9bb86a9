# SPDX-License-Identifier: GPL-2.0
"""Other processes of a test: real ones, made by fork(2), with a line to talk over and a sure end."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import struct
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

SLOWDOWN = float(os.environ.get("DMIRROR_SLOWDOWN", "1"))
"""How much longer than usual this kernel may take (qemu/flavours.toml); the host says so."""

PATIENCE = 30.0 * SLOWDOWN
"""Seconds to wait for a child: far more than any step takes, so that a kernel that hangs is a failure, not a hang."""


class ChildKilled(Exception):
    """The child died of `signal`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the child died of {signal.Signals(number).name}")
        self.signal = signal.Signals(number)


class Line:
    """One end of a two-way line that carries picklable values."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink

    def send(self, value: object = None) -> None:
        """Give a value to the other side."""
        data = pickle.dumps(value)
        os.write(self._sink, struct.pack("=Q", len(data)) + data)

    def receive(self) -> Any:
        """The next value of the other side. EOFError when it is gone, TimeoutError after PATIENCE."""
        (length,) = struct.unpack("=Q", self._exactly(8))
        return pickle.loads(self._exactly(length))

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if not select.select([self._source], [], [], PATIENCE)[0]:
                raise TimeoutError(f"nothing from the other process for {PATIENCE:.0f} s")
            part = os.read(self._source, length - len(data))
            if not part:
                raise EOFError("the other process is gone")
            data += part
        return data

    def close(self) -> None:
        """Hang up."""
        os.close(self._source)
        os.close(self._sink)


class Child:
    """A forked process that runs `function(line)` and exits; killed, if it still runs, when its `with` block ends."""

    def __init__(self, function: Callable[[Line], object]) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours[0])
            os.close(theirs[1])
            _run(function, Line(theirs[0], ours[1]))
        os.close(ours[1])
        os.close(theirs[0])
        self.line = Line(ours[0], theirs[1])
        self._pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is None:
            self.kill()
        self.line.close()
        os.close(self._pidfd)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """The exit status as os.waitstatus_to_exitcode() gives it. TimeoutError after PATIENCE."""
        if self._status is None:
            if not select.select([self._pidfd], [], [], PATIENCE)[0]:
                raise TimeoutError(f"process {self.pid} did not end within {PATIENCE:.0f} s")
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def result(self) -> Any:
        """What the function returned. Raises what it raised, or ChildKilled."""
        try:
            kind, value = self.line.receive()
        except EOFError:
            status = self.wait()
            if status < 0:
                raise ChildKilled(-status) from None
            raise
        self.wait()
        if kind == "returned":
            return value
        raise value


def _run(function: Callable[[Line], object], line: Line) -> None:
    # A child that is meant to die of a signal says so by its status.
    faulthandler.disable()
    try:
        message: tuple[str, object] = ("returned", function(line))
    except BaseException as error:
        error.add_note("in the child:\n" + traceback.format_exc())
        message = ("raised", error)
    try:
        line.send(message)
    finally:
        # The interpreter of the child is a copy of the test's: nothing of it may run on.
        os._exit(0)


def in_child(function: Callable[[], object]) -> Any:
    """Run `function` in a forked process and return what it returned, or raise what ended it."""
    with Child(lambda _: function()) as child:
        return child.result()
