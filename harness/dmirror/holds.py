# SPDX-License-Identifier: GPL-2.0
"""Hold points: stop a thread where the driver passes, look, and let it go on."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dmirror import timeline
from dmirror.calls import bits, named, request
from dmirror.events import KERNEL_EVENTS
from dmirror.memory import Span
from dmirror.process import PATIENCE
from dmirror.quiet import quieten
from dmirror.uapi import ffi, lib
from dmirror.watches import Watch

if TYPE_CHECKING:
    from dmirror.steering import Steering

POINTS = {
    "fault.before_check": lib.DMIRROR_HOLD_FAULT_CHECK,
    "fault.before_install": lib.DMIRROR_HOLD_FAULT_INSTALL,
    "migrate.begin": lib.DMIRROR_HOLD_MIGRATE_BEGIN,
    "migrate.after_setup": lib.DMIRROR_HOLD_MIGRATE_SETUP,
    "migrate.after_copy": lib.DMIRROR_HOLD_MIGRATE_COPIED,
    "migrate.after_pages": lib.DMIRROR_HOLD_MIGRATE_PAGES,
    "migrate.before_finalize": lib.DMIRROR_HOLD_MIGRATE_MAPPED,
    "cpu_fault.begin": lib.DMIRROR_HOLD_CPU_BEGIN,
    "cpu_fault.after_setup": lib.DMIRROR_HOLD_CPU_SETUP,
    "cpu_fault.after_copy": lib.DMIRROR_HOLD_CPU_COPIED,
    "cpu_fault.after_pages": lib.DMIRROR_HOLD_CPU_PAGES,
    "cpu_fault.before_finalize": lib.DMIRROR_HOLD_CPU_MAPPED,
    "cpu_fault.end": lib.DMIRROR_HOLD_CPU_END,
    "invalidate": lib.DMIRROR_HOLD_INVALIDATE,
    "exclusive.after": lib.DMIRROR_HOLD_EXCLUSIVE,
}
"""Where a thread can be held."""

_EVENTS = {name: 1 << number for number, name in enumerate(KERNEL_EVENTS) if number}
_STATES = {
    lib.DMIRROR_HOLD_ARMED: "armed",
    lib.DMIRROR_HOLD_HELD: "held",
    lib.DMIRROR_HOLD_RESUMED: "resumed",
    lib.DMIRROR_HOLD_EXPIRED: "expired",
    lib.DMIRROR_HOLD_KILLED: "killed",
    lib.DMIRROR_HOLD_CLOSED: "closed",
    lib.DMIRROR_HOLD_UNUSED: "unused",
}


class HoldOver(Exception):
    """A hold ended when a test did not want it to; `state` says how."""

    def __init__(self, state: HoldState) -> None:
        super().__init__(f"the hold is over: {state}")
        self.state = state


class HoldState(NamedTuple):
    """How a hold stands.

    `state` is "armed" (nobody came yet), "held", or how it ended: "resumed", "expired" (its limit), "killed" (a fatal
    signal), "closed" (the context closed), "unused" (resumed before anybody came). `tid` is the thread that is or was
    held, `passages` how often the point was passed, that one included, and [`start`, `end`) its range.
    """

    point: str
    state: str
    tid: int
    passages: int
    start: int
    end: int

    def __repr__(self) -> str:
        text = f"{self.state} at {self.point}, passed {self.passages} times"
        if self.tid:
            text += f"; thread {self.tid} with [{self.start:#x}, {self.end:#x})"
        return text


class Hold:
    """A hold, armed from the beginning of its `with` block to its end: see `Steering.hold`."""

    def __init__(
        self,
        mirror: Steering,
        point: str,
        span: Span | None,
        *,
        nth: int,
        events: Sequence[str],
        watch: Watch | None,
        limit: float,
    ) -> None:
        self.point = point
        self._mirror = mirror
        self._fields: dict[str, Any] = {
            "point": named("hold point", POINTS, point),
            "watch": watch.id if watch else 0,
            "events": bits("kernel event", _EVENTS, events),
            "limit": round(limit * 1000),
            "nth": nth,
            "start": span.addr if span else 0,
            "end": span.end if span else 0,
        }
        self._fd = -1
        self._noticed = False
        self._held: tuple[int, int] | None = None  # since when (ns), and which thread

    def __enter__(self) -> Self:
        quieten()
        self._fd = self._mirror.own("HOLD", **self._fields).fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.resume()
            state = self._state()
        finally:
            os.close(self._fd)
        if state.state == "expired" and not self._noticed and error is None:
            raise HoldOver(state)

    def _state(self) -> HoldState:
        out = request(self._fd, f"the hold at {self.point}", "HOLD_STATE")
        return HoldState(self.point, _STATES[out.state], out.tid, out.passages, out.start, out.end)

    def state(self) -> HoldState:
        """How it stands now."""
        state = self._state()
        self._noticed |= state.state == "expired"
        return state

    def wait(self) -> HoldState:
        """Wait until a thread is held. TimeoutError when none came for PATIENCE, HoldOver when it is over instead."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        came = poll.poll(PATIENCE * 1000)
        state = self.state()
        if not came and state.state == "armed":
            raise TimeoutError(f"nobody to hold came for {PATIENCE:.0f} s: {state}")
        if state.state != "held":
            raise HoldOver(state)
        self._held = self._held or (time.monotonic_ns(), state.tid)
        return state

    def resume(self) -> None:
        """Let the thread go on; nobody is held here any more. Does nothing to a hold that is over."""
        now = time.monotonic_ns()  # the thread may run before this one does again
        failed = -lib.dm_ioctl(self._fd, lib.DMIRROR_HOLD_RESUME, ffi.NULL)
        if failed:
            raise OSError(failed, f"HOLD_RESUME on the hold at {self.point}: {os.strerror(failed)}")
        if self._held is not None:
            since, tid = self._held
            timeline.held(since, now, tid, self.point)
            self._held = None
