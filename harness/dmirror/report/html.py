# SPDX-License-Identifier: GPL-2.0
"""Runs as one page that stands alone: what broke first, then everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

import jinja2
from markupsafe import Markup, escape

from dmirror.journal import Run
from dmirror.report.picture import PLACES, Picture, picture
from dmirror.report.problems import Failure, problems
from dmirror.report.summary import Summary, by_file, duration, printable, said, summaries, words
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Complaint, Verdict
from dmirror.splats import TEST_STARTS
from dmirror.vm import console

_CELLS = {PASSED: "pass", FAILED: "FAIL", DEFECT: "defect", SKIPPED: "skip"}

_SLOW_S = 5.0  # a test's time is shown from here on
_LONGEST = 16_000  # characters of one text; its middle is left out
_CONSOLE_LINES = 80
_SHOWN_OF_EACH = 12  # failures of one problem; of the others only the names
# Characters of failures, and of pictures of tests that passed: a browser opens a page of some MB at once.
_FAILURES_ROOM = 1_500_000
_PICTURES_ROOM = 1_000_000
_PICTURE_EACH = 400  # of an event, about


@dataclass
class Shown:
    """A failure with everything that there is to see of it; without it where the page would be too long."""

    failure: Failure
    complaints: list[Complaint] = field(default_factory=list)
    text: str = ""  # HTML
    console: str = ""
    pictures: list[Picture] = field(default_factory=list)
    whole: bool = True


@dataclass
class Reason:
    """Tests that were skipped, or failed as expected, for one reason."""

    text: str
    runs: dict[str, None] = field(default_factory=dict)
    tests: dict[str, None] = field(default_factory=dict)


def html(runs: Iterable[Run]) -> str:
    """The page of several runs. The consoles are read from the runs' folders, where they are still there."""
    of = summaries(runs)
    broken = problems(of)
    shown = _shown([failure for problem in broken for failure in problem.failures[:_SHOWN_OF_EACH]])
    failures = [failure for problem in broken for failure in problem.failures]
    numbers = {(id(failure.run), failure.nodeid): failure.number for failure in failures}
    timelines, unseen = _of_passed(of)
    return _template().render(
        runs=of,
        matrix=_matrix(of),
        problems=broken,
        shown=shown,
        most=_SHOWN_OF_EACH,
        failed=len(failures),
        failed_runs=sum(one.failed for one in of),
        files=_files(of, numbers),
        tests=len({nodeid for one in of for nodeid in one.run.tests}),
        defects=_reasons(of, DEFECT),
        skips=_reasons(of, SKIPPED),
        timelines=timelines,
        unseen=unseen,
        places=PLACES,
        cells=_CELLS,
        slow=_SLOW_S,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dmirror", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "n": lambda number: f"{number:.1f}".removesuffix(".0"),
        "clean": printable,
        "duration": duration,
        "said": said,
        "clipped": clipped,
        "date": lambda seconds: datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M"),
    }
    return environment.get_template("report.html.j2")


def _matrix(runs: list[Summary]) -> tuple[list[tuple[str, str]], list[tuple[str, list[list[Summary]]]]]:
    """Columns of flavours and drivers; a row for each kernel, of what ran in each column."""
    cells: dict[tuple[str, str, str], list[Summary]] = {}
    for one in runs:
        subject = one.run.subject
        cells.setdefault((subject.kernel, subject.flavour, subject.driver), []).append(one)
    columns = list(dict.fromkeys((flavour, driver) for _, flavour, driver in cells))
    columns.sort(key=lambda column: (column[1] != "dmirror", column[1], column[0] != "default", column[0]))
    kernels = dict.fromkeys(kernel for kernel, _, _ in cells)
    return columns, [(kernel, [cells.get((kernel, *column), []) for column in columns]) for kernel in kernels]


def _shown(failures: Iterable[Failure]) -> dict[int, Shown]:
    """By number; what does not fit any more is left out whole."""
    left = _FAILURES_ROOM
    shown = {}
    for failure in failures:
        verdict = failure.verdict
        texts = [verdict.text, *(text for one in verdict.complaints for text in (one.decoded, one.raw))]
        logs = [log for log in verdict.logs if log["events"]]
        length = sum(min(len(text), _LONGEST) for text in texts)
        length += sum(_PICTURE_EACH * len(log["events"]) for log in logs)
        if length > left:
            shown[failure.number] = Shown(failure, whole=False)
            continue
        one = Shown(
            failure, verdict.complaints, _marked(words(verdict)), _console(failure), [picture(log) for log in logs]
        )
        left -= length + len(one.console)
        shown[failure.number] = one
    return shown


