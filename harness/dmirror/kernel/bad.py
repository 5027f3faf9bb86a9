# SPDX-License-Identifier: GPL-2.0
"""Builds tests/bad, the module that misbehaves on command, for a kernel."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dmirror.kernel import disk, locks, make, progress, tools
from dmirror.kernel.build import Kernel
from dmirror.kernel.module import sync
from dmirror.paths import ROOT, cache

_SOURCES = ROOT / "tests/bad"


def build_bad(kernel: Kernel) -> Path:
    """dmirror_bad.ko for that kernel; the cache's when its source has not changed.

    Raises CannotRun with the compiler's first error.
    """
    sources = {Path(name): (_SOURCES / name).read_bytes() for name in ("Kbuild", "bad.c")}
    digest = hashlib.sha256(b"\0".join(sources.values())).hexdigest()
    folder = cache() / "modules" / kernel.key[:12]
    module = folder / f"bad-{digest[:12]}" / "dmirror_bad.ko"
    if not module.exists():
        with locks.exclusive(folder, f"building dmirror_bad.ko for {kernel.label}"), disk.watched(folder):
            if not module.exists():
                _build(kernel, sources, folder / "bad-work", module)
    return module


def _build(kernel: Kernel, sources: dict[Path, bytes], work: Path, module: Path) -> None:
    what = f"building dmirror_bad.ko for {kernel.label}"
    tools.check()
    sync(sources, work)
    with progress.step(what):
        make.run(["-C", str(kernel.build), f"M={work}", "modules"], what=what, log=work / "build.log")
    module.parent.mkdir(exist_ok=True)
    fresh = module.with_suffix(".tmp")
    shutil.copyfile(work / "dmirror_bad.ko", fresh)
    fresh.replace(module)
