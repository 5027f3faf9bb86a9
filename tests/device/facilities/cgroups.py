# SPDX-License-Identifier: GPL-2.0
"""Memory control groups (Documentation/admin-guide/cgroup-v2.rst): one of a test's own, and what is charged to it."""

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# s: memory.stat leaves out what processors have of late, 64 pages each and as many together (mm/memcontrol.c,
# memcg_vmstats_needs_flush()), until somebody looks each 2 s (FLUSH_TIME).
FLUSHED = 5


class Cgroup:
    """A group below the root, for a `with` block; at its end it must be empty, and then it is removed."""

    def __init__(self, name):
        self.path = ROOT / name

    def __enter__(self):
        self.path.mkdir()
        return self

    def __exit__(self, *error):
        self.remove()

    def remove(self):
        """rmdir(2); the group is gone for who looks at the file system, and dies when nothing is charged to it."""
        self.path.rmdir()

    def join(self):
        """The calling process is from now on in the group."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def set(self, name, value):
        """Write a file, such as set("memory.max", 1 << 20)."""
        (self.path / name).write_text(str(value))

    def get(self, name):
        """A file of one number."""
        return int((self.path / name).read_text())

    def table(self, name):
        """A file of lines of a key and a number, such as memory.stat and memory.events."""
        return {key: int(value) for key, value in map(str.split, (self.path / name).read_text().splitlines())}

    def charged(self):
        """Bytes charged, exactly: memory.current is, but for what processors have in stock (64 pages each)."""
        return self.get("memory.current")

    def anon_left(self):
        """Bytes of anonymous memory once its processes are gone: 0, or what an exact memory.stat still has."""
        until = time.monotonic() + FLUSHED
        while (left := self.table("memory.stat")["anon"]) and time.monotonic() < until:
            time.sleep(0.1)
        return left


def leave():
    """The calling process is from now on in the root group."""
    (ROOT / "cgroup.procs").write_text(str(os.getpid()))