def clipped(text: str) -> str:
    """A text as it can be shown; of a long one its beginning and its end."""
    text = printable(text).strip("\n")
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n\n... {len(text) - 2 * half} characters ...\n\n{text[-half:]}"


def _marked(text: str) -> Markup:
    """What pytest said, with the line that failed and what it says of it told from the rest."""
    lines = []
    for line in clipped(text).splitlines():
        tag = {"E": "mark", ">": "b"}.get(line[:1])
        lines.append(Markup("<{0}>{1}</{0}>").format(Markup(tag), line) if tag else escape(line))
    return Markup("\n").join(lines)


def _console(failure: Failure) -> str:
    """What the guest's console said from the beginning of the test to that of the next one."""
    if not failure.verdict.console:
        return ""
    text = console.read(failure.run.run.folder / failure.verdict.console)
    starts = text.rfind(f"{TEST_STARTS}{failure.nodeid}"[:800])
    if starts >= 0:
        following = text.find(TEST_STARTS, starts + len(TEST_STARTS))
        text = text[text.rfind("\n", 0, starts) + 1 : following if following >= 0 else None]
    lines = printable(text).splitlines()
    if len(lines) > _CONSOLE_LINES:
        half = _CONSOLE_LINES // 2
        head = lines[:half] if starts >= 0 else []
        tail = lines[len(head) - _CONSOLE_LINES :]
        lines = [*head, f"... {len(lines) - len(head) - len(tail)} lines ...", *tail]
    return "\n".join(lines)


@dataclass
class Row:
    """A test: of each run the verdict, and the number of the failure or 0."""

    test: str
    cells: list[tuple[Verdict | None, int]]


@dataclass
class File:
    """A file's tests, and how many verdicts of each outcome there are."""

    name: str
    rows: list[Row]
    counts: dict[str, int]
    seconds: float


def _files(runs: list[Summary], numbers: Mapping[tuple[int, str], int]) -> list[File]:
    per_run = [by_file(one.run) for one in runs]
    files = []
    for name in sorted({name for of in per_run for name in of}):
        of_file = [of.get(name, {}) for of in per_run]
        rows = [
            Row(
                test,
                [
                    (tests.get(test), numbers.get((id(run), f"{name}::{test}" if test != name else name), 0))
                    for run, tests in zip(runs, of_file, strict=True)
                ],
            )
            for test in dict.fromkeys(test for tests in of_file for test in tests)
        ]
        verdicts = [verdict for tests in of_file for verdict in tests.values()]
        counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in _CELLS}
        files.append(File(name, rows, counts, sum(verdict.seconds for verdict in verdicts)))
    return files


def _reasons(runs: list[Summary], outcome: str) -> list[Reason]:
    found: dict[str, Reason] = {}
    for one in runs:
        for nodeid, verdict in one.run.tests.items():
            if verdict.outcome == outcome:
                reason = found.setdefault(verdict.reason, Reason(verdict.reason or "(no reason given)"))
                reason.runs[one.name] = None
                reason.tests[nodeid] = None
    return sorted(found.values(), key=lambda reason: -len(reason.tests))


@dataclass
class Timelines:
    """Pictures of a file's tests that did not fail: of each the test's name, the run's, and the picture."""

    file: str
    pictures: list[tuple[str, str, Picture]] = field(default_factory=list)


def _of_passed(runs: list[Summary]) -> tuple[list[Timelines], int]:
    """As many pictures as there is room for, by file; and how many there is none for."""
    left, unseen = _PICTURES_ROOM, 0
    files: dict[str, Timelines] = {}
    for one in runs:
        for file, tests in by_file(one.run).items():
            for test, verdict in tests.items():
                for log in verdict.logs if verdict.outcome != FAILED else ():
                    length = _PICTURE_EACH * len(log["events"])
                    if 0 < length <= left:
                        left -= length
                        files.setdefault(file, Timelines(file)).pictures.append((test, one.name, picture(log)))
                    else:
                        unseen += bool(length)
    return list(files.values()), unseen
