# SPDX-License-Identifier: GPL-2.0
"""findings/: each pins what it tries, and ends with 1 where it sees something else. None of them is run here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from dmirror.paths import ROOT

FINDINGS = ROOT / "findings"
PROGRAMS = sorted(set(FINDINGS.glob("*.sh")) - {FINDINGS / "lib.sh"})


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_pins_its_packages_and_says_what_it_saw(program: Path) -> None:
    text = program.read_text()
    assert os.access(program, os.X_OK)
    (packages,) = re.findall(r"^(?:python|debian)_packages (.*)", text, re.MULTILINE)
    assert all(re.fullmatch(r"[\w.-]+==?[\w.:+-]+", package) for package in packages.split())
    assert re.search(r"^saw ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("saw it 7 7", 0, "it: 7", ""),
        ("saw it 7 8", 1, "it: 8", "it has changed, it was: 7"),
        ('saw it 3 "$(status_of sh -c "exit 3")"', 0, "it: 3", ""),
        ('cannot "no gcc"', 2, "", "cannot run: no gcc"),
    ],
)
def test_what_is_seen_and_is_not_as_before_is_a_failure(
    tmp_path: Path, line: str, status: int, out: str, err: str
) -> None:
    program = tmp_path / "one.sh"
    program.write_text(f'. "{FINDINGS}/lib.sh"\n{line}\necho "$here"\n')
    ran = subprocess.run(["sh", program], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (ran.returncode, err in ran.stderr) == (status, True), ran.stderr
    assert ran.stdout.startswith(out)
    if status == 0:
        assert not Path(ran.stdout.splitlines()[-1]).exists()
