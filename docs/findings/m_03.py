# SPDX-License-Identifier: GPL-2.0
"""M-03: a page that stays, since it is in use, is soft-dirty afterwards although nobody wrote to it."""

import mmap
from pathlib import Path

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror

SOFT_DIRTY = 1 << 55  # Documentation/admin-guide/mm/pagemap.rst


def shown(memory):
    memory.fill(1).advise(mmap.MADV_DONTDUMP)  # merges with no new mapping, which is soft-dirty as a whole
    Path("/proc/self/clear_refs").write_text("4")
    with memory[0].in_a_pipe():
        mirror.migrate(memory)
    return bool(memory.pagemap()[0] & SOFT_DIRTY)


with Mirror(0) as mirror, Region.anonymous(16, align=16 * PAGE) as small, Region.huge(1) as huge:
    found = [name for name, memory in (("small", small), ("huge", huge)) if shown(memory)]
raise SystemExit(f"soft-dirty: {found}" if found else 0)
