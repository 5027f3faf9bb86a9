# SPDX-License-Identifier: GPL-2.0
"""Where things stand: the checkout, and the cache that every build and every run lives in."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KMOD = ROOT / "kmod"
QEMU = ROOT / "qemu"

GUEST_TESTS = ("tests/device", "tests/scenarios")
"""What runs where the driver is loaded, below ROOT."""


def cache() -> Path:
    """The cache folder: $DMIRROR_CACHE, or the user's cache folder of the platform. Not created here."""
    chosen = os.environ.get("DMIRROR_CACHE")
    if chosen:
        return Path(chosen).resolve()
    import platformdirs  # noqa: PLC0415  (a guest is told, and spares itself the import)

    return Path(platformdirs.user_cache_dir("dmirror"))
