# SPDX-License-Identifier: GPL-2.0
"""P-07: the core dump of a process that has a huge page on the device."""

import os
import resource
from pathlib import Path

from dmirror.memory import Data, Region
from dmirror.mirror import Mirror
from dmirror.uapi import ffi

core = Path("/tmp/core")
Path("/proc/sys/kernel/core_pattern").write_text(str(core))
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with Region.huge(1) as huge:
    pid = os.fork()
    if pid == 0:
        Mirror(0).migrate(huge.fill(1))
        os.abort()
    dumped = os.WCOREDUMP(os.waitpid(pid, 0)[1])
    page = bytes(ffi.buffer(Data.pattern(huge[100], 1).buffer))
raise SystemExit(0 if dumped and page in core.read_bytes() else "the dump lacks what is on the device")
