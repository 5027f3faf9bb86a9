# SPDX-License-Identifier: GPL-2.0
"""T-03: a huge destination for a small source: its charge is lost, and the guest hangs."""

from dmirror.memory import HUGE_PAGES, PAGE, Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Region.anonymous(HUGE_PAGES, align=HUGE_PAGES * PAGE) as small:
    small.fill(1)
    print(mirror.migrate(small, order="huge").moved, "pages moved")
