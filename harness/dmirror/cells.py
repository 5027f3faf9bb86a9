# SPDX-License-Identifier: GPL-2.0
"""The cells of a matrix: what each tests, how far it is, and the table of all."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dmirror import journal
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Verdict, title

WAITING, BUILDING, BUILT, TESTING, DONE = "waiting", "building", "built", "testing", "done"
CANNOT, CUT_OFF = "cannot run", "cut off"

SUMS = ((PASSED, "passed"), (FAILED, "failed"), (DEFECT, "defects"), (SKIPPED, "skipped"))


@dataclass(frozen=True)
class Cell:
    """What one session of pytest tests."""

    kernel: str  # a known series, or the path of a tree
    flavour: str
    driver: str

    @property
    def name(self) -> str:
        """As in a table's head."""
        return title(self.kernel, self.flavour, self.driver)

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return re.sub(r"[^\w.]+", "_", self.kernel).strip("_") + f"-{self.flavour}-{self.driver}"

    @property
    def is_tree(self) -> bool:
        return "/" in self.kernel


@dataclass
class Row:
    """How far a cell is, or the host tests are."""

    folder: Path
    cell: Cell | None  # None: the host tests
    state: str = WAITING
    why: str = ""  # it cannot run, or was cut off; of the host tests, what pytest said last
    guests: int = 1
    seconds: float = 0.0  # under way, in all sessions; without the present one
    since: float | None = None  # of time.monotonic: when the present step began
    run: journal.Run | None = None
    kept: int = 0  # verdicts there were before the present session
    failed: bool = False  # of the host tests: one of them
    _size: int = field(default=-1, repr=False)  # of the journal when it was read, bytes

    @property
    def name(self) -> str:
        return self.cell.name if self.cell else "host tests"

    @property
    def log(self) -> Path:
        """What the present step, or the last, wrote."""
        if self.cell is None:
            return self.folder / "host.log"
        return self.folder / ("build.log" if self.state == BUILDING else "pytest.log")

    @property
    def done(self) -> int:
        return len(self.run.tests) if self.run else 0

    @property
    def planned(self) -> int | None:
        return self.run.planned if self.run else None

    @property
    def complete(self) -> bool:
        """Whether there were tests to run, and every one has its verdict."""
        return bool(self.planned) and self.done >= (self.planned or 0)

    def counts(self) -> Counter[str]:
        """Verdicts by outcome."""
        return Counter(verdict.outcome for verdict in self.run.tests.values()) if self.run else Counter()

    def taken_s(self) -> float:
        """Seconds under way so far."""
        return self.seconds + (time.monotonic() - self.since if self.since is not None else 0)

    def left_s(self) -> float | None:
        """Seconds until its last test, if the others take as long as those before; None where nothing is known."""
        if self.state != TESTING or self.since is None or self.planned is None or self.done == self.kept:
            return None
        return (time.monotonic() - self.since) / (self.done - self.kept) * (self.planned - self.done)

    def saying(self) -> str:
        """What there is to say beside figures."""
        if self.state != BUILDING:
            return self.why
        with suppress(FileNotFoundError):
            said = self.log.read_text(errors="replace").splitlines()
            return said[-1].removeprefix("dmirror: ") if said else ""
        return ""

    def look(self) -> None:
        """Read the journal, if more stands in it now."""
        try:
            size = (self.folder / journal.NAME).stat().st_size
            if size != self._size:
                self.run = journal.load(self.folder)
                self._size = size
        except FileNotFoundError:
            return

    def begin(self, state: str) -> None:
        self.state, self.why, self.since = state, "", time.monotonic()

    def end(self, state: str, why: str = "") -> None:
        self.seconds, self.since = self.taken_s(), None
        self.state, self.why = state, why


@dataclass(frozen=True)
class Failure:
    """A test that failed, in a line."""

    row: str
    test: str
    why: str


def failures(rows: Iterable[Row]) -> list[Failure]:
    """By row, in the order of their verdicts."""
    return [
        Failure(row.name, nodeid, _in_a_line(verdict))
        for row in rows
        if row.run
        for nodeid, verdict in row.run.tests.items()
        if verdict.outcome == FAILED
    ]


def _in_a_line(verdict: Verdict) -> str:
    if verdict.complaints:
        return f"{verdict.cause}: {verdict.complaints[0].title}"
    said = [line[2:].strip() for line in verdict.text.splitlines() if line.startswith("E ")]
    first = (said or verdict.text.splitlines() or [verdict.reason])[0]
    return first if first.startswith(verdict.cause) else f"{verdict.cause}: {first}"


def table(rows: Iterable[Row]) -> str:
    """A line for each row; those that could not run have no figures."""
    lines = [("", "state", *(word for _, word in SUMS), "time")]
    for row in rows:
        counts = row.counts()
        figures = [str(counts[outcome]) if row.run else "-" for outcome, _ in SUMS]
        lines.append((row.name, "failed" if row.failed else row.state, *figures, f"{row.taken_s():.0f} s"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(width) if column < 2 else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
