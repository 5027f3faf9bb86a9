# SPDX-License-Identifier: GPL-2.0
"""The folders of runs: the last few are kept, and one that still goes on is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dmirror.vm import runs

NEW = "import sys; from dmirror.vm import runs; print(runs.new(), flush=True); sys.stdin.read()"


def test_the_oldest_is_forgotten_once_it_has_ended(cache_folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NEW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as going:
        assert going.stdout is not None
        oldest = Path(going.stdout.readline().strip())
        os.utime(oldest, (0, 0))
        for number in range(30):
            (cache_folder / "runs" / f"ended-{number}").mkdir()
        runs.new()
        assert oldest.exists()
        assert len(list((cache_folder / "runs").iterdir())) == 22  # with that one, and the new one
        going.communicate("")
    (cache_folder / "runs" / "another").mkdir()
    os.utime(oldest, (0, 0))
    (runs.new()).rmdir()
    assert not oldest.exists()
