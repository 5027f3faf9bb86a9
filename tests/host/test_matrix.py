# SPDX-License-Identifier: GPL-2.0
"""A matrix of stand-in cells: small programs that write a journal as a session of pytest does."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from dmirror import cli, journal, matrix
from dmirror.cells import CUT_OFF, DONE, TESTING, WAITING, Cell, Row, failures
from dmirror.errors import CannotRun
from dmirror.matrix import Commands, Matrix, Plan, shares
from dmirror.results import FAILED, PASSED, Verdict
from dmirror.screen import Lines, line, picture
from dmirror.vm import runs

# Plays a cell in the folder it is given. What follows is a test each, by its outcome; "lose" is one without a verdict,
# "wait" one that takes too long. "refuse" and "fall" are no tests: there is no run then.
CELL = r"""
import sys, time
from pathlib import Path
from dmirror.journal import NAME, Journal, Subject, load
from dmirror.results import Verdict

folder, events = Path(sys.argv[1]), sys.argv[2:]
ran = (folder / "ran").open("a", buffering=1)
if events == ["refuse"]:
    sys.exit("Exit: no guest: it does not boot")
if events == ["fall"]:
    print("INTERNALERROR>  File x\nINTERNALERROR> RuntimeError: no workers\n\n=== 1 passed in 9 s ===")
    sys.exit(3)
earlier = load(folder).tests if (folder / NAME).exists() else {}
print("begin", time.monotonic(), file=ran)
book = Journal(folder, Subject("7.3.4", "7.3.4", "00", "00", "default", "dmirror", "unknown", "tcg"))
book.plan(len(events))
for name, event in ((f"t{number}", event) for number, event in enumerate(events)):
    if name in earlier or event == "lose":
        continue
    print(name, file=ran)
    if event == "wait":
        try:
            (folder / "waits").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", file=ran)
            sys.exit(2)
    book.add(name, Verdict(event, [], cause="assertion" * (event == "failed"), text="def test():\nE  1 != 2"))
