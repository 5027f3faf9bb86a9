# SPDX-License-Identifier: GPL-2.0
"""How many guests this machine has room for."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_GUESTS = 8
# What a guest may use of the host's memory beyond its own: QEMU's code cache and page tables.
_OVERHEAD_MIB = 512


def fitting(cpus: int, memory_mib: int) -> int:
    """How many guests of that size can run at once, by the processors and the memory that are there now; at least 1."""
    processors = len(os.sched_getaffinity(0)) // cpus
    available = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    return max(1, min(processors, available // (memory_mib + _OVERHEAD_MIB), _MOST_GUESTS))
