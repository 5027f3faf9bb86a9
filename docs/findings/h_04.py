# SPDX-License-Identifier: GPL-2.0
"""H-04: what one page asks of hmm_range_fault() is asked for its neighbours."""

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror

BOTH = ("fault", "write")

with Mirror(0) as mirror, Region.anonymous(16, align=16 * PAGE) as memory:
    memory.touch()  # the zero page everywhere
    asked = range(2, 16, 3)
    pages = mirror.walk(memory, mask=BOTH, requests=dict.fromkeys(asked, BOTH)).pages
    wrong = [number for number, page in enumerate(pages) if page.write and number not in asked]
raise SystemExit(f"pages {wrong} were write-faulted, only {list(asked)} were asked for" if wrong else 0)
