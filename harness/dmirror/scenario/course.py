# SPDX-License-Identifier: GPL-2.0
"""A scenario made ready to be played: all that can be known before, made where that costs least."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from dmirror.scenario import orders, tree
from dmirror.scenario.orders import Packed


class Course(NamedTuple):
    """`parts` are the items, steps in a row together; `mirrored`: device and process, all that are spoken of.

    `at_fork`: by child, the devices that mirror it from its fork on. `logged`: events are asked for; `counted`: what
    mirrors count is; `charged`: what processes are charged is.
    """

    regions: tuple[tree.Region, ...]
    parts: tuple[tree.Item | Packed, ...]
    mirrored: tuple[tuple[str, str], ...]
    at_fork: dict[str, tuple[str, ...]]
    logged: bool
    counted: bool
    charged: bool


def course(scenario: tree.Scenario) -> Course:
    """That of a scenario."""
    items = list(tree.walk(scenario.items))
    places = orders.places(scenario.regions)
    parts: list[tree.Item | Packed] = []
    for straight, some in itertools.groupby(scenario.items, orders.straight):
        row = list(some)
        parts.extend([orders.packed(row, places)] if straight else row)
    children = {region.shared_with for region in scenario.regions if region.shared_with}
    children |= {item.child.name for item in items if isinstance(item, tree.Fork)}
    return Course(
        scenario.regions,
        tuple(parts),
        tuple(tree.mirrors(items)),
        {child: tuple(tree.opened_at_fork(items, child)) for child in children},
        any(isinstance(item, tree.Saw | tree.Forget) for item in items),
        any(isinstance(item, tree.Counts) for item in items),
        any(isinstance(item, tree.Charged) for item in items),
    )
