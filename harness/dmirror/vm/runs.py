# SPDX-License-Identifier: GPL-2.0
"""Folders of runs: guests and their consoles, the last few kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.paths import cache

_RUNS_KEPT = 20
# Where guests have their folders: alone, of a session's, of a matrix' cell, of a patch of a series.
_GUESTS = ("runs/*", "runs/*/guest-*", "matrix/*/*/guest-*", "series/*/runs/*/guest-*", "fuzz/*/guest-*/guest-*")


def new(kind: str = "runs") -> Path:
    """A new folder for a run's guests and their consoles; the oldest runs of its kind that have ended are forgotten.

    The run has ended with this process, which holds a lock (flock(2)) on its folder until then.
    """
    runs = cache() / kind
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[_RUNS_KEPT:]:
        _forget(old)
    return kept(Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=runs)))


def kept(run: Path) -> Path:
    """That folder, made if it is not there, as this process's until it ends."""
    run.mkdir(parents=True, exist_ok=True)
    fcntl.flock(os.open(run, os.O_RDONLY), fcntl.LOCK_SH)
    return run


def again(run: Path) -> None:
    """Take up a run that has ended. Raises CannotRun while another process is at it."""
    try:
        fcntl.flock(os.open(run, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotRun(f"{run} is still under way in another process", "let that one end, or interrupt it") from error


def newest(name: str, *, of: Callable[[Path], bool] = lambda folder: True) -> Path | None:
    """The guest's folder in which the file of that name is the newest; of those which `of` is true for."""
    files = (file for pattern in _GUESTS for file in cache().glob(f"{pattern}/{name}") if of(file.parent))
    last = max(files, key=lambda file: file.stat().st_mtime, default=None)
    return last.parent if last else None


def _forget(run: Path) -> None:
    try:
        folder = os.open(run, os.O_RDONLY)
    except FileNotFoundError:  # by another process
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(run, ignore_errors=True)
    finally:
        os.close(folder)
