# SPDX-License-Identifier: GPL-2.0
"""C-06: a store to memory that was on the device when clear_refs came is not soft-dirty."""

import mmap
from pathlib import Path

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Region.anonymous(16, align=16 * PAGE) as memory:
    memory.advise(mmap.MADV_DONTDUMP)  # merges with no new mapping, which is soft-dirty as a whole
    mirror.migrate(memory.fill(1))
    Path("/proc/self/clear_refs").write_text("4")
    memory.store(7)
    dirty = memory.pagemap()[0] >> 55 & 1  # Documentation/admin-guide/mm/pagemap.rst
raise SystemExit(0 if dirty else "stored to, and not soft-dirty")
