# SPDX-License-Identifier: GPL-2.0
"""In a guest: a sign of life during tests that may take long, and shortly before a test's time is over the kernel and
Python say where they stand."""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from dmirror.process import SLOWDOWN

LIMITS = "limits.json"
ALIVE = "alive"
"""A file in the guest's folder that is written every few seconds of a test that may take longer than SILENCE_S."""
SILENCE_S = 60.0
"""Such a test is hung when that has not been written for so long. Others have less time than that anyway, and need not
be disturbed: each page that a thread touches may be an event of a mirror."""
STANDS_HERE = "dmirror: this test is nearly out of time; Python stands here:"

# The host ends the guest at the limit; this much earlier its console gets the stacks.
_EARLIER_S = 2.0
_BEAT_S = 5.0
_CONSOLE = Path("/dev/ttyS0")
_SYSRQ = Path("/proc/sysrq-trigger")


def limit(item: pytest.Item) -> float:
    """Seconds that a test may take on this kernel: its marker's, or the option's."""
    marker = item.get_closest_marker("limit")
    return SLOWDOWN * float(marker.args[0] if marker else item.config.option.dmirror_limit)


class Stall:
    """One thread that sleeps until a test is nearly over its limit, or is to show that it lives."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._until: float | None = None  # of time.monotonic
        self._beats = False
        folder = os.environ.get("DMIRROR_RUN_DIR")
        self._alive = Path(folder, ALIVE) if folder else None
        threading.Thread(target=self._watch, daemon=True, name="dmirror-stall").start()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tells the host the limits that differ: reports say which test runs, and not how long it may."""
        folder = os.environ.get("DMIRROR_RUN_DIR")
        own = {item.nodeid: limit(item) for item in session.items if item.get_closest_marker("limit")}
        if folder and own:
            Path(folder, LIMITS).write_text(json.dumps(own))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        seconds = limit(item)
        self._set(time.monotonic() + max(seconds - _EARLIER_S, seconds / 2), beats=seconds > SILENCE_S * SLOWDOWN)
        try:
            return (yield)
        finally:
            self._set(None, beats=False)

    def _set(self, until: float | None, *, beats: bool) -> None:
        with self._wake:
            self._until, self._beats = until, beats
            self._wake.notify()

    def _watch(self) -> None:
        while True:
            with self._wake:
                left = None if self._until is None else max(self._until - time.monotonic(), 0)
                self._wake.wait(min(_BEAT_S, left) if self._beats and left is not None else left)
                over = self._until is not None and time.monotonic() >= self._until
                self._until = None if over else self._until
                beats = self._beats
            if over:
                _say_where()
            if beats and self._alive is not None:
                self._alive.write_text("")


def _say_where() -> None:
    with _CONSOLE.open("w") as console:
        print(STANDS_HERE, file=console, flush=True)
        faulthandler.dump_traceback(console)
    # w: tasks in uninterruptible sleep, l: what each processor does. 9 lets both reach the console, 6 is the
    # guest's own.
    for key in "9wl6":
        _SYSRQ.write_text(key)
