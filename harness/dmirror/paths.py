# SPDX-License-Identifier: GPL-2.0
"""Where things stand: the checkout, or what a wheel has of it, and the cache that all builds and runs live in."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_PACKED = _PACKAGE / "checkout"
INSTALLED = _PACKED.is_dir()
"""Whether this is a wheel's copy: perhaps read-only, part of the Python installation, and without version control."""

ROOT = _PACKED if INSTALLED else _PACKAGE.parents[1]
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
