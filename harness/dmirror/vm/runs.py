# SPDX-License-Identifier: GPL-2.0
"""Folders of runs: guests and their consoles, the last few kept."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from dmirror.paths import cache

_RUNS_KEPT = 20


def new() -> Path:
    """A new folder for a run's guests and their consoles; the oldest runs are forgotten."""
    runs = cache() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[_RUNS_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    run = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    run.mkdir()
    return run
