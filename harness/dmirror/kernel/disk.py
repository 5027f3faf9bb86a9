# SPDX-License-Identifier: GPL-2.0
"""Room on the disk: asked before a long step, and said in words when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmirror.errors import CannotRun

_MEND = "free some space, or set DMIRROR_CACHE to a folder on a larger disk"


def need(folder: Path, mib: int, what: str) -> None:
    """Raise CannotRun unless `mib` MiB are free where `folder` is or will be."""
    present = folder
    while not present.exists():
        present = present.parent
    free = shutil.disk_usage(present).free >> 20
    if free < mib:
        raise CannotRun(f"{what} needs {mib} MiB in {folder} and {free} MiB are free", _MEND)


def full(folder: Path) -> CannotRun:
    """The error for a disk that ran out of room during a step in `folder`."""
    return CannotRun(f"the disk of {folder} is full", _MEND)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT of the block's own writes into `full(folder)`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(folder) from error
        raise
