# SPDX-License-Identifier: GPL-2.0
"""H-17: a device fault on a hole of shared hugetlb memory takes two locks in the order that a CPU fault does not."""

import ctypes
import mmap
from pathlib import Path

from dmirror.memory import HUGE_PAGES, MAP_HUGETLB, PAGE, Span
from dmirror.mirror import Mirror

STATS = Path("/proc/lockdep_stats")  # CONFIG_PROVE_LOCKING, as in FLAVOUR=debug
HUGE = HUGE_PAGES * PAGE

with Mirror(0) as mirror:
    memory = mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    memory[0] = 1
    second = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + HUGE
    mirror.read(Span(second, 1))
if not STATS.exists():
    raise SystemExit("only lockdep sees it: --flavour=debug")
silenced = any(line.split() == ["debug_locks:", "0"] for line in STATS.read_text().splitlines())
raise SystemExit("lockdep has found a circular dependency, and fell silent" if silenced else 0)
