# SPDX-License-Identifier: GPL-2.0
"""H-12: a snapshot calls another device's huge page an error, its small pages faultable."""

from dmirror.memory import Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Mirror(1) as other, Region.huge(1) as huge, Region.anonymous(1) as small:
    other.migrate_to_device(huge.fill(1))
    other.migrate_to_device(small.fill(1))
    of_huge, of_small = mirror.snapshot(huge)[0].where, mirror.snapshot(small)[0].where
raise SystemExit(f"huge: {of_huge}, small: {of_small}" if of_huge != of_small else 0)
