# SPDX-License-Identifier: GPL-2.0
"""Where the tests run: a test's event logs go with its last report, as properties."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from dmirror import timeline


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After the fixtures' teardown, and so once: in the report of the teardown and in no other."""
    try:
        return (yield)
    finally:
        # As text: execnet, by which a report leaves a guest, has no integers of 64 bits.
        item.user_properties += [(timeline.PROPERTY, json.dumps(log)) for log in timeline.take()]
