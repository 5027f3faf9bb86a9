# SPDX-License-Identifier: GPL-2.0
"""What the torture tests share: how long they go on, where their random choices come from, the devices there are."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRESS_S = 30.0
SEED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seconds = config.option.dmirror_limit + config.option.dmirror_torture
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.limit(seconds))
            # They ask what this driver promises, whose counters say what it has left.
            item.add_marker(pytest.mark.needs(capability="counters"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and SEED in item.stash:
        report.sections.append(("torture", f"the same choices again: --dmirror-seed={item.stash[SEED]}"))
    return report


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int], Iterator[random.Random]]:
    """Call it with the least number of rounds; it goes on until the time of --dmirror-torture is over.

    A round's choices come from a seed of its own, one above the last round's, so that a run with the seed of the round
    that failed begins with it.
    """
    option = request.config.option

    def run(least: int) -> Iterator[random.Random]:
        seed = secrets.randbelow(1 << 32) if option.dmirror_seed is None else option.dmirror_seed
        begun = said = time.monotonic()
        for number in itertools.count():
            now = time.monotonic()
            if number >= least and now - begun >= option.dmirror_torture:
                return
            if now - said >= PROGRESS_S:
                said = now
                _tell(request, f"{request.node.name}: {now - begun:.0f} of {option.dmirror_torture} s, round {number}")
            request.node.stash[SEED] = seed + number
            # In case the guest does not live to report it.
            _log(f"dmirror-torture: --dmirror-seed={seed + number}")
            yield random.Random(seed + number)

    return run


def _tell(request: pytest.FixtureRequest, message: str) -> None:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(message, file=sys.stderr, flush=True)


def _log(message: str) -> None:
    log = os.open("/dev/kmsg", os.O_WRONLY)
    os.write(log, f"<5>{message}\n".encode())
    os.close(log)


@pytest.fixture
def devices() -> list[int]:
    """The numbers of the devices that this driver has."""
    from dmirror import mirror  # noqa: PLC0415  (the host collects the tests without the extension)

    return list(mirror.devices())
