# SPDX-License-Identifier: GPL-2.0
"""Which lines of the kernel a run reached, where the kernel counts that (Documentation/dev-tools/gcov.rst)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

_GCOV = Path("/sys/kernel/debug/gcov")
_FOLDER = "gcov"
_REPORT = "coverage.json"


class Collector:
    """In a guest: brings its counts to the run's folder when the session ends. A guest that dies takes them along."""

    def pytest_sessionfinish(self) -> None:
        folder = os.environ.get("DMIRROR_RUN_DIR")
        if folder is None or not _GCOV.exists():
            return
        for counts in _GCOV.rglob("*.gcda"):
            # The names below debugfs are those of the build, from its root on.
            target = Path(folder, _FOLDER, "-".join(counts.relative_to(_GCOV).parts))
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(counts.read_bytes())
            notes = target.with_suffix(".gcno")
            notes.write_text(os.fspath(counts.with_suffix(".gcno").readlink()))


class Table:
    """On the host: sums up what the guests brought, in `coverage.json` and in a table."""

    def __init__(self, run: Path, source: Path) -> None:
        self._run = run
        self._source = source

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counts = _sum(sorted(self._run.glob(f"*/{_FOLDER}/*.gcda")), self._source)
        if not counts:
            return
        (self._run / _REPORT).write_text(json.dumps(counts, indent=1))
        terminalreporter.section(f"lines of the kernel that were reached ({self._run / _REPORT})")
        for file, lines in sorted(counts.items()):
            reached = sum(count > 0 for count in lines.values())
            terminalreporter.line(f"{reached:6} of {len(lines):6}  {reached / len(lines):4.0%}  {file}")


def _sum(files: list[Path], source: Path) -> dict[str, dict[str, int]]:
    """Counts by file, relative to the tree, and line; only of C files, since headers are compiled many times."""
    total: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for file in files:
        for name, lines in _read(file):
            path = Path(os.path.normpath(source / name))
            if path.suffix == ".c" and path.is_relative_to(source):
                for line in lines:
                    total[os.fspath(path.relative_to(source))][str(line["line_number"])] += line["count"]
    return total


def _read(counts: Path) -> list[tuple[str, list[dict[str, int]]]]:
    notes = Path(counts.with_suffix(".gcno").read_text())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(counts, Path(folder, notes.name).with_suffix(".gcda"))
        Path(folder, notes.name).symlink_to(notes)
        command = ["gcov", "--json-format", "--stdout", os.fspath(Path(folder, notes.name))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(file["file"], file["lines"]) for file in json.loads(said)["files"]]
