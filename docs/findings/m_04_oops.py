# SPDX-License-Identifier: GPL-2.0
"""M-04: a migration of a huge hole that leaves out the second page: the kernel oopses."""

from dmirror.memory import Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Region.huge(1) as huge:
    print(mirror.migrate(huge, skip=[1]).moved, "pages moved")
