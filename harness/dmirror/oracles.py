# SPDX-License-Identifier: GPL-2.0
"""What has to come out even after a test, whatever it asserted: devices, swap, resident memory, memory that is charged.

Documentation/filesystems/proc.rst, Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from dmirror.memory import PAGE
from dmirror.mirror import Mirror, devices

# Our guests start the tests in a memory group of their own.
_GROUP = "/sys/fs/cgroup/dmirror-tests"
# Parts of memory.current that memory.stat knows.
_PARTS = (b"anon", b"file", b"kernel", b"sock")

# Pages by which two readings may differ. The interpreter goes on between one file and the next. Of the percpu counters
# of /proc/PID/status each processor keeps back up to 32 of each of three kinds. Of memory.current each processor may
# have 64 in stock (mm/memcontrol.c, MEMCG_CHARGE_BATCH), and 31 that nobody maps any more wait there to be put on a
# list of reclaim (mm/swap.c, PAGEVEC_SIZE).
_ANON_SLACK = 32
_RSS_SLACK = 3 * 32 * (os.cpu_count() or 1) + _ANON_SLACK
_CHARGE_SLACK = (64 + 31) * (os.cpu_count() or 1) + _ANON_SLACK

# Pages that make memory.stat exact. It is behind by what processors have not added, up to 64 changes each, until who
# reads it finds more than 64 for each processor (mm/memcontrol.c, memcg_vmstats_needs_flush()) or two seconds are over.
_MANY = 4 * 64 * (os.cpu_count() or 1)

SETTLES = 2.5
"""Seconds after which what is wrong is not noise: memory.stat is exact each two (FLUSH_TIME)."""


class Account(NamedTuple):
    """One reading. Differences are in pages and 0 in theory; None where this machine cannot tell."""

    devices: dict[int, tuple[int, int]]  # device pages in use and open contexts
    swap: int  # bytes in use
    rss: int  # VmRSS - what page tables hold
    anon: int | None  # anonymous pages charged - those that page tables hold
    charge: int | None  # pages charged - those of which memory.stat knows what they are


def read() -> Account:
    """The present account of this process, of its group and of the machine."""
    rollup = _contents("/proc/self/smaps_rollup")
    status = _contents("/proc/self/status")
    return Account(
        _usage(),
        _swap_used(),
        (_number(status, b"VmRSS:") - _number(rollup, b"Rss:")) * 1024 // PAGE,
        *_charged(_number(rollup, b"Anonymous:") * 1024),
    )


def confirmed() -> Account:
    """A reading to measure others by: exact, and the one before it says the same. After SETTLES it is the last one.

    Threads and processes that are about to end may fall between the files of one reading.
    """
    until = time.monotonic() + SETTLES
    account = _exact()
    while True:
        seen, account = account, _exact()
        if not any(complaints(seen, account)) or time.monotonic() > until:
            return account
        time.sleep(0.1)


def complaints(before: Account, after: Account) -> Iterator[str]:
    """What does not come out even, a sentence each."""
    if after.devices != before.devices:
        yield (
            "device pages in use and open contexts, by device: "
            f"{after.devices} after the test, {before.devices} before it"
        )
    if after.swap != before.swap:
        yield f"swap in use: {after.swap} bytes after the test, {before.swap} before it"
    if abs(after.rss - before.rss) > _RSS_SLACK:
        yield (
            f"VmRSS is {after.rss:+} pages off from what the page tables hold, it was {before.rss:+}: "
            "pages were mapped or unmapped without their count"
        )
    if _off(before.anon, after.anon, _ANON_SLACK):
        yield (
            f"memory.stat has {after.anon:+} anonymous pages more than the page tables hold, it was {before.anon:+}: "
            "pages were mapped or unmapped without their group"
        )
    if _off(before.charge, after.charge, _CHARGE_SLACK):
        yield (
            f"{after.charge:+} pages are charged that are neither mapped nor cached nor the kernel's, it was "
            f"{before.charge:+}: pages, or charges, were leaked"
        )


def _exact() -> Account:
    with mmap.mmap(-1, _MANY * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for offset in range(0, len(memory), PAGE):
            memory[offset] = 1
    return read()


def _off(before: int | None, after: int | None, slack: int) -> bool:
    return before is not None and after is not None and abs(after - before) > slack


def _usage() -> dict[int, tuple[int, int]]:
    usage = {}
    for device in devices():
        with Mirror(device) as probe:
            used = probe.usage()
        if used is not None:
            usage[device] = used
    return usage


def _swap_used() -> int:
    meminfo = _contents("/proc/meminfo")
    return (_number(meminfo, b"SwapTotal:") - _number(meminfo, b"SwapFree:")) * 1024


def _charged(anonymous: int) -> tuple[int | None, int | None]:
    try:
        if _contents(f"{_GROUP}/cgroup.procs").split() != [b"%d" % os.getpid()]:
            return None, None
        current = int(_contents(f"{_GROUP}/memory.current"))
        stat = _contents(f"{_GROUP}/memory.stat")
    except FileNotFoundError:
        return None, None
    parts = {part: _number(stat, b"%s " % part) for part in _PARTS}
    return (parts[b"anon"] - anonymous) // PAGE, (current - sum(parts.values())) // PAGE


def _contents(path: str) -> bytes:
    """A file as it is, with a newline before it. Between two tests is no time for more."""
    with open(path, "rb", buffering=0) as file:
        return b"\n" + file.readall()


def _number(contents: bytes, name: bytes) -> int:
    """What follows a name at the beginning of a line. ValueError where it is not there."""
    start = contents.index(b"\n" + name) + 1 + len(name)
    return int(contents[start : contents.index(b"\n", start)].split()[0])
