# SPDX-License-Identifier: GPL-2.0
"""Settings of the running kernel that a test changes and puts back, and what it says of a page or of itself."""

import ctypes
import os
from contextlib import contextmanager
from pathlib import Path

from dmirror.memory import PAGE
from facilities.syscalls import move_pages, syscall


@contextmanager
def setting(path, value):
    """Another value in a file below /proc/sys or /sys for the block."""
    file = Path(path)
    old = file.read_text().strip()
    # "always [madvise] never": the value that holds is the one in brackets.
    old = old[old.index("[") + 1 : old.index("]")] if "[" in old else old
    file.write_text(str(value))
    try:
        yield
    finally:
        file.write_text(old)


def vmstat(name):
    """A number of /proc/vmstat."""
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(dict(lines)[name])


def vmstat_now(name):
    """The same when each processor has added what it had counted for itself."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    return vmstat(name)


def settle_lru(span):
    """What processors have gathered to put on LRU lists, or to move there, goes there: it has references till then.

    move_pages(2) does that before it looks at the first page (lru_cache_disable() in mm/migrate.c), which is to stay
    where it is.
    """
    (node,) = move_pages([span.addr], None)
    move_pages([span.addr], max(node, 0))


def kpageflags(pfn):
    """The word of /proc/kpageflags for a page frame (linux/kernel-page-flags.h)."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        file.seek(8 * pfn)
        return int.from_bytes(file.read(8), "little")


def frames(span, pid="self"):
    """Page frame numbers behind a span by /proc/PID/pagemap, None where nothing is present."""
    return [word & (1 << 55) - 1 if word >> 63 else None for word in span.pagemap(pid)]


def mincore(span):
    """mincore(2): for each page of a span whether it is resident."""
    vector = ctypes.create_string_buffer(len(span))
    syscall("mincore", span.addr, span.bytes, vector)
    return [bool(byte & 1) for byte in vector.raw]


def smaps(span, pid="self"):
    """The fields of /proc/PID/smaps that count kB, of the one mapping that begins with the span: in pages."""
    lines = iter(Path(f"/proc/{pid}/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{span.addr:x}-"):
            break
    else:
        raise LookupError(f"no mapping begins at {span.addr:#x}")
    fields = {}
    for line in lines:
        name, _, rest = line.partition(":")
        if not rest.endswith(" kB"):
            if name == "VmFlags" or "-" in name:
                break
            continue
        fields[name] = int(rest.split()[0]) * 1024 / PAGE
    return fields


def status(name, pid="self"):
    """A line of /proc/PID/status that counts kB: in pages."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 // PAGE for line in lines if line.startswith(f"{name}:"))


def mapcounts(pfns):
    """How often page frames are mapped (/proc/kpagecount); no lock of anybody's memory is needed to see it."""
    with open("/proc/kpagecount", "rb", buffering=0) as file:
        return [int.from_bytes(os.pread(file.fileno(), 8, 8 * pfn), "little") for pfn in pfns]
