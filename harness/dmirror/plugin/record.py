# SPDX-License-Identifier: GPL-2.0
"""On the host: verdicts of the tests that ran in guests, for `dmirror contracts`, and the time of each file."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Results, Verdict


class Recorder:
    """Fills `results` as reports come in, and adds them to what is kept when the session is over."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tests = self._results.tests
        verdict = tests.get(report.nodeid)
        if verdict is None:
            contracts = [str(value) for name, value in report.user_properties if name == "contract"]
            verdict = tests[report.nodeid] = Verdict(PASSED, list(dict.fromkeys(contracts)))
        verdict.seconds = round(verdict.seconds + report.duration, 3)
        if report.failed:
            verdict.outcome, verdict.reason = FAILED, ""
        elif report.skipped and verdict.outcome == PASSED:
            defect = getattr(report, "wasxfail", None)
            verdict.outcome = SKIPPED if defect is None else DEFECT
            verdict.reason = _reason(report) if defect is None else defect.removeprefix("reason: ")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        seconds: defaultdict[str, float] = defaultdict(float)
        tests: Counter[str] = Counter()
        for nodeid, verdict in self._results.tests.items():
            file = nodeid.partition("::")[0]
            seconds[file] += verdict.seconds
            tests[file] += 1
        if len(seconds) > 1:
            terminalreporter.section("time of each file")
            for file, time in sorted(seconds.items(), key=lambda item: -item[1]):
                terminalreporter.line(f"{time:7.1f} s  {tests[file]:5} tests  {file}")

    def pytest_sessionfinish(self) -> None:
        if self._results.tests:
            self._results.add()


def _reason(report: pytest.TestReport) -> str:
    _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    return reason.removeprefix("Skipped: ")
