# SPDX-License-Identifier: GPL-2.0
"""Memory of the process under test, as the kernel places it."""

from __future__ import annotations

from contextlib import ExitStack

from dmirror.memory import HUGE_PAGES, PAGE, Region


def test_little_memory_is_under_one_page_table() -> None:
    table = HUGE_PAGES * PAGE
    with ExitStack() as stack:
        # More than half a table each, one beside the other: at least every second one would be across two.
        for _ in range(8):
            region = stack.enter_context(Region.shared(300))
            assert region.addr // table == (region.end - 1) // table
