# SPDX-License-Identifier: GPL-2.0
"""Each test of which something is known is one; what ends or hangs a kernel is told and not shipped."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from dmirror.contracts import FINDINGS
from dmirror.paths import GUEST_TESTS, ROOT

FATAL = r"(?i)panic|oops|\bhang|spin|lock ?up|deadlock|lockdep|NULL pointer|use.after.free|crash"


def test_every_name_is_a_tests() -> None:
    known = tomllib.loads((ROOT / "tests/defects.toml").read_text())
    command = [sys.executable, "-m", "pytest", *GUEST_TESTS, "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    collected = [line.rpartition("/")[2] if ".dms" in line else line.removeprefix("tests/device/") for line in listed]
    for one in (*known["skip"], *known["silence"]):
        for pattern in one["tests"]:
            assert fnmatch.filter(collected, pattern.replace("[", "[[]")), pattern


def test_no_test_is_kept_that_nobody_may_run() -> None:
    """It would be a program that ends a kernel: ask what is harmless, or tell it in docs/findings.md and left_out."""
    files = [file for name in ("conftest.py", *GUEST_TESTS) for file in _files(name)]
    assert len(files) > 60
    assert [str(file) for file in files if re.search(r"\brun\s*=\s*False", file.read_text())] == []


def _files(name: str) -> list[Path]:
    path = ROOT / "tests" / name if name == "conftest.py" else ROOT / name
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def test_what_ends_or_hangs_a_kernel_has_no_program() -> None:
    text = FINDINGS.read_text()
    assert "†" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert [row for row in rows if re.search(FATAL, row) and "](findings/" in row] == []
