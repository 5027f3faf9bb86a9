# SPDX-License-Identifier: GPL-2.0
"""Columns that run at once: every order in which they may take effect, page by page, as long as there are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import factorial, prod
from types import UnionType

from dmirror.model import devices
from dmirror.model.allowed import Allowed
from dmirror.model.machine import Machine
from dmirror.scenario import tree

ORDERS = 500
"""More of them are not tried: then only what holds in every order is asked for."""

Access = tree.Load | tree.Store | tree.Add | tree.DeviceRead | tree.DeviceWrite
Part = tuple[int, int, tree.Step]
"""Column, number of the step in it, and what is done of it at once."""


def parts(machine: Machine, par: tree.Par, *, apart: bool = False, one_by_one: bool = False) -> list[list[Part]]:
    """The columns in parts that take effect at once: an access is one for each page.

    `apart`: a migration to a device is two, since the driver maps what has come to the device after all is done. A
    device's read is two, since data are taken after the fault, which may have to be repeated for that.

    `one_by_one`: nothing comes between the pages of a step, so that those of the CPU need not be parted.
    """
    columns: list[list[Part]] = []
    for number, column in enumerate(par.columns):
        here: list[Part] = []
        for index, item in enumerate(column):
            assert isinstance(item, tree.Step)
            if isinstance(item, tree.Load | tree.Store | tree.Add) and one_by_one:
                here.append((number, index, item))
            elif isinstance(item, Access):
                singles = [(number, index, single) for single in _singles(machine, item)]
                # Of several pages walks() says the same and more.
                twice = apart and isinstance(item, tree.DeviceRead) and len(singles) == 1
                here += singles * (2 if twice else 1)
            else:
                here += [(number, index, item)] * (2 if apart and _to_device(item) else 1)
        columns.append(here)
    return columns


def _to_device(step: tree.Step) -> bool:
    return isinstance(step, tree.Migrate) and step.to == "device"


def _singles(machine: Machine, step: Access) -> Iterator[tree.Step]:
    places = machine.places(step.pages)
    values = step.value.of(len(places)) if isinstance(step, tree.Store | tree.DeviceWrite) else ()
    for offset, (region, number) in enumerate(places):
        pages = tree.Pages(region, number, number + 1)
        if isinstance(step, tree.Store | tree.DeviceWrite):
            yield replace(step, pages=pages, value=tree.Value((values[offset],)))
        else:
            yield replace(step, pages=pages)


def count(columns: Sequence[Sequence[Part]]) -> int:
    """How many orders there are."""
    return _count([len(column) for column in columns])


def _count(lengths: Sequence[int]) -> int:
    return factorial(sum(lengths)) // prod(map(factorial, lengths))


def few(machine: Machine, par: tree.Par) -> bool:
    """Whether all orders can be tried: told before the parts are made, which may be many."""
    lengths = [
        sum(len(machine.places(step.pages)) if isinstance(step, Access) else 1 for step in column)
        for column in par.columns
    ]
    return _count(lengths) <= ORDERS


def walks(columns: Sequence[Sequence[Part]]) -> bool:
    """Whether a device accesses several pages: it walks all of them before it takes data, which no part here says."""
    return _several(columns, tree.DeviceRead | tree.DeviceWrite)


def _several(columns: Sequence[Sequence[Part]], kind: type | UnionType) -> bool:
    """Whether a step of that kind has several parts."""
    keys = [(column, index) for parts in columns for column, index, step in parts if isinstance(step, kind)]
    return len(keys) > len(set(keys))


def orders(columns: Sequence[Sequence[Part]]) -> Iterator[list[Part]]:
    """Each order that keeps that of every column."""
    if not any(columns):
        yield []
        return
    for number, column in enumerate(columns):
        if column:
            rest = [*columns[:number], column[1:], *columns[number + 1 :]]
            for order in orders(rest):
                yield [column[0], *order]


def ways(columns: Sequence[Sequence[Part]]) -> tuple[bool, ...]:
    """What to give run() for `past`, one after the other."""
    return (False, True) if _several(columns, tree.DeviceWrite) else (False,)


def run(machine: Machine, order: Sequence[Part], *, past: bool = False) -> dict[tuple[int, int], Allowed]:
    """Carry one order out; how each step may have ended, by column and number.

    `past`: a device's write that is refused at a page has gone past it, and faulted its other pages.
    """
    machine.state.racing = True
    ends: dict[tuple[int, int], Allowed] = {}
    for number, (column, index, step) in enumerate(order):
        key = (column, index)
        before = ends.get(key)
        if before is not None and "" not in before.failed:
            continue  # it failed at an earlier page
        if before is not None and isinstance(step, tree.Migrate):
            devices.map_late(machine, step)
            continue
        if isinstance(step, tree.DeviceRead) and order[number] in order[:number]:
            before = None  # it only faulted
        now = machine.do(step)
        if past and isinstance(step, tree.DeviceWrite) and now.failed == {"EPERM"}:
            places = [place for page in _rest(order[number + 1 :], key) for place in machine.places(page)]
            devices.walk_past(machine, (step.device.name, step.device.process), places)
        ends[key] = _together(before, now, step)
    machine.state.racing = False
    return ends


def _rest(order: Sequence[Part], key: tuple[int, int]) -> Iterator[tree.Pages]:
    """What a step accesses in these parts."""
    for column, index, step in order:
        if (column, index) == key:
            assert isinstance(step, tree.DeviceWrite)
            yield step.pages


def _together(before: Allowed | None, now: Allowed, step: tree.Step) -> Allowed:
    failed = now.failed
    passing = tree.Migrate | tree.Exclusive | tree.DeviceRead | tree.DeviceWrite | tree.Evict
    if isinstance(step, passing) and failed & {"", "ENOENT", "EBUSY"}:
        # Who is in the way may keep a page where it is, or take it away again.
        failed |= {"", "ENOENT", "EBUSY"}
    values = now.values
    if before is not None:
        # It fails where one of its parts fails.
        failed = (failed | before.failed) - ({""} - (failed & before.failed))
        values = (*(before.values or ()), *(now.values or ())) if now.values is not None else before.values
    return Allowed(failed, values, None)
