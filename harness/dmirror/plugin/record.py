# SPDX-License-Identifier: GPL-2.0
"""On the host: verdicts of the tests that ran in guests, as they come in and from run to run; the time of each file."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.junitxml import xml_key

from dmirror import timeline
from dmirror.journal import NAME, Journal, Run
from dmirror.plugin.splat import CAUSE, CONSOLE, DECODED, failure
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Complaint, Results, Verdict
from dmirror.trial import ALL_SKIPPED
from dmirror.vm.guest import AGAIN

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]


_AGAIN = f"guest-*/{AGAIN}"
# Of a session that came to its end, and of one of which no test was there.
_WHOLE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
_NOT_THERE = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
# Of the tests without a verdict, so many are named.
_NAMED = 10


class Recorder:
    """Writes each verdict to the journal of `run` at once, and adds all to what is kept when the session is over.

    A test has its verdict when its teardown, or its guest, has ended. A session that comes to its end with a test that
    has none fails that test: xdist does not miss it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._journal = Journal(run.folder, run.subject)
        self._earlier = set(run.folder.glob(_AGAIN))
        self._planned: list[str] = []
        self._begun: dict[str, Verdict] = {}
        self._called: set[str] = set()

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        # pytest's own XML says what was tested, too, where it is asked for (--junitxml).
        xml = session.config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in asdict(self._run.subject).items():
                xml.add_global_property(name, value)

    def pytest_xdist_node_collection_finished(self, node: WorkerController, ids: list[str]) -> None:
        if not self._planned:
            self._planned = list(ids)
            # Where the run goes on, its guests leave out what has a verdict.
            self._run.planned = len(self._run.tests.keys() | set(ids))
            self._journal.plan(self._run.planned)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has a verdict of its own: nobody knows which tests it has."""
        if report.failed:
            text = report.longreprtext
            self._run.tests[report.nodeid] = Verdict(FAILED, [], cause="harness", text=f"cannot be collected\n\n{text}")
            self._journal.add(report.nodeid, self._run.tests[report.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        ran = yield
        for test in self._without_verdict():
            said = "harness: this test was given to a guest, and nothing came back of how it ended"
            session.config.hook.pytest_runtest_logreport(report=failure(test, said, [(CAUSE, "harness")]))
        return ran

    def _without_verdict(self) -> list[str]:
        return [test for test in self._planned if test not in self._run.tests]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        verdict = self._run.tests.get(report.nodeid) or self._begun.get(report.nodeid) or Verdict(PASSED, [])
        told: dict[str, Any] = dict(report.user_properties)
        contracts = [str(value) for name, value in report.user_properties if name == "contract"]
        verdict.contracts = list(dict.fromkeys([*verdict.contracts, *contracts]))
        verdict.seconds = round(verdict.seconds + report.duration, 3)
        if report.failed:
            complaints = told.get(DECODED, [])
            verdict.outcome, verdict.reason = FAILED, ""
            verdict.cause = verdict.cause or told.get(CAUSE, "kernel" if complaints else "assertion")
            verdict.text += report.longreprtext
            verdict.complaints += [Complaint(**one) for one in complaints]
        elif report.skipped and verdict.outcome == PASSED:
            defect = getattr(report, "wasxfail", None)
            verdict.outcome = SKIPPED if defect is None else DEFECT
            verdict.reason = _reason(report) if defect is None else defect.removeprefix("reason: ")
        if CONSOLE in told:
            verdict.console = os.path.relpath(told[CONSOLE], self._run.folder)
        logs = [json.loads(str(value)) for name, value in report.user_properties if name == timeline.PROPERTY]
        verdict.logs += [log for log in logs if log not in verdict.logs]
        if report.when == "call":
            self._called.add(report.nodeid)
        # A test that was only set up (--setup-only) has neither passed nor failed.
        over = report.when == "teardown" and (report.nodeid in self._called or verdict.outcome != PASSED)
        if over or CAUSE in told:
            self._begun.pop(report.nodeid, None)
            self._run.tests[report.nodeid] = verdict
            self._journal.add(report.nodeid, verdict)
        else:
            self._begun[report.nodeid] = verdict

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        seconds: defaultdict[str, float] = defaultdict(float)
        tests: Counter[str] = Counter()
        for nodeid, verdict in self._run.tests.items():
            file = nodeid.partition("::")[0]
            seconds[file] += verdict.seconds
            tests[file] += 1
        if len(seconds) > 1:
            terminalreporter.section("time of each file")
            for file, time in sorted(seconds.items(), key=lambda item: -item[1]):
                terminalreporter.line(f"{time:7.1f} s  {tests[file]:5} tests  {file}")
        missing = self._without_verdict()
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            terminalreporter.line(f"no verdict: {', '.join(missing[:_NAMED])}{more}")
        if exitstatus in (pytest.ExitCode.OK, ALL_SKIPPED) and self._all_skipped:
            terminalreporter.line(f"nothing was tested: all of {len(self._run.tests)} were skipped", yellow=True)

    @property
    def _all_skipped(self) -> bool:
        return {verdict.outcome for verdict in self._run.tests.values()} == {SKIPPED}

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self._all_skipped and session.config.option.dmirror_fail_on_empty:
            session.exitstatus = ALL_SKIPPED
        for file in set(self._run.folder.glob(_AGAIN)) - self._earlier:
            self._run.booted_again.append(file.read_text().strip())
            self._journal.booted_again(self._run.booted_again[-1])
        if self._planned and not self._without_verdict() and exitstatus in _WHOLE:
            self._journal.end()
        self._journal.close()
        tests = {test: verdict for test, verdict in self._run.tests.items() if "::" in test}
        if tests:
            subject = self._run.subject
            Results(subject.kernel, subject.flavour, subject.driver, tests).add()
        elif exitstatus in _NOT_THERE and not self._run.tests:
            (self._run.folder / NAME).unlink()  # a slip of the user's is no run that was cut off


def _reason(report: pytest.TestReport) -> str:
    _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    return reason.removeprefix("Skipped: ")
