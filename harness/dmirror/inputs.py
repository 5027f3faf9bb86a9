# SPDX-License-Identifier: GPL-2.0
"""Files that a user names: read whole, unless they are larger than any that makes sense."""

from __future__ import annotations

import errno
from pathlib import Path

SCENARIO = 1 << 18
"""Bytes of a scenario, at most: to check so many takes seconds."""

MAILS = 1 << 28
"""Bytes of an mbox, at most, also of one that is unpacked."""


def read(file: Path, at_most: int) -> bytes:
    """What is in a file. OSError also where that is too much, as of a device without end; the rest is not read then."""
    with file.open("rb") as stream:
        return limited(stream.read(at_most + 1), at_most)


def limited(data: bytes, at_most: int) -> bytes:
    """The same data. Raises OSError where it is too much."""
    if len(data) > at_most:
        raise OSError(errno.EFBIG, f"it has more than {at_most >> 10} KiB")
    return data
