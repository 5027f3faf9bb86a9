# SPDX-License-Identifier: GPL-2.0
"""Each test of which something is known is one."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from dmirror.paths import GUEST_TESTS, ROOT


def test_every_name_is_a_tests() -> None:
    known = tomllib.loads((ROOT / "tests/defects.toml").read_text())
    command = [sys.executable, "-m", "pytest", *GUEST_TESTS, "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    collected = {line.rpartition("/")[2] if ".dms" in line else line.removeprefix("tests/device/") for line in listed}
    for one in (*known["crash"], *known["silence"]):
        for test in one["tests"]:
            assert any(name == test or (test[-1] == "*" and name.startswith(test[:-1])) for name in collected), test
