# SPDX-License-Identifier: GPL-2.0
"""Whether a kernel can stand elsewhere at each boot (arch/x86/mm/kaslr.c: the direct map, too, and with it the place of
device-private memory)."""

from __future__ import annotations

from dmirror.errors import CannotRun
from dmirror.kernel import config
from dmirror.kernel.build import Kernel

_OPTIONS = ("RANDOMIZE_BASE", "RANDOMIZE_MEMORY")


def wanted(kernel: Kernel, asked: bool) -> bool:
    """`asked`, which that kernel can obey. Raises CannotRun where it cannot."""
    if asked:
        where = kernel.build / ".config"
        has = config.read_config(where)
        missing = [f"CONFIG_{name}" for name in _OPTIONS if name not in has]
        if missing:
            raise CannotRun(f"--kaslr is not for this kernel: {where} lacks {', '.join(missing)}", "build it with them")
    return asked
