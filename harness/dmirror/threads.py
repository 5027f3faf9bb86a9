# SPDX-License-Identifier: GPL-2.0
"""A call in a thread of its own, which a test can watch falling asleep in the kernel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from dmirror.process import PATIENCE

T = TypeVar("T")

_SYS_FUTEX = "202"  # asm/unistd_64.h


def sleeping(folder: Path, idle: str) -> str:
    """How the thread of a folder such as /proc/PID/task/TID sleeps in the kernel, or nothing; not in the system call
    of the number `idle` (proc_pid_stat(5), proc_pid_syscall(5))."""
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        call = (folder / "syscall").read_text().split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if state not in "DS" or call in ("running", idle):
        return ""
    return f"asleep in state {state}, system call {call}"


class Task(Generic[T]):
    """`function(*args)` in a thread, from the beginning of its `with` block; the end waits for it.

    What it raised is raised by `result`, or by the end of the block if nobody asked. `tid` is the kernel's number of
    the thread, as events and holds name it.
    """

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        self.tid = 0
        self._function = function
        self._args = args
        self._returned: T
        self._error: BaseException | None = None
        self._asked = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._returned = self._function(*self._args)
        except BaseException as error:  # raised again by whoever asks
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._thread.native_id is not None
        self.tid = self._thread.native_id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join(PATIENCE)
        if error is None and not self._asked:
            self.result()

    @property
    def done(self) -> bool:
        """Whether it has returned or raised."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """What the function returned, or raise what it raised. TimeoutError after PATIENCE."""
        self._thread.join(PATIENCE)
        if not self.done:
            raise TimeoutError(f"{self} did not end within {PATIENCE:.0f} s; it is {self._asleep() or 'running'}")
        self._asked = True
        if self._error is not None:
            raise self._error
        return self._returned

    def __str__(self) -> str:
        return f"{getattr(self._function, '__name__', self._function)} in thread {self.tid}"

    def _asleep(self) -> str:
        """How it sleeps in the kernel, or nothing."""
        # In futex(2) it waits for the interpreter's lock, not for the kernel.
        return sleeping(Path(f"/proc/self/task/{self.tid}"), _SYS_FUTEX)

    def wait_asleep(self) -> None:
        """Wait until the thread sleeps in the kernel: in a hold, for a lock, for another thread's invalidation.

        RuntimeError when it ends instead, TimeoutError after PATIENCE.
        """
        until = time.monotonic() + PATIENCE
        while not self._asleep():
            if self.done:
                how = f"raised {self._error!r}" if self._error else "returned"
                raise RuntimeError(f"{self} {how} instead of falling asleep")
            if time.monotonic() > until:
                raise TimeoutError(f"{self} did not fall asleep within {PATIENCE:.0f} s")
            os.sched_yield()
