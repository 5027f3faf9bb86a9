# SPDX-License-Identifier: GPL-2.0
"""What long steps show on standard error: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PLAIN_PERIOD_S = 15.0


class Bar(Protocol):
    """A running step whose length is known, at least roughly."""

    def at(self, done: float, note: str = "") -> None: ...


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID, total: float) -> None:
        self._progress = progress
        self._task = task
        self._total = total

    def at(self, done: float, note: str = "") -> None:
        # The total is an estimate: a bar that stands full while work goes on would be a lie.
        self._progress.update(self._task, completed=min(done, self._total * 0.99), note=note)


class _PlainBar:
    def __init__(self, text: str, total: float) -> None:
        self._text = text
        self._total = total
        self._start = self._said = time.monotonic()

    def at(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self._said >= _PLAIN_PERIOD_S:
            self._said = now
            share = min(99, int(100 * done / self._total))
            say(f"{self._text}: {share} %, {now - self._start:.0f} s {note}".rstrip())


def say(text: str) -> None:
    """One plain line on standard error."""
    print(f"dmirror: {text}", file=sys.stderr, flush=True)


@contextmanager
def bar(text: str, *, total: float) -> Iterator[Bar]:
    """Show a step of `total` units (an estimate is fine) while the block runs."""
    if not sys.stderr.isatty():
        say(text)
        yield _PlainBar(text, total)
        return
    # Where all is built, nobody waits for rich.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        yield _RichBar(progress, progress.add_task(text, total=total, note=""), total)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show a step of unknown length while the block runs."""
    if not sys.stderr.isatty():
        say(text)
        yield
        return
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status(text):
        yield
