# SPDX-License-Identifier: GPL-2.0
"""M-20: MADV_DONTNEED of a huge device page that a CPU fault brings back, and the count of anonymous pages."""

import mmap
from pathlib import Path

from dmirror.memory import Region
from dmirror.mirror import Mirror
from dmirror.threads import Task


def anonymous():
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    words = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(words["nr_anon_pages"])


before = anonymous()
with Mirror(0) as mirror, Region.huge(1) as huge:
    mirror.migrate(huge.fill(1))
    with mirror.hold("cpu_fault.after_setup", huge) as held, Task(huge.load):
        held.wait()
        huge.advise(mmap.MADV_DONTNEED)
        held.resume()
after = anonymous()
raise SystemExit(f"nr_anon_pages was {before}, is {after}" if after < before / 2 else 0)
