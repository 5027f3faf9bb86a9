# SPDX-License-Identifier: GPL-2.0
"""Where the tests run: a test's event logs go with its last report, as properties."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from dmirror import timeline


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After the fixtures' teardown, and so once: in the report of the teardown and in no other."""
    try:
        return (yield)
    finally:
        item.user_properties += [(timeline.PROPERTY, log) for log in timeline.take()]
