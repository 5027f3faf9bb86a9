# SPDX-License-Identifier: GPL-2.0
"""A-08: a huge device page of two processes counts whole in the Pss of each."""

import mmap
import re
from pathlib import Path

from dmirror.memory import Region
from dmirror.mirror import Mirror
from dmirror.process import Child

with Mirror(0) as mirror, Region.huge(1) as huge:
    huge.advise(mmap.MADV_DONTDUMP)  # merges with no other mapping
    mirror.migrate(huge.fill(1))
    with Child(lambda line: line.receive()):
        mapping = Path("/proc/self/smaps").read_text().partition(f"\n{huge.addr:x}-")[2]
        rss, pss = (int(re.search(rf"^{name}: +(\d+)", mapping, re.MULTILINE)[1]) for name in ("Rss", "Pss"))
raise SystemExit(f"Rss {rss} kB, Pss {pss} kB" if rss == pss else 0)
