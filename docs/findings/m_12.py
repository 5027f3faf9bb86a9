# SPDX-License-Identifier: GPL-2.0
"""M-12: a device page that nobody wrote to is dirty when an eviction has brought it back."""

from pathlib import Path

from dmirror.memory import Region
from dmirror.mirror import Mirror

DIRTY = 1 << 4  # KPF_DIRTY, linux/kernel-page-flags.h

with Mirror(0) as mirror, Region.anonymous(1) as memory:
    mirror.migrate(memory)  # a hole: zeroes on the device, never written
    mirror.release()
    frame = memory.pagemap()[0] & (1 << 55) - 1
    with Path("/proc/kpageflags").open("rb", buffering=0) as flags:
        flags.seek(8 * frame)
        dirty = int.from_bytes(flags.read(8), "little") & DIRTY
raise SystemExit(f"frame {frame:#x} is dirty" if dirty else 0)
