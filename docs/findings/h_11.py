# SPDX-License-Identifier: GPL-2.0
"""H-11: hmm_range_fault() from the middle of an own huge device page gives the frames of its beginning."""

from dmirror.memory import Region
from dmirror.mirror import Mirror

with Mirror(0) as mirror, Region.huge(1) as huge:
    mirror.migrate_to_device(huge.fill(1))
    whole = [page.pfn for page in mirror.page_info(huge)]
    part = [page.pfn for page in mirror.page_info(huge[100:])]
raise SystemExit(f"page 100 is said to be frame {part[0]:#x}, it is {whole[100]:#x}" if part[0] != whole[100] else 0)
