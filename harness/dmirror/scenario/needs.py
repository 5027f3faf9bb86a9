# SPDX-License-Identifier: GPL-2.0
"""What a scenario needs of the machine: why it cannot be played here, and what is set up around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dmirror import disks
from dmirror.mirror import Mirror, devices
from dmirror.running import built_with, release_matches
from dmirror.scenario import tree

_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_CONTROLLERS = Path("/sys/fs/cgroup/cgroup.subtree_control")


def unmet(scenario: tree.Scenario) -> str | None:
    """Why it cannot be played on this machine; None if it can."""
    for need in scenario.needs:
        reason = _kernel(need) if isinstance(need, tree.NeedKernel) else _CHECKS[need.what](need.value)
        if reason is not None:
            return reason
    return None


@contextmanager
def surroundings(scenario: tree.Scenario) -> Iterator[None]:
    """What it needs that is not there by itself, for the block."""
    if any(isinstance(need, tree.Need) and need.what == "swap" for need in scenario.needs):
        with disks.swap():
            yield
    else:
        yield


def _kernel(need: tree.NeedKernel) -> str | None:
    release = os.uname().release
    return None if release_matches(release, need.comparison) else f"needs a kernel {need.comparison}, this is {release}"


def _swap(_: str) -> str | None:
    try:
        disks.find("swap")
    except disks.NoDisk as error:
        return f"needs swap: {error}"
    return None


def _cgroup(_: str) -> str | None:
    if _CONTROLLERS.exists() and "memory" in _CONTROLLERS.read_text().split():
        return None
    return "needs memory control: no cgroup2 with the memory controller at /sys/fs/cgroup"


def _huge(_: str) -> str | None:
    if _THP.exists() and "[never]" not in _THP.read_text():
        return None
    return f"needs transparent huge pages: {_THP} says never, or is not there"


def _hugetlb(_: str) -> str | None:
    words = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next((int(word[1]) for word in words if word[0] == "HugePages_Free:"), 0)
    return None if free else "needs hugetlb: no free pages, write their number to /proc/sys/vm/nr_hugepages"


def _coherent(_: str) -> str | None:
    return None if tree.DEVICES["C"] in devices() else "needs coherent devices: the driver was given no such memory"


def _nodes(_: str) -> str | None:
    return None if Path("/sys/devices/system/node/node1").exists() else "needs two NUMA nodes"


def _config(option: str) -> str | None:
    return None if built_with(option) else f"needs {option}, which this kernel was built without"


def _capability(name: str) -> str | None:
    with Mirror(0) as probe:
        return None if name in probe.capabilities() else f"needs the driver's capability {name}"


_CHECKS: dict[str, Callable[[str], str | None]] = {
    "swap": _swap,
    "cgroup": _cgroup,
    "huge pages": _huge,
    "hugetlb": _hugetlb,
    "coherent": _coherent,
    "two nodes": _nodes,
    "config": _config,
    "capability": _capability,
}
