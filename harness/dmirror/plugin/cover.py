# SPDX-License-Identifier: GPL-2.0
"""A table of the lines of the kernel that a run reached, where the kernel counts that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dmirror import gcov
from dmirror.errors import CannotRun

_REPORT = "coverage.json"


class Collector:
    """In a guest: brings its counts to the run's folder when the session ends. A guest that dies takes them along."""

    def pytest_sessionfinish(self) -> None:
        folder = os.environ.get("DMIRROR_RUN_DIR")
        if folder is not None:
            gcov.bring(Path(folder))


class Table:
    """On the host: sums up what the guests brought, in `coverage.json` and in a table."""

    def __init__(self, run: Path, source: Path) -> None:
        self._run = run
        self._source = source

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        try:
            counts = gcov.summed(self._run, self._source)
        except CannotRun as error:
            terminalreporter.line(f"no table of the lines that were reached: {error}", red=True)
            return
        if not counts:
            return
        (self._run / _REPORT).write_text(json.dumps(counts, indent=1))
        terminalreporter.section(f"lines of the kernel that were reached ({self._run / _REPORT})")
        for file, lines in sorted(counts.items()):
            reached = gcov.reached(lines)
            terminalreporter.line(f"{reached:6} of {len(lines):6}  {reached / len(lines):4.0%}  {file}")
        terminalreporter.line(
            "Lines of a function that was inlined (-O2) can have count 0 though it ran: 0 is not proof."
        )
