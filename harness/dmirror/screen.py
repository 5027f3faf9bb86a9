# SPDX-License-Identifier: GPL-2.0
"""What a matrix shows while it runs: on a terminal one screen that is drawn anew, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.text import Text

from dmirror.cells import BUILDING, BUILT, CANNOT, CUT_OFF, DONE, SUMS, TESTING, WAITING, Failure, Row, failures
from dmirror.matrix import Show
from dmirror.results import FAILED

_WORDS = (0, 1, 9)  # columns; the others are figures
_FAILURES = 6  # shown at once
_PERIOD_S = 30.0  # between two plain lines of a row
_STYLES = {BUILDING: "cyan", TESTING: "cyan", DONE: "green", CANNOT: "yellow", CUT_OFF: "yellow"}


@contextmanager
def screen() -> Iterator[Show]:
    """What standard output is fit for."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    with Live(auto_refresh=False, transient=True) as live:
        yield _Screen(live)


class _Failures:
    """Those of all rows, in the order in which they came."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], Failure] = {}

    def new(self, rows: Sequence[Row]) -> list[Failure]:
        found = [one for one in failures(rows) if (one.row, one.test) not in self.seen]
        self.seen |= {(one.row, one.test): one for one in found}
        return found


class _Screen:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._failures = _Failures()

    def update(self, rows: Sequence[Row]) -> None:
        self._failures.new(rows)
        self._live.update(picture(rows, list(self._failures.seen.values())[-_FAILURES:]), refresh=True)


def picture(rows: Sequence[Row], failed: Sequence[Failure]) -> Group:
    """A line for each row, and one for each of these failures; what is too long is cut off at the right."""
    heads = [Text(head) for head in ("", "state", "tests", *(word for _, word in SUMS), "time", "left", "")]
    table = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        drawn = Text(no_wrap=True, overflow="ellipsis")
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            if number in _WORDS:
                drawn.append(cell).append(" " * (width - len(cell) + 2))
            else:
                drawn.append(" " * (width - len(cell))).append(cell).append("  ")
        drawn.rstrip()
        lines.append(drawn)
    last = [Text(f"{one.row}  {one.test}  {one.why}", no_wrap=True, overflow="ellipsis") for one in failed]
    return Group(*lines, *([Text(""), *last] if last else []))


def _cells(row: Row) -> list[Text]:
    counts, left = row.counts(), row.left_s()
    return [
        Text(row.name),
        Text("failed" if row.failed else row.state, "bold red" if row.failed else _STYLES.get(row.state, "")),
        Text("" if row.planned is None else f"{row.done}/{row.planned}"),
        *(Text(str(counts[name] or ""), "bold red" if name == FAILED else "") for name, _ in SUMS),
        Text(clock(row.taken_s()) if row.state != WAITING else ""),
        Text("" if left is None else clock(left)),
        Text(row.saying(), "dim"),
    ]


class Lines:
    """A line when a row's state changes, now and then how far it is, and one for each failure."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._said: dict[str, float] = {}  # when, of time.monotonic
        self._failures = _Failures()

    def update(self, rows: Sequence[Row]) -> None:
        for failure in self._failures.new(rows):
            print(f"{failure.row}: FAILED {failure.test}: {failure.why}", flush=True)
        now = time.monotonic()
        for row in rows:
            before, self._states[row.name] = self._states.get(row.name, WAITING), row.state
            late = row.state in (BUILDING, TESTING) and now - self._said.get(row.name, now) >= _PERIOD_S
            if late or row.state not in (before, WAITING, BUILT):
                self._said[row.name] = now
                print(line(row), flush=True)


def line(row: Row) -> str:
    """How far a row is."""
    parts = ["failed" if row.failed else row.state]
    if row.planned is not None:
        counts = row.counts()
        parts[0] += f" {row.done}/{row.planned}"
        parts += [f"{counts[name]} {word}" for name, word in SUMS if counts[name]]
    parts.append(clock(row.taken_s()))
    left = row.left_s()
    if left is not None:
        parts.append(f"{clock(left)} left")
    if row.saying():
        parts.append(row.saying())
    return f"{row.name}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
