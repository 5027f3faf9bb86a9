# SPDX-License-Identifier: GPL-2.0
"""Locks between runs: the second of two says that it waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dmirror.kernel import progress


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock beside `folder` (not in it, so that the folder itself can be replaced)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        progress.say(f"waiting for another run that is {what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
