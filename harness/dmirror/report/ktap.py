# SPDX-License-Identifier: GPL-2.0
"""Runs as KTAP, for the kernel's own CI: Documentation/dev-tools/ktap.rst, version 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from dmirror.journal import Run
from dmirror.report.summary import Summary, by_file, headline, one_line, printable, said, summaries, words
from dmirror.results import DEFECT, FAILED, SKIPPED, Verdict

_MOST_LINES = 30  # of one text

# A test that ran for too long, and one that was not carried out to its end, are not the same as one that failed.
_DIRECTIVES = {"timeout": "TIMEOUT ", "hang": "TIMEOUT hang: ", "crash": "ERROR crash: ", "harness": "ERROR harness: "}


def ktap(runs: Iterable[Run]) -> str:
    """Three levels: kernels, files, tests. Each plan is of the results that follow it.

    A known defect is `ok` with XFAIL. A run that was cut off is `not ok` with ERROR, also if what there is passed.
    """
    return "\n".join(_group("", [_of_run(one) for one in summaries(runs)], 0)) + "\n"


@dataclass(frozen=True)
class _Result:
    """A result line and the lines before it: `behind` is its directive and what else stands behind the #."""

    ok: bool
    name: str
    behind: str = ""
    before: tuple[str, ...] = ()


def _group(heading: str, results: list[_Result], depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield f"{indent}KTAP version 1"
    if heading:  # for KTAP a diagnostic line like any other; kunit.py and its like head what follows with it
        yield f"{indent}# Subtest: {_description(heading)}"
    yield f"{indent}1..{len(results)}"
    for number, result in enumerate(results, 1):
        yield from result.before
        line = f"{indent}{'ok' if result.ok else 'not ok'} {number} {_description(result.name)}"
        yield f"{line} # {result.behind}" if result.behind else line


def _of_run(one: Summary) -> _Result:
    files = [_of_file(file, tests) for file, tests in by_file(one.run).items()]
    facts = [f"# {name}: {one_line(str(value))}" for name, value in asdict(one.run.subject).items()]
    behind = f"ERROR {one.cut_off}" if one.cut_off else ""
    return _Result(not one.failed, one.name, behind, (*_group(one.name, files, 1), *facts))


def _of_file(file: str, tests: dict[str, Verdict]) -> _Result:
    outcomes = {verdict.outcome for verdict in tests.values()}
    behind = "SKIP all of its tests" if outcomes == {SKIPPED} else ""
    results = [_of_test(name, verdict) for name, verdict in tests.items()]
    return _Result(FAILED not in outcomes, file, behind, tuple(_group(file, results, 2)))


def _of_test(name: str, verdict: Verdict) -> _Result:
    if verdict.outcome in (SKIPPED, DEFECT):
        directive = "SKIP" if verdict.outcome == SKIPPED else "XFAIL"
        return _Result(True, name, f"{directive} {one_line(verdict.reason)}".rstrip())
    if verdict.outcome != FAILED:
        return _Result(True, name)
    why = _DIRECTIVES.get(verdict.cause, f"{verdict.cause}: " if verdict.cause else "") + headline(verdict)
    return _Result(False, name, why, tuple(f"    # {line}".rstrip() for line in _diagnostics(verdict)))


def _diagnostics(verdict: Verdict) -> Iterator[str]:
    yield f"cause: {verdict.cause or 'unknown'}"
    for complaint in verdict.complaints:
        yield f"kernel: {said(complaint)}"
        yield from _some(printable(complaint.decoded or complaint.raw).splitlines(), first=True)
    yield from _some(words(verdict).splitlines(), first=False)
    if verdict.console:
        yield f"console: {one_line(verdict.console)}"


def _some(lines: list[str], *, first: bool) -> Iterator[str]:
    """Of many lines the first, where the kernel says what it is about, or the last, where pytest does."""
    more = [f"... {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    yield from [*lines[:_MOST_LINES], *more] if first else [*more, *lines[-_MOST_LINES:]]


def _description(name: str) -> str:
    """Any characters but # and newline."""
    return one_line(name).replace("#", "_")
