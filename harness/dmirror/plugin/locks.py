# SPDX-License-Identifier: GPL-2.0
"""Which tests lockdep did not watch: it reports once, and is silent until the next boot."""

from __future__ import annotations

import pytest

from dmirror.plugin.splat import SILENT


class Unwatched:
    """Says at the end of a session since which test a machine was without lockdep, and how many ran there after it."""

    def __init__(self) -> None:
        self._since: dict[object, str] = {}  # by xdist's controller of the guest's worker, or None on this machine
        self._after: dict[object, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        machine = getattr(report, "node", None)
        if machine in self._since:
            self._after[machine].add(report.nodeid)
        elif any(name == SILENT for name, _ in report.user_properties):
            self._since[machine], self._after[machine] = report.nodeid, set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for machine, test in self._since.items():
            count = len(self._after[machine] - {test})
            terminalreporter.write_line(f"lockdep is silent since {test}; tests without it after that: {count}")
