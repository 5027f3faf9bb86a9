# SPDX-License-Identifier: GPL-2.0
"""What the benchmark times is what its table says. How long that takes is no test's business."""

import pytest

from dmirror.bench import OPERATIONS, Operation, once
from dmirror.memory import HUGE_PAGES, Region


@pytest.fixture
def buffer():
    with Region.anonymous(HUGE_PAGES) as region:
        yield region


@pytest.mark.parametrize("huge", [False, True], ids=["small", "huge"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_does_what_is_timed(operation, huge, mirror, buffer):
    assert once(operation, mirror, HUGE_PAGES, buffer, huge=huge) > 0


@pytest.mark.parametrize("huge", [False, True], ids=["small", "huge"])
def test_a_part_of_the_memory_will_do(huge, mirror, buffer):
    assert once(OPERATIONS[0], mirror, 1, buffer[:1], huge=huge) > 0


@pytest.mark.parametrize(
    ("operation", "found"),
    [
        (Operation("leaves the pages elsewhere", None, "READ", "local"), "are at"),
        (Operation("gives no data", None, "SNAPSHOT", gives=True), "data"),
        (Operation("stores nothing", None, "SNAPSHOT", stores=True), "memory"),
    ],
    ids=lambda value: value.name if isinstance(value, Operation) else "",
)
def test_an_operation_that_does_something_else_has_no_time(operation, found, mirror, buffer):
    with pytest.raises(ValueError, match=found):
        once(operation, mirror, 16, buffer[:16], huge=False)
