# SPDX-License-Identifier: GPL-2.0
"""Fixtures of device tests: mirrors, memory, and the count of device pages that must come out even."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dmirror.memory import Region
    from dmirror.mirror import Mirror

REGION_PAGES = 16
COHERENT = 2  # the first of the two coherent devices


@pytest.fixture(autouse=True)
def _balance(request: pytest.FixtureRequest) -> Iterator[None]:
    """Device pages in use and open contexts are after a test what they were before it, on every device."""
    if not {"mirror", "coherent"} & set(request.fixturenames):
        yield
        return
    before = _usage()
    yield
    after = _usage()
    if after != before:
        pytest.fail(f"device pages in use and open contexts, by device: {after} after the test, {before} before it")


def _usage() -> dict[int, tuple[int, int]]:
    from dmirror.mirror import Mirror, devices  # noqa: PLC0415  (the host has no need of the extension)

    usage = {}
    for device in devices():
        with Mirror(device) as probe:
            if "counters" in probe.capabilities():
                counters = probe.counters()
                usage[device] = (counters.dev_pages_in_use, counters.dev_contexts)
    return usage


@pytest.fixture
def mirror(_balance: None) -> Iterator[Mirror]:
    """This process mirrored on device 0."""
    from dmirror.mirror import Mirror  # noqa: PLC0415

    with Mirror(0) as opened:
        yield opened


@pytest.fixture
def mirror2(mirror: Mirror) -> Iterator[Mirror]:
    """This process mirrored on device 1 too."""
    from dmirror.mirror import Mirror  # noqa: PLC0415

    with Mirror(1) as opened:
        yield opened


@pytest.fixture
def coherent(_balance: None) -> Iterator[Mirror]:
    """This process mirrored on device 2, which has coherent memory. Skips where there is none."""
    from dmirror.mirror import Mirror, devices  # noqa: PLC0415

    if COHERENT not in devices():
        pytest.skip(f"no hmm_dmirror{COHERENT}: the driver was given no coherent memory")
    with Mirror(COHERENT) as opened:
        yield opened


@pytest.fixture
def coherent2(coherent: Mirror) -> Iterator[Mirror]:
    """This process mirrored on device 3 too."""
    from dmirror.mirror import Mirror  # noqa: PLC0415

    with Mirror(coherent.device + 1) as opened:
        yield opened


@pytest.fixture
def region(mirror: Mirror) -> Iterator[Region]:
    """Private anonymous memory of REGION_PAGES pages, not populated, under one CPU page table.

    Across two, a migration is two of them: wherever the kernel happens to put it, a test sees the same events.
    """
    from dmirror.memory import PAGE, Region  # noqa: PLC0415

    with Region.anonymous(REGION_PAGES, align=REGION_PAGES * PAGE) as mapped:
        yield mapped
