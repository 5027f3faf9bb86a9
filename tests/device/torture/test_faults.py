# SPDX-License-Identifier: GPL-2.0
"""M-17: many threads that fault on the same device memory at once share one migration."""

import os

import pytest

from dmirror.memory import HUGE_PAGES, PAGE, Region
from dmirror.running import release_matches
from dmirror.uapi import lib

FAULTS = 20  # in a round
ROUNDS = 5


@pytest.mark.contract("M-17")
@pytest.mark.parametrize(
    "npages",
    [1, pytest.param(HUGE_PAGES, marks=pytest.mark.needs(capability="device_thp"), id="huge")],
)
def test_threads_that_fault_together_share_one_migration(mirror, rounds, npages):
    # Until 7.2 a fault may come to a page that another is migrating, and tries again; its reference is one that keeps
    # that other one from migrating it. Of 64 threads on 6.12 with KASAN one succeeds every 5 s.
    shared = release_matches(os.uname().release, ">=7.2")
    threads = 64 if shared else 8
    with Region.anonymous(npages, align=npages * PAGE) as region:
        if npages > 1:
            region.advise(14)
        for _ in rounds(ROUNDS):
            before = mirror.counters()
            assert lib.dm_fault_together(mirror.fd, region.addr, npages, threads, FAULTS) == 0
            delta = mirror.counters() - before
            assert delta.dev_pages_faulted == delta.pages_to_device == FAULTS * npages
            assert delta.dev_huge_allocated == (FAULTS if npages > 1 else 0)
            if shared:
                assert delta.dev_cpu_faults == FAULTS
            else:
                assert delta.dev_cpu_faults >= FAULTS
