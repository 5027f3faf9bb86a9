# SPDX-License-Identifier: GPL-2.0
"""L-10: pages are evicted while the CPU faults on them; each comes back once, by one way or the other."""

import errno
import time

import pytest

from dmirror.memory import Region
from dmirror.mirror import Mirror
from dmirror.process import Child
from dmirror.uapi import lib

PROCESSES = 2
THREADS = 32  # more than processors, so that one is stopped in the middle of a fault now and then
PAGES = 32
FAULTS = 5
ROUNDS = 3
ROUND_S = 1.0


def go_and_come_back(device: int, until: float) -> int:
    """Migrate memory and fault on it; how often it went."""
    rounds = 0
    with Region.anonymous(PAGES) as region, Mirror(device) as mirror:
        while time.monotonic() < until:
            wrong = lib.dm_fault_together(mirror.fd, region.addr, PAGES, THREADS, FAULTS)
            # Evicted before it was counted, or the device had just given its memory away.
            assert wrong in (0, -errno.ENOENT)
            rounds += wrong == 0
    return rounds


@pytest.mark.contract("L-10")
def test_faults_against_eviction(mirror, devices, rounds):
    evicted = done = 0
    for choices in rounds(ROUNDS):
        device, until = choices.choice(devices), time.monotonic() + ROUND_S

        def child(line, device=device, until=until):
            return go_and_come_back(device, until)

        children = [Child(child) for _ in range(PROCESSES)]
        with Mirror(device) as evicting:
            before = evicting.counters()
            while time.monotonic() < until:
                evicting.release()
            for other in children:
                with other:
                    done += other.result()
            evicted += (evicting.counters() - before).dev_pages_evicted
    assert done and evicted
