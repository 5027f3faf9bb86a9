# SPDX-License-Identifier: GPL-2.0
"""What the model says of a scenario, without a kernel: how each step may end, and where the pages are then.

And whether that is what the file expects, as far as the model knows of it: of events, counters and charges it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmirror.model import compare, held, races
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.machine import Machine
from dmirror.model.rules import Rules, known
from dmirror.model.state import Entry, Place
from dmirror.running import release_matches
from dmirror.scenario import text, tree, words
from dmirror.scenario.expectations import named, runs
from dmirror.scenario.text import format_item

_WIDTH = 56


class Prediction:
    """That of one scenario for a kernel such as "7.3": `lines` to print, `wrong` how many of them the model denies."""

    def __init__(self, scenario: tree.Scenario, release: str) -> None:
        self.wrong = 0
        self._machine = Machine(scenario, Rules.of(known(release)))
        self.lines = [f'scenario "{scenario.title}", as the model has it for {release}']
        excluded = [need for need in scenario.needs if not _met(need, release)]
        if excluded:
            self.lines.append(f"not for {release}: {text.format_need(excluded[0])}")
            return
        self.lines += self._memory()
        for item in scenario.items:
            self.lines += self._item(item, "")

    def _choose(self) -> None:
        """Where a page may be at several places, nobody has looked: it is on a device, if it may be."""
        state = self._machine.state
        for page in state.pages():
            if len(page.at) > 1:
                page.at = frozenset([next(iter(sorted(at for at in page.at if at in tree.DEVICES)), "ram")])

    def _item(self, item: tree.Item, indent: str) -> Iterator[str]:
        first = indent + format_item(item)[0]
        if not isinstance(item, tree.Expect):
            self._choose()
        if isinstance(item, tree.Par):
            yield from self._par(item, indent)
        elif isinstance(item, tree.Expect):
            yield first
            if item.verdict is None:
                yield from self._denied(self._differs(item))
        elif not isinstance(item, tree.Step):
            yield first
        elif item.held is None:
            yield from self._ended(first, item, self._machine.do(item))
            yield from self._memory()
        else:
            yield first
            yield from self._held(item, indent)

    def _par(self, item: tree.Par, indent: str) -> Iterator[str]:
        yield from (indent + line for line in format_item(item))
        columns = races.parts(self._machine, item)
        yield f"{indent}  # {races.count(columns)} orders that they may take effect in; each time in the first:"
        for _ in range(item.times):
            races.run(self._machine, next(races.orders(columns)))
        yield from self._memory()

    def _held(self, item: tree.Step, indent: str) -> Iterator[str]:
        try:
            end = held.begin(self._machine, item)
        except Refused as refused:
            yield from self._denied(f"it is not held, but ends with {refused}")
            return
        yield from self._memory()
        waiters = [inner for inner in item.block if isinstance(inner, tree.Step) and inner.waits]
        for inner in item.block:
            if inner not in waiters:
                yield from self._item(inner, indent + "    ")
        yield from self._ended(indent + format_item(item)[-1], item, end())
        for waiter in waiters:
            yield from self._ended(indent + format_item(waiter)[0], waiter, self._machine.do(waiter))
        yield from self._memory()

    def _ended(self, line: str, step: tree.Step, allowed: Allowed) -> Iterator[str]:
        yield f"{line:<{_WIDTH}}  # {allowed}"
        yield from self._denied(_unlike(step, allowed))

    def _denied(self, what: str) -> Iterator[str]:
        if what:
            self.wrong += 1
            yield f"    ! the model says otherwise: {what}"

    def _differs(self, item: tree.Expect) -> str:
        """What an expectation that cannot hold asks for, and what there is; "" where it may hold."""
        state = self._machine.state
        if isinstance(item, tree.Where | tree.Allowed):
            if item.process not in state.spaces:
                return f"{item.process} is gone"
            places = self._machine.places(item.pages)
            see = compare.visible if isinstance(item, tree.Where) else compare.rights
            found = [see(state, item.process, place) for place in places]
            wanted = item.places if isinstance(item, tree.Where) else item.rights
            every = wanted * len(places) if len(wanted) == 1 else wanted
            if all(word in words for word, words in zip(every, found, strict=True)):
                return ""
            return runs(["|".join(sorted(words)) for words in found])
        if isinstance(item, tree.Maps):
            mirror = state.mirrors.get((item.device.name, item.device.process))
            entries = [mirror.entries.get(place) if mirror else None for place in self._machine.places(item.pages)]
            if all((entry is not None and entry.maybe) or (entry is not None) == item.mapped for entry in entries):
                return ""
            return f"{named(item.device)} maps {runs([_entry(entry) for entry in entries])}"
        return ""

    def _memory(self) -> Iterator[str]:
        """Where each page may be, one line for each region of each process."""
        state = self._machine.state
        for process in state.spaces:
            for region in self._machine.regions:
                places = self._machine.places(tree.Pages(region))
                parts = [runs(["|".join(sorted(compare.visible(state, process, place))) for place in places])]
                parts += [runs(["|".join(sorted(compare.rights(state, process, place))) for place in places])]
                parts += self._tables(process, places)
                yield f"    # {region} of {process}: {'; '.join(parts)}"

    def _tables(self, process: str, places: Sequence[Place]) -> Iterator[str]:
        for device, mirror in self._machine.state.mirrors_of(process):
            if any(place in mirror.entries for place in places):
                found = runs([_entry(mirror.entries.get(place)) for place in places])
                yield f"{named(tree.Device(device, process))} maps {found}"


def _met(need: tree.Need | tree.NeedKernel, release: str) -> bool:
    """Whether a known kernel has it; of what depends on the machine: it may have it."""
    if isinstance(need, tree.NeedKernel):
        return release_matches(release, need.comparison)
    return need.what != "capability" or need.value in known(release)


def _unlike(step: tree.Step, allowed: Allowed) -> str:
    """What the model has against what the file expects of a step; "" for nothing."""
    wanted = step.outcome
    name = words.canonical(wanted.name) if isinstance(wanted, tree.Fails) else ""
    if name not in allowed.failed:
        return str(allowed)
    if isinstance(wanted, tree.Value) and allowed.values is not None:
        numbers = wanted.of(len(allowed.values))
        if not all(number in values for number, values in zip(numbers, allowed.values, strict=True)):
            return str(allowed)
    return ""


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    word = "exclusive" if entry.exclusive else {True: "rw", False: "r", None: "r|rw"}[entry.write]
    return f"{word}|-" if entry.maybe else word
