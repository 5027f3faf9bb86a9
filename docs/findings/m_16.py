# SPDX-License-Identifier: GPL-2.0
"""M-16: a CPU fault on a locked device page spins instead of sleeping, 6.x; on a huge one ("huge") later too."""

import sys
import time

from dmirror.memory import Region
from dmirror.mirror import Mirror
from dmirror.threads import Task

memory = Region.huge(1) if "huge" in sys.argv else Region.anonymous(1)
# Of a hole: its device page is in the page table, and locked, before the migration is over.
with Mirror(0) as mirror, mirror.hold("migrate.after_pages", memory) as held, Task(mirror.migrate, memory):
    held.wait()
    with Task(memory.load) as fault:
        time.sleep(1)
        used = time.clock_gettime(~fault.tid << 3 | 6)  # its processor time (CPUCLOCK_SCHED of the kernel)
        held.resume()
raise SystemExit(f"the fault took {used:.2f} s of processor time in a second of waiting" if used > 0.5 else 0)
