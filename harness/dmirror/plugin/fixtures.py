# SPDX-License-Identifier: GPL-2.0
"""Fixtures of device tests: mirrors, memory, and the account that must come out even."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dmirror.plugin.options import device_present, is_device_test

if TYPE_CHECKING:
    from dmirror.memory import Region
    from dmirror.mirror import Mirror
    from dmirror.oracles import Account

REGION_PAGES = 16
COHERENT = 2  # the first of the two coherent devices


_account: Account | None = None  # what every test is measured by: a reading before the first one


@contextmanager
def balanced() -> Iterator[None]:
    """At the end of the block everything that dmirror.oracles looks at is as it was before the first one."""
    global _account  # noqa: PLW0603
    from dmirror import oracles  # noqa: PLC0415  (the host has no need of the extension)

    if _account is None:
        _account = oracles.confirmed()
    yield
    before, _account = _account, oracles.read()
    wrong = list(oracles.complaints(before, _account))
    until = time.monotonic() + oracles.SETTLES
    while wrong and time.monotonic() < until:
        # Threads that are about to end may fall between the files that are read; what is wrong stays wrong.
        time.sleep(0.1)
        _account = oracles.read()
        wrong = list(oracles.complaints(before, _account))
    if wrong:
        # What is left of this test is not the next one's: that begins with what there is now.
        _account = oracles.confirmed()
        pytest.fail("\n".join(wrong))
    # Small differences add up to a leak: they count from the first test on.
    _account = before


@pytest.fixture(autouse=True)
def _balance(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around every device test."""
    if not device_present() or not is_device_test(request.node):
        yield
        return
    with balanced():
        yield


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
