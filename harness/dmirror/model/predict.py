# SPDX-License-Identifier: GPL-2.0
"""What the model says of a scenario, without a kernel: how each step may end, and where the pages are then."""

from __future__ import annotations

from collections.abc import Iterator

from dmirror.model import compare, held, races
from dmirror.model.faults import Refused
from dmirror.model.machine import Machine
from dmirror.model.rules import Rules
from dmirror.model.state import Entry
from dmirror.scenario import tree
from dmirror.scenario.expectations import runs
from dmirror.scenario.text import format_item

_WIDTH = 56


def predict(scenario: tree.Scenario, release: str) -> str:
    """The prediction for a kernel, such as "7.3": each item, and what is allowed after it."""
    machine = Machine(scenario, Rules.of(release))
    lines = [f'scenario "{scenario.title}", as the model has it for {release}', *_memory(machine)]
    for item in scenario.items:
        lines += _item(machine, item, "")
    return "\n".join(lines)


def _item(machine: Machine, item: tree.Item, indent: str) -> Iterator[str]:
    first = indent + format_item(item)[0]
    if isinstance(item, tree.Par):
        yield from (indent + line for line in format_item(item))
        columns = races.parts(machine, item)
        yield f"{indent}  # {races.count(columns)} orders that they may take effect in; each time in the first:"
        for _ in range(item.times):
            races.run(machine, next(races.orders(columns)))
        yield from _memory(machine)
    elif not isinstance(item, tree.Step):
        yield first
    elif item.held is None:
        yield f"{first:<{_WIDTH}}  # {machine.do(item)}"
        yield from _memory(machine)
    else:
        yield first
        try:
            end = held.begin(machine, item)
        except Refused as refused:
            yield f"{indent}  # it is not held: {refused}"
            return
        yield from _memory(machine)
        for inner in item.block:
            if not (isinstance(inner, tree.Step) and inner.waits):
                yield from _item(machine, inner, indent + "    ")
        yield f"{indent + format_item(item)[-1]:<{_WIDTH}}  # {end()}"
        for inner in item.block:
            if isinstance(inner, tree.Step) and inner.waits:
                yield f"{indent + format_item(inner)[0]:<{_WIDTH}}  # {machine.do(inner)}"
        yield from _memory(machine)


def _memory(machine: Machine) -> Iterator[str]:
    """Where each page may be, one line for each region of each process."""
    state = machine.state
    for process in state.spaces:
        for region in machine.regions:
            places = machine.places(tree.Pages(region))
            where = ["|".join(sorted(compare.visible(state, process, place))) for place in places]
            maps = [
                f"{device} maps {runs([_entry(mirror.entries.get(place)) for place in places])}"
                for device, mirror in state.mirrors_of(process)
                if any(place in mirror.entries for place in places)
            ]
            yield f"    # {region} of {process}: {'; '.join([runs(where), *maps])}"


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    word = "exclusive" if entry.exclusive else {True: "rw", False: "r", None: "r|rw"}[entry.write]
    return f"{word}|-" if entry.maybe else word
