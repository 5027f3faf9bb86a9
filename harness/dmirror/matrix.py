# SPDX-License-Identifier: GPL-2.0
"""A matrix: kernels, flavours and drivers, a cell for each three; a cell is a session of pytest with guests of its own.

First the host tests, then the builds one after another, since each uses all processors and a guest beside one would
run into its time limits; then the cells, side by side as guests allow. What is known of a cell is its run's journal,
so a matrix that was cut off goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from dmirror import session
from dmirror.cells import BUILDING, BUILT, CANNOT, CUT_OFF, DONE, SUMS, TESTING, WAITING, Cell, Row, failures, table
from dmirror.errors import CannotRun
from dmirror.kernel import catalogue, config, flavours
from dmirror.paths import GUEST_TESTS, cache
from dmirror.results import FAILED
from dmirror.sessions import Sessions
from dmirror.trial import NO_TESTS
from dmirror.vm.spec import MEMORY_MIB

NAME = "matrix.json"
REPORT = "report.html"
DRIVERS = ("dmirror", "test_hmm")

KIND = "matrix"  # of runs, see dmirror.vm.runs

_TICK_S = 0.25
# How pytest and the harness begin the line that says why there was no run.
_REASONS = re.compile(
    r"^(?:dmirror: |Exit: |ERROR: |INTERNALERROR> (?=\w+: )|!+ _pytest\.outcomes\.Exit: )(.*?)(?: !+)?$", re.MULTILINE
)


@dataclass(frozen=True)
class Plan:
    """What a matrix was started with."""

    kernels: tuple[str, ...]
    flavours: tuple[str, ...]
    drivers: tuple[str, ...]
    expression: str = ""  # of pytest -k
    memory_mib: int = MEMORY_MIB
    append: str = ""
    kaslr: bool = False
    config: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    pytest: tuple[str, ...] = ()  # more of its arguments

    def cells(self) -> list[Cell]:
        """In the order in which they run."""
        return [Cell(*three) for three in itertools.product(self.kernels, self.flavours, self.drivers)]


def plan(kernels: str, flavour_names: str, drivers: str, **more: Any) -> Plan:
    """From lists of words with commas between; "all" or none at all is every one. Raises CannotRun for what is not
    known."""
    known = catalogue.load()
    chosen = [str(Path(word).expanduser().resolve()) if "/" in word else word for word in _words(kernels, known.series)]
    for word in chosen:
        if "/" not in word:
            known.find(word)
    of_flavours = _words(flavour_names, config.flavours)
    for word in of_flavours:
        config.options(word)
    of_drivers = _words(drivers, lambda: DRIVERS)
    for word in of_drivers:
        if word not in DRIVERS:
            raise CannotRun(f"DRIVERS={word} is not a driver", f"known are {', '.join(DRIVERS)}")
    return Plan(tuple(chosen), of_flavours, of_drivers, **more)


def _words(text: str, everything: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    return tuple(everything()) if words == ["all"] or not words else tuple(dict.fromkeys(words))


def shares(cells: int, guests: int) -> list[int]:
    """How many of the guests each cell gets, in the order in which they start: side by side with one guest each while
    there are enough cells, and with more for the last few, so that no guest stands idle."""
    given: list[int] = []
    while len(given) < cells:
        left = cells - len(given)
        width = max(n for n in range(1, guests + 1) if guests % n == 0 and n <= left)
        given += [guests // width] * (left // width * width)
    return given


@dataclass(frozen=True)
class Commands:
    """What is run for each step."""

    host: list[str]
    build: Callable[[Cell], list[str]]
    test: Callable[[Row], list[str]]


def commands(wanted: Plan) -> Commands:
    """Those of a real matrix."""
    pytest = session.command("--color=no", "-p", "no:cacheprovider")
    selection = ["-k", wanted.expression] if wanted.expression else []

    def build(cell: Cell) -> list[str]:
        which = "--kdir" if cell.is_tree else "--kernel"
        options = [which, cell.kernel, "--flavour", cell.flavour, "--driver", cell.driver]
        options += [f"--config={line}" for line in wanted.config] + [f"--make={word}" for word in wanted.make]
        return [sys.executable, "-m", "dmirror", "build", *options]

    def test(row: Row) -> list[str]:
        cell = row.cell
        assert cell is not None
        options = {
            "kdir" if cell.is_tree else "kernel": cell.kernel,
            "flavour": cell.flavour,
            "driver": cell.driver,
            "guests": row.guests,
            "memory": wanted.memory_mib,
            "append": wanted.append,
            "run": row.folder,
        }
        words = [f"--dmirror-{name}={value}" for name, value in options.items()]
        words += ["--dmirror-kaslr"] if wanted.kaslr else []
        words += [f"--dmirror-config={line}" for line in wanted.config]
        words += [f"--dmirror-make={word}" for word in wanted.make]
        return [*pytest, *GUEST_TESTS, *words, *selection, *wanted.pytest]

    return Commands([*pytest, "tests/host", *selection, *wanted.pytest], build, test)


class Show(Protocol):
    """What is on the screen meanwhile."""

    def update(self, rows: Sequence[Row]) -> None: ...


class Matrix:
    """One matrix in its folder, which may hold what an earlier session of it left."""

    def __init__(self, folder: Path, wanted: Plan, does: Commands) -> None:
        self.folder = folder
        self.interrupted: int | None = None  # the number of the signal that ended it early
        self._plan = wanted
        self._does = does
        self.host = Row(folder, None)
        self.cells = [Row(folder / cell.folder, cell) for cell in wanted.cells()]
        self._recall()

    @property
    def rows(self) -> list[Row]:
        return [self.host, *self.cells]

    def run(self, guests: int, show: Show) -> None:
        """Run what has no verdict yet; nothing is under way any more when this returns."""
        self._note()
        with Sessions[Row]() as sessions:
            if self.host.state != DONE:
                self._in_turn([self.host], sessions, show)
            if self.host.state == DONE:
                todo = [row for row in self.cells if row.state != DONE]
                self._in_turn(todo, sessions, show)
                built = [row for row in todo if row.state == BUILT]
                # The longest first, so that none is left to run alone at the end.
                self._side_by_side(sorted(built, key=_slowness, reverse=True), guests, sessions, show)
            self.interrupted = sessions.interrupted
        for row in self.rows:
            if row.state == BUILT:
                row.state = WAITING
        self._note()
        show.update(self.rows)

    def status(self) -> int:
        """1 if a test failed, else 2 if there are tests without a verdict, else 0."""
        if self.host.failed or any(row.counts()[FAILED] for row in self.cells):
            return 1
        return 0 if all(row.state == DONE for row in self.rows) else 2

    def text(self) -> str:
        """The table, what failed or could not run, and a line of sums."""
        sums = sum((row.counts() for row in self.cells), Counter[str]())
        lines = table(self.rows).splitlines()
        lines += [
            f"{row.name}: {row.state}: {row.why} ({row.log})" for row in self.rows if row.why and row.state != DONE
        ]
        if self.host.failed:
            lines.append(f"host tests: {self.host.why}; all they said is in {self.host.log}")
        lines += [f"{one.row}: FAILED {one.test}: {one.why}" for one in failures(self.rows)]
        lines.append(", ".join(f"{sums[outcome]} {word}" for outcome, word in SUMS))
        return "\n".join(lines)

    def _in_turn(self, rows: list[Row], sessions: Sessions[Row], show: Show) -> None:
        for row in rows:
            if sessions.interrupted is not None:
                return
            row.folder.mkdir(exist_ok=True)
            if row.cell is None:
                row.begin(TESTING)
                sessions.start(row, self._does.host, row.log)
            else:
                row.begin(BUILDING)
                sessions.start(row, self._does.build(row.cell), row.log)
            self._until_one_ends(sessions, show)

    def _side_by_side(self, rows: list[Row], guests: int, sessions: Sessions[Row], show: Show) -> None:
        waiting, free = deque(rows), guests
        for row, share in zip(rows, shares(len(rows), guests), strict=True):
            row.guests = share
        while sessions.running() or (waiting and sessions.interrupted is None):
            while waiting and sessions.interrupted is None and waiting[0].guests <= free:
                row = waiting.popleft()
                free -= row.guests
                row.kept = row.done
                row.begin(TESTING)
                sessions.start(row, self._does.test(row), row.log)
            free += sum(row.guests for row in self._until_one_ends(sessions, show))

    def _until_one_ends(self, sessions: Sessions[Row], show: Show) -> list[Row]:
        """Rows whose step ended, judged."""
        ended: list[tuple[Row, int]] = []
        show.update(self.rows)
        while not ended:
            ended = sessions.wait(_TICK_S)
            for row in self.cells:
                row.look()
            for row, status in ended:
                _judge(row, status, interrupted=sessions.interrupted is not None)
                self._note()
            show.update(self.rows)
        return [row for row, _ in ended]

    # -- matrix.json

    def _note(self) -> None:
        rows = {
            row.name: {"state": row.state, "why": row.why, "failed": row.failed, "seconds": round(row.taken_s(), 1)}
            for row in self.rows
        }
        new = self.folder / f"{NAME}.new"
        new.write_text(json.dumps({"plan": asdict(self._plan), "rows": rows}, indent=1))
        new.rename(self.folder / NAME)

    def _recall(self) -> None:
        with suppress(FileNotFoundError):
            rows = json.loads((self.folder / NAME).read_text())["rows"]
            for row in self.rows:
                row.look()
                row.seconds = rows[row.name]["seconds"]
                # Anything but this is tried again.
                if rows[row.name]["state"] == DONE and (row.cell is None or row.complete):
                    row.state, row.why, row.failed = DONE, rows[row.name]["why"], rows[row.name]["failed"]


def recall(folder: Path) -> Plan:
    """What the matrix of that folder was started with. Raises CannotRun where there is none."""
    try:
        words: dict[str, Any] = json.loads((folder / NAME).read_text())["plan"]
    except (OSError, ValueError, KeyError) as error:
        raise CannotRun(f"{folder} holds no matrix", "dmirror matrix begins one") from error
    lists = {name: tuple(words[name]) for name in ("kernels", "flavours", "drivers", "config", "make", "pytest")}
    return Plan(**words | lists)


def last() -> Path:
    """The folder of the matrix that ran last. Raises CannotRun where there is none."""
    folders = sorted((cache() / KIND).glob(f"*/{NAME}"), key=lambda file: file.stat().st_mtime)
    if not folders:
        raise CannotRun("there is no matrix to go on with", "dmirror matrix begins one")
    return folders[-1].parent


def _slowness(row: Row) -> float:
    assert row.cell is not None
    wanted = {option.name: option.value for option in config.options(row.cell.flavour) if option.value != "n"}
    return flavours.slowdown(wanted)


def _judge(row: Row, status: int, *, interrupted: bool) -> None:
    """What the end of a row's step makes of it."""
    why = "interrupted" if interrupted else _last_words(row, status)
    if row.cell is None:
        row.failed = status == 1
        good = status in (0, 1, NO_TESTS)
    elif row.state == BUILDING:
        good = status == 0
    else:
        # Not a session that ends as if all were well, but without a verdict for each test. One that was cut off when
        # every test had its verdict finds no more to run.
        good = row.complete and status in (0, 1, NO_TESTS)
    if good:
        row.end(BUILT if row.state == BUILDING else DONE, why if row.cell is None else "")
    else:
        row.end(CUT_OFF if row.done or interrupted else CANNOT, why)


def _last_words(row: Row, status: int) -> str:
    if row.state == TESTING and row.planned and status in (0, 1):
        return f"{row.planned - row.done} of {row.planned} tests have no verdict"
    if row.state == TESTING and row.cell and status == NO_TESTS:
        return "no test matches"
    text = row.log.read_text(errors="replace")
    lines = [line.strip("= ") for line in text.splitlines() if line.strip()]
    return (_REASONS.findall(text) or lines or [f"exit status {status}, without a word"])[-1]
