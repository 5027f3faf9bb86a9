# SPDX-License-Identifier: GPL-2.0
"""What a campaign shows: one screen that is drawn anew on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from dmirror.fuzz.campaign import Progress
from dmirror.screen import clock

_PERIOD_S = 10.0  # between two lines
_SHOWN = 8  # findings on the screen


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """What standard output is fit for."""
    if not sys.stdout.isatty():
        yield _Lines().show
        return
    with Live(auto_refresh=False, transient=True) as live:
        yield lambda progress: live.update(picture(progress), refresh=True)


class _Lines:
    def __init__(self) -> None:
        self._last = 0.0
        self._said: set[str] = set()

    def show(self, progress: Progress) -> None:
        for signature, folder in list(progress.folders.items()):
            if signature not in self._said:
                self._said.add(signature)
                print(f"found: {signature}\n       {folder}", flush=True)
        if time.monotonic() - self._last > _PERIOD_S:
            self._last = time.monotonic()
            print(line(progress), flush=True)


def line(progress: Progress) -> str:
    """How far it is."""
    parts = [
        f"{clock(progress.taken_s())}  round {progress.rounds}",
        f"{progress.rate():.0f} steps/s",
        f"{progress.trees} scenarios of {progress.steps} steps",
        f"{len(progress.states)} states, {len(progress.changes)} changes of a page",
        f"{len(progress.known)} findings, {sum(progress.known.values())} times",
        *([covered(progress)] if progress.reached else []),
        kernel(progress),
    ]
    return ", ".join([*parts, progress.doing] if progress.doing else parts)


def kernel(progress: Progress) -> str:
    """The state of the kernel's log."""
    return f"the kernel complained {progress.kernel_said} times" if progress.kernel_said else "the kernel log is clean"


def covered(progress: Progress) -> str:
    """How much of the kernel was reached, of each file that is counted."""
    parts = [f"{lines} of {count} of {Path(file).name}" for file, (lines, count) in sorted(progress.reached.items())]
    return "lines: " + ", ".join(parts)


def picture(progress: Progress) -> Group:
    """The screen."""
    rows = [
        ("seed", f"{progress.seed}, round {progress.rounds}, {clock(progress.taken_s())}"),
        ("speed", f"{progress.rate():.0f} steps/s"),
        ("played", f"{progress.trees} scenarios, {progress.steps} steps"),
        ("seen", f"{len(progress.states)} states of memory, {len(progress.changes)} changes of a page"),
        *([("reached", covered(progress))] if progress.reached else []),
        ("kernel", kernel(progress)),
        ("found", f"{len(progress.known)}, {sum(progress.known.values())} times"),
    ]
    lines = [Text(f"{head:<9}{said}", no_wrap=True, overflow="ellipsis") for head, said in rows]
    lines[-2].stylize("bold red" if progress.kernel_said else "green")
    last = list(progress.known.items())[-_SHOWN:]
    lines += [Text(f"  {count:>5}  {name}", no_wrap=True, overflow="ellipsis") for name, count in last]
    return Group(*lines, Text(progress.doing, "dim", no_wrap=True, overflow="ellipsis"))
