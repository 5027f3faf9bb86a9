# SPDX-License-Identifier: GPL-2.0
"""M-04: a migration that leaves out the first page of a huge one leaves out the other 511."""

import mmap

from dmirror.memory import HUGE_PAGES, Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Region.huge(1) as huge:
    huge.fill(1).advise(mmap.MADV_NOHUGEPAGE)  # khugepaged puts no parts together
    moved = mirror.migrate(huge, skip=[0]).moved
raise SystemExit(f"{moved} pages moved of {HUGE_PAGES - 1} that have a destination" if moved != HUGE_PAGES - 1 else 0)
