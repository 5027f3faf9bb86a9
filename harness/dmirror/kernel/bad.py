# SPDX-License-Identifier: GPL-2.0
"""Builds tests/bad, the module that misbehaves on command, for a kernel."""

from __future__ import annotations

from pathlib import Path

from dmirror.kernel import make
from dmirror.kernel.build import Kernel
from dmirror.kernel.module import cached
from dmirror.paths import ROOT

_SOURCES = ROOT / "tests/bad"


def build_bad(kernel: Kernel) -> Path:
    """dmirror_bad.ko for that kernel; the cache's when its source has not changed.

    Raises CannotRun with the compiler's first error.
    """

    def build(work: Path, what: str) -> None:
        arguments = ["-C", str(kernel.build), f"M={work}", *kernel.toolchain.words, "modules"]
        make.run(arguments, what=what, log=work / "build.log")

    sources = {Path(name): (_SOURCES / name).read_bytes() for name in ("Kbuild", "bad.c")}
    return cached(kernel, "dmirror_bad", sources, build, prefix="bad-")
