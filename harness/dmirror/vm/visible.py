# SPDX-License-Identifier: GPL-2.0
"""Files of the host that a guest sees though they stand where it has a file system of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dmirror.errors import CannotRun

# What qemu/fstab mounts, and what the kernel does. The rest of the guest's root is the host's.
_OWN = frozenset(map(Path, ("/dev", "/dev/shm", "/proc", "/run", "/sys", "/tmp", "/var/tmp")))


def brought(paths: Iterable[Path]) -> set[Path]:
    """What has to be brought to a guest for it to see these: the folder that each stands in, as a program imports what
    stands beside it, or the file alone where that folder is the guest's own. Symbolic links are followed, too."""
    found = set()
    for path in paths:
        for place in (Path(os.path.abspath(path)), path.resolve()):
            if _OWN.isdisjoint(place.parents):
                continue
            folder = place if place.is_dir() else place.parent
            found.add(place if folder in _OWN else folder)
    return found - _OWN


def refuse_unreadable(file: Path, what: str) -> None:
    """Raises CannotRun for what the guest cannot read once more: a pipe, a device, nothing; `what` would be right."""
    if not file.is_file():
        raise CannotRun(f"{file} is {'no file' if file.exists() else 'not there'}", f"name {what}")