book.end()
print("end", time.monotonic(), file=ran)
sys.exit("failed" in events)
"""


class Silent:
    def update(self, rows: Sequence[Row]) -> None:
        pass


class Interrupting:
    """Sends this process signals, one each time it is told and `ready` finds as many files as there should be."""

    def __init__(self, folder: Path, ready: str, files: int, *numbers: signal.Signals) -> None:
        self._folder, self._ready, self._files = folder, ready, files
        self._numbers = list(numbers)

    def update(self, rows: Sequence[Row]) -> None:
        if self._numbers and len(list(self._folder.glob(self._ready))) == self._files:
            os.kill(os.getpid(), self._numbers.pop())


def stand_in(folder: Path, events: dict[str, str], host: str = "echo 3 passed in 0.1 s") -> Matrix:
    """A matrix whose cells fare as `events` says, by kernel; one without any does not build."""
    folder.mkdir(exist_ok=True)

    def build(cell: Cell) -> list[str]:
        if events[cell.kernel]:
            return ["true"]
        return ["sh", "-c", "echo dmirror: building; echo 'dmirror: CONFIG_X did not take; see Y' >&2; exit 2"]

    def test(row: Row) -> list[str]:
        assert row.cell is not None
        return [sys.executable, "-c", CELL, os.fspath(row.folder), *events[row.cell.kernel].split()]

    plan = Plan(tuple(events), ("default",), ("dmirror",))
    return Matrix(folder, plan, Commands(["sh", "-c", host], build, test))


def ran(cell: Row) -> list[str]:
    """The tests that a cell began, in all its sessions, and whether it was interrupted."""
    lines = (cell.folder / "ran").read_text().splitlines()
    return [line for line in lines if " " not in line]


def times(cell: Row) -> list[float]:
    """When its sessions began and ended, of time.monotonic."""
    lines = (cell.folder / "ran").read_text().splitlines()
    return [float(line.split()[1]) for line in lines if " " in line]


def test_verdicts_of_all_cells_are_counted_together(tmp_path: Path) -> None:
    it = stand_in(tmp_path / "m", {"6.1": "passed passed defect", "7.3": "passed skipped"})
    it.run(2, Silent())
    assert it.text().splitlines()[-1] == "3 passed, 0 failed, 1 defects, 1 skipped"
    assert it.status() == 0


def test_a_failed_test_is_status_1_also_where_a_cell_could_not_run(tmp_path: Path) -> None:
    it = stand_in(tmp_path / "m", {"6.1": "passed failed", "7.3": ""})
    it.run(1, Silent())
    assert it.status() == 1
    assert "6.1: FAILED t1: assertion: 1 != 2" in it.text()


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ("", "7.2: cannot run: CONFIG_X did not take; see Y"),
        ("refuse", "7.2: cannot run: no guest: it does not boot"),
        ("fall", "7.2: cannot run: RuntimeError: no workers"),
        ("passed lose passed", "7.2: cut off: 1 of 3 tests have no verdict"),
    ],
)
def test_a_cell_without_all_its_verdicts_says_why_and_the_others_go_on(tmp_path: Path, events: str, why: str) -> None:
    it = stand_in(tmp_path / "m", {"7.2": events, "7.3": "passed"})
    it.run(1, Silent())
    assert it.status() == 2
    assert why in it.text()
    assert it.cells[1].counts()[PASSED] == 1


@pytest.mark.parametrize(("status", "ends", "cells_run"), [(0, 0, True), (5, 0, True), (1, 1, True), (4, 2, False)])
def test_the_host_tests_come_first_and_count(tmp_path: Path, status: int, ends: int, cells_run: bool) -> None:
    it = stand_in(tmp_path / "m", {"7.3": "passed"}, host=f"echo 1 failed in 2 s; exit {status}")
    it.run(1, Silent())
    assert it.status() == ends
    assert (it.cells[0].state == DONE) == cells_run
    assert ("host tests: 1 failed in 2 s; all they said is in " in it.text()) == (status == 1)


def test_cells_run_side_by_side_as_guests_allow(tmp_path: Path) -> None:
    it = stand_in(tmp_path / "m", {"6.1": "passed", "6.12": "passed", "7.2": "passed", "7.3": "passed"})
    it.run(1, Silent())
    spans = [times(cell) for cell in it.cells]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("cells", "guests", "expected"),
    [
        (4, 1, [1] * 4),
        (4, 4, [1] * 4),
        (4, 3, [1, 1, 1, 3]),
        (2, 8, [4, 4]),
        (3, 8, [4, 4, 8]),
        (1, 5, [5]),
        (0, 2, []),
    ],
)
def test_every_guest_has_a_cell_until_the_end(cells: int, guests: int, expected: list[int]) -> None:
    assert shares(cells, guests) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_matrix_leaves_nothing_running_and_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    events = {"6.1": "passed", "7.2": "failed wait passed", "7.3": "wait", "7.4": "passed"}
    it = stand_in(tmp_path / "m", events)
    it.run(2, Interrupting(tmp_path, "m/*/waits", 2, number))
    assert it.interrupted == number
    assert not _running(tmp_path)
    assert [cell.state for cell in it.cells] == [DONE, CUT_OFF, CUT_OFF, WAITING]
    assert [ran(cell) for cell in it.cells[1:3]] == [["t0", "t1", "interrupted"], ["t0", "interrupted"]]
    assert "7.2: cut off: interrupted" in it.text()
    assert it.status() == 1

    it = stand_in(tmp_path / "m", {name: word.replace("wait", "passed") for name, word in events.items()})
    it.run(2, Silent())
    assert [cell.state for cell in it.cells] == [DONE] * 4
    assert ran(it.cells[0]) == ["t0"]
    assert ran(it.cells[1]) == ["t0", "t1", "interrupted", "t1", "t2"]
    assert it.text().splitlines()[-1] == "5 passed, 1 failed, 0 defects, 0 skipped"


def _running(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(words.decode(errors="replace"))
    return found


def test_what_does_not_end_when_told_is_killed_by_a_second_signal(tmp_path: Path) -> None:
    it = stand_in(
        tmp_path / "m", {"7.3": "passed"}, host=f"trap '' INT; touch {tmp_path}/m/here; while :; do sleep 0.1; done"
    )
    it.run(1, Interrupting(tmp_path, "m/here", 1, signal.SIGINT, signal.SIGINT))
    assert [row.state for row in it.rows] == [CUT_OFF, WAITING]


def test_sessions_are_interrupted_when_the_matrix_dies(tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    session = "trap 'echo told; exit' INT; echo here; while :; do sleep 0.1; done"
    code = (
        "import sys\nfrom pathlib import Path\nfrom dmirror.sessions import Sessions\n"
        "with Sessions() as it:\n    it.start('', ['sh', '-c', sys.argv[1]], Path(sys.argv[2]))\n    it.wait(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, session, os.fspath(log)]) as process, log.open() as said:
        assert said.readline() == "here\n"
        process.kill()
        assert said.read() == "told\n"


def test_a_cell_is_the_pytest_session_of_its_kernel_flavour_and_driver(tmp_path: Path) -> None:
    wanted = matrix.plan("7.2,./linux", "debug", "test_hmm", expression="Z-02", append="a b", pytest=("-x",))
    does = matrix.commands(wanted)
    known, tree = wanted.cells()
    assert does.build(known)[-7:] == ["build", "--kernel", "7.2", "--flavour", "debug", "--driver", "test_hmm"]
    assert does.build(tree)[-6:-4] == ["--kdir", os.fspath(Path("linux").resolve())]
    words = does.test(Row(tmp_path / known.folder, known, guests=3))
    for word in (
        "kernel=7.2",
        "flavour=debug",
        "driver=test_hmm",
        "guests=3",
        "append=a b",
        f"run={tmp_path}/7.2-debug",
    ):
        assert any(given.startswith(f"--dmirror-{word}") for given in words)
    assert words[-3:] == ["-k", "Z-02", "-x"]
    assert known.name == "7.2 debug test_hmm"


def test_all_and_lists_of_names(tmp_path: Path) -> None:
    assert len(matrix.plan("all", "default", "dmirror").cells()) >= 4
    assert matrix.plan("7.2, 7.3,7.2", "all", "all").kernels == ("7.2", "7.3")
    for words, name in ((("9.9", "all", "all"), "9.9"), (("all", "nope", "all"), "nope"), (("all", "all", "x"), "x")):
        with pytest.raises(CannotRun, match=f"={name} is not a"):
            matrix.plan(*words)


def test_what_cannot_be_resumed_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs.new(matrix.KIND)
    for arguments, says in (
        (["--resume"], "there is no matrix to go on with; dmirror matrix begins one"),
        ([f"--resume={tmp_path}"], f"{tmp_path} holds no matrix"),
        (["--resume", "--kernels=7.3"], "leave the other options out"),
    ):
        assert cli.main(["matrix", *arguments]) == 2
        assert says in capsys.readouterr().err
    stand_in(folder, {"7.3": "passed"}).run(1, Silent())
    assert matrix.last() == folder
    assert matrix.recall(folder) == Plan(("7.3",), ("default",), ("dmirror",))
    assert cli.main(["matrix", "--resume"]) == 2
    assert f"{folder} is still under way in another process" in capsys.readouterr().err


def test_a_matrix_that_is_complete_only_says_its_verdicts_again(
    cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cache_folder / matrix.KIND / "mine"
    folder.parent.mkdir(parents=True)
    stand_in(folder, {"7.2": "passed", "7.3": "failed"}).run(1, Silent())
    assert cli.main(["matrix", "--resume"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed, 0 defects, 0 skipped"


def test_a_row_says_how_far_it_is_and_how_long_it_will_take(tmp_path: Path) -> None:
    book = journal.Journal(tmp_path, journal.Subject("7.3.4", "7.3.4", "0", "0", "default", "dmirror", "", "tcg"))
    book.plan(5)
    row = Row(tmp_path, Cell("7.3", "default", "dmirror"), kept=1)
    row.begin(TESTING)
    for number, outcome in enumerate((PASSED, PASSED, FAILED)):
        book.add(f"t{number}", Verdict(outcome, [], cause="crash", text="crash: it panicked"))
    assert row.left_s() is None
    row.look()
    row.since = time.monotonic() - 100.5
    assert line(row) == "7.3: testing 3/5, 2 passed, 1 failed, 1:40, 1:40 left"
    row.why = "a reason that is far too long for what is left of the line"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(picture([row], failures([row])))
    shown = console.export_text().splitlines()
    assert shown[1].split()[:8] == ["7.3", "testing", "3/5", "2", "1", "1:40", "1:40", "a"]
    assert shown[1].endswith("…")
    assert shown[-1].rstrip() == "7.3  t2  crash: it panicked"


def test_plain_lines_come_with_changes_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = stand_in(tmp_path / "m", {"6.1": "passed failed", "7.3": ""})
    it.run(1, Lines())
    said = [line.partition(", 0:0")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "host tests: testing",
        "host tests: done",
        "6.1: building",
        "7.3: building",
        "7.3: cannot run",
        "6.1: testing",
        "6.1: FAILED t1: assertion: 1 != 2",
        "6.1: done 2/2, 1 passed, 1 failed",
    ]
