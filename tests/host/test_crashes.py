# SPDX-License-Identifier: GPL-2.0
"""Each test that is known to end a guest is one."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from dmirror.paths import ROOT


def test_every_known_crash_is_a_test() -> None:
    known = tomllib.loads((ROOT / "tests/device/crashes.toml").read_text())["crash"]
    command = [sys.executable, "-m", "pytest", "tests/device", "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    collected = {line.removeprefix("tests/device/") for line in listed}
    assert [test for one in known for test in one["tests"] if test not in collected] == []
