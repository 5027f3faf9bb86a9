# SPDX-License-Identifier: GPL-2.0
"""Commands side by side, each with a log: waited for, interrupted together, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Generic, Self, TypeVar

from dmirror.paths import ROOT

# xdist gives its guests 10 s to end.
_GRACE_S = 30.0

T = TypeVar("T")


@dataclass
class _Command(Generic[T]):
    what: T
    process: subprocess.Popen[bytes]
    told: bool = False  # that it is to end


class Sessions(Generic[T]):
    """In a `with` block, SIGINT and SIGTERM are this object's: the first goes to every command that is under way as
    one SIGINT; a second, or time, kills them. `T` is what the caller knows a command by.

    A command is in a session of its own, so that Ctrl-C at the terminal does not reach it a second time, and is
    interrupted when this process dies.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._kill_at: float | None = None  # of time.monotonic
        self._running: dict[int, _Command[T]] = {}  # by pidfd

    def __enter__(self) -> Self:
        # A handler is also what gives commands the default action: a shell's background job begins with SIGINT
        # ignored and would pass that on.
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()  # none is under way unless an exception came between
        while self._running:
            self.wait(1.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def interrupted(self) -> int | None:
        """The number of the first signal."""
        return self._signals[0] if self._signals else None

    def start(self, what: T, command: Sequence[str], log: Path) -> None:
        """Start a command; all it says goes to `log`."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "INT", "--", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[os.pidfd_open(process.pid)] = _Command(what, process)

    def running(self) -> bool:
        return bool(self._running)

    def wait(self, timeout_s: float) -> list[tuple[T, int]]:
        """Those that ended meanwhile, with their exit status; empty when time is over."""
        ended = []
        for pidfd in connection.wait(list(self._running), timeout_s):
            assert isinstance(pidfd, int)
            command = self._running.pop(pidfd)
            os.close(pidfd)
            ended.append((command.what, command.process.wait()))
        self._pass_on()
        return ended

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _pass_on(self) -> None:
        if not self._signals:
            return
        if self._kill_at is None:
            self._kill_at = time.monotonic() + _GRACE_S
        for command in self._running.values():
            if not command.told:
                command.told = True
                command.process.send_signal(signal.SIGINT)
        if len(self._signals) > 1 or time.monotonic() > self._kill_at:
            self._kill()

    def _kill(self) -> None:
        # What a command started dies with it, a guest by its own means.
        for command in self._running.values():
            if command.process.poll() is None:
                os.killpg(command.process.pid, signal.SIGKILL)
