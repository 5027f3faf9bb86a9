# SPDX-License-Identifier: GPL-2.0
"""Markers: the contract a test pins down, what it needs, how long it may take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache

import pytest

from dmirror.plugin.options import DEVICE
from dmirror.running import config as running_config
from dmirror.running import release_matches


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        'contract(id): the documented contract that the test pins down, such as "M-06".',
        'needs(kernel=">=7.2", config="CONFIG_X", capability="name"): skips, with the reason, where that is '
        "not so; config and capability may be lists.",
        "limit(seconds): how long the test may take, instead of --dmirror-limit.",
        'complains("regex"): the kernel has to complain during the test, and the regex is found in the lines in which '
        "it says of what; any other complaint fails the test as ever.",
    ):
        config.addinivalue_line("markers", line)


def pytest_itemcollected(item: pytest.Item) -> None:
    # So that -k finds a test by its contract, too.
    item.extra_keyword_matches.update(marker.args[0] for marker in item.iter_markers("contract"))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.dmirror_list_contracts:
        for item in session.items:
            for marker in item.iter_markers("contract"):
                print(f"contract {marker.args[0]} {item.nodeid}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("contract"):
        item.user_properties.append(("contract", marker.args[0]))
    for marker in item.iter_markers("needs"):
        reason = unmet(**marker.kwargs)
        if reason is not None:
            # As a marker, which pytest evaluates next, the skip is reported at the test's line and not here.
            item.add_marker(pytest.mark.skip(reason=reason))


def unmet(
    *,
    kernel: str | None = None,
    config: str | Iterable[str] = (),
    capability: str | Iterable[str] = (),
) -> str | None:
    """Why a test cannot run on this kernel and driver; None if it can. Raises ValueError for a malformed
    `kernel`."""
    if kernel is not None and not release_matches(os.uname().release, kernel):
        return f"needs a kernel {kernel}, this is {os.uname().release}"
    for option in _listed(config):
        if _config().get(option) not in ("y", "m"):
            return f"needs {option}, which this kernel was built without"
    missing = [name for name in _listed(capability) if name not in _capabilities()]
    return f"needs the driver's capability {missing[0]}" if missing else None


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _config() -> dict[str, str]:
    try:
        return running_config()
    except FileNotFoundError:
        pytest.fail("no /proc/config.gz: this kernel was built without CONFIG_IKCONFIG_PROC")


@cache
def _capabilities() -> set[str]:
    from dmirror import mirror  # noqa: PLC0415  (the host collects the tests without the extension)

    return set(mirror.capabilities(DEVICE))
