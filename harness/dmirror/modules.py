# SPDX-License-Identifier: GPL-2.0
"""In a guest: the modules that its set-up loads while an interpreter starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FIFO = Path("/run/dmirror-modules")
"""There, and open for writing, until they are loaded."""


def wait() -> None:
    """Until they are loaded; a guest whose modules cannot be loaded ends. Whoever waits for the guest has a limit."""
    with suppress(FileNotFoundError):
        FIFO.read_bytes()
