# SPDX-License-Identifier: GPL-2.0
"""The model in a kernel's stead: of what it leaves open, one choice at random, as a guest would have shown it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from random import Random

from dmirror.model import compare, held, races
from dmirror.model.allowed import Allowed
from dmirror.model.faults import COHERENT
from dmirror.model.machine import Machine
from dmirror.model.rules import Rules, known
from dmirror.model.state import ANYTHING, Page, Pte, State, Vma
from dmirror.scenario import seen, tree
from dmirror.scenario.record import Done, Entry, Looked, Outcome, Record, Rounds, address
from dmirror.scenario.seen import Raw

_ZERO_FRAME = 1
_FIRST_FRAME = 16
_PRESENT, _SWAPPED = 1 << 63, 1 << 62


class Contradiction(Exception):
    """What the model allows, it does not agree with."""


def play(scenario: tree.Scenario, release: str, source: Random) -> Iterator[tuple[Machine, Record]]:
    """The model after each item, and the record so far. Raises Contradiction."""
    return _Settler(scenario, release, source).play()


class _Settler:
    def __init__(self, scenario: tree.Scenario, release: str, source: Random) -> None:
        self._machine = Machine(scenario, Rules.of(known(release)))
        self._scenario = scenario
        self._release = release
        self._source = source
        self._frames: dict[int, tuple[int, Page]] = {}  # the page stays alive, so that its id stays its own

    def play(self) -> Iterator[tuple[Machine, Record]]:
        start = self._look(None)
        entries: list[Entry] = []
        yield self._machine, self._record(start, entries)
        for item in self._scenario.items:
            entries.append(self._item(item))
            yield self._machine, self._record(start, entries)

    def _record(self, start: Raw, entries: list[Entry]) -> Record:
        addresses = {region.name: address(n) for n, region in enumerate(self._scenario.regions)}
        return Record(known(self._release), addresses, start, tuple(entries))

    def _item(self, item: tree.Item) -> Entry:
        if isinstance(item, tree.Par):
            return self._par(item)
        if not isinstance(item, tree.Step):
            return Looked()
        if item.held is not None:
            return self._held(item)
        outcome = self._outcome(item, self._machine.do(item))
        return Done(outcome, self._look(item))

    def _held(self, step: tree.Step) -> Done:
        end = held.begin(self._machine, step)
        then = self._look(step)
        block = tuple(self._item(item) for item in step.block)
        outcome = self._outcome(step, end())
        return Done(outcome, self._look(step), then, block)

    def _par(self, par: tree.Par) -> Rounds:
        rounds, looks = [], []
        for _ in range(par.times):
            columns = [list(column) for column in races.parts(self._machine, par)]
            past = self._source.choice(races.ways(columns))
            order = []
            while any(columns):
                order.append(self._source.choice([column for column in columns if column]).pop(0))
            ends = races.run(self._machine, order, past=past)
            rounds.append(
                tuple(
                    tuple(Done(self._outcome(None, ends[c, n])) for n in range(len(column)))
                    for c, column in enumerate(par.columns)
                )
            )
            looks.append(self._look(par))
        return Rounds(tuple(rounds), tuple(looks))

    # How a step ends

    def _outcome(self, step: tree.Step | None, allowed: Allowed) -> Outcome:
        failed = self._source.choice(sorted(allowed.failed))
        values = tuple(self._number(numbers) for numbers in allowed.values or ())
        outcome = Outcome(failed, values, allowed.pages or 0)
        wrong = list(compare.outcome(allowed, outcome))
        if wrong:
            raise Contradiction(f"{step}: {wrong[0]}")
        if isinstance(step, tree.Load | tree.DeviceRead):
            process = step.actor.name if isinstance(step, tree.Load) else step.device.process
            for place, number in zip(self._machine.places(step.pages), values, strict=False):
                compare.narrow(self._machine.state, self._machine.state.owner.get(process, ""), place, number)
        return outcome

    def _number(self, numbers: Iterable[int]) -> int:
        return 0 if numbers is ANYTHING else self._source.choice(sorted(numbers))

    # What is to be seen

    def _look(self, item: tree.Item | None) -> Raw:
        raw = self._seen(self._machine.twin().state, self._machine.state)
        wrong = compare.memory(self._machine.state, seen.decode(raw))
        if wrong:
            raise Contradiction(f"{item}: {wrong[0]}")
        return raw

    def _seen(self, state: State, of: State) -> Raw:
        """One way in which `state`, which is changed, can be seen; it is a twin of `of`."""
        frames = self._twins(of, state)
        for page in sorted(state.pages(), key=lambda page: frames[id(page)]):
            if len(page.at) > 1:
                page.at = frozenset([self._source.choice(sorted(page.at))])
        regions = {region.name: self._machine.pages_of(region.name) for region in self._scenario.regions}
        walks = {
            key: {
                region: b"".join(self._walked(state, key, (region, n), frames) for n in range(count))
                for region, count in regions.items()
            }
            for key in state.mirrors
            if key[1] in state.spaces and state.mirrors[key].alive
        }
        pagemaps = {
            process: {
                region: b"".join(self._mapped(state, process, (region, n)) for n in range(count))
                for region, count in regions.items()
            }
            for process in state.spaces
        }
        return Raw(walks, pagemaps)

    def _twins(self, of: State, twin: State) -> dict[int, int]:
        """The frame of each page of the twin: that of its original."""
        frames: dict[int, int] = {}
        for process, space in of.spaces.items():
            for place, pte in space.ptes.items():
                other = twin.spaces[process].ptes[place].page
                if pte.page is not None and other is not None:
                    frames[id(other)] = self._frame(pte.page)
        for key, mirror in of.mirrors.items():
            for place, entry in mirror.entries.items():
                other = twin.mirrors[key].entries[place].page
                if entry.page is not None and other is not None:
                    frames[id(other)] = self._frame(entry.page)
        for page in twin.pages():
            frames.setdefault(id(page), 0)  # of a file, and nobody maps it
        return frames

    def _frame(self, page: Page) -> int:
        return self._frames.setdefault(id(page), (_FIRST_FRAME + len(self._frames), page))[0]

    def _walked(self, state: State, key: tuple[str, str], place: tuple[str, int], frames: dict[int, int]) -> bytes:
        """struct dmirror_page."""
        device, process = key
        flags = backing = mapped = number = 0
        space, entry = state.spaces[process], state.mirrors[key].entries.get(place)
        vma, pte = space.vmas.get(place), self._settled(state, process, place)
        if entry is not None and entry.maybe and self._source.random() < 0.5:
            entry = state.mirrors[key].entries.pop(place) and None
        if entry is not None:
            mapped = frames[id(entry.page)] if entry.page is not None else _ZERO_FRAME
            if entry.write is None:
                entry.write = bool(pte is not None and pte.write and pte.page is entry.page)
            flags |= seen._MAPPED | (seen._MAPPED_WRITE if entry.write else 0)
            flags |= seen._MAPPED_ATOMIC if entry.exclusive else 0
        at = next(iter(pte.page.at)) if pte is not None and pte.page is not None else "zero"
        if vma is None or vma.rights == "none":
            flags |= seen._ERROR
        elif pte is not None and not pte.moving and pte.exclusive is None and self._valid(at, device):
            flags |= seen._VALID | (seen._WRITE if pte.write else 0)
            if pte.page is None:
                flags |= seen._ZERO
                backing = _ZERO_FRAME
            else:
                backing = frames[id(pte.page)]
            if at in tree.DEVICES:
                flags |= seen._DEVICE
                number = tree.DEVICES[at]
        return struct.pack("=QQQIIII", backing, backing, mapped, flags, 0, number, 0)

    @staticmethod
    def _valid(at: str, device: str) -> bool:
        return at in ("ram", "zero", device) or at in COHERENT

    def _settled(self, state: State, process: str, place: tuple[str, int]) -> Pte | None:
        """What is there; what was open about it is not any more."""
        space = state.spaces[process]
        pte = space.ptes.get(place)
        if pte is None:
            return None
        if pte.maybe and self._source.random() < 0.5:
            del space.ptes[place]
            return None
        pte.maybe = False
        if pte.moving is None:
            pte.moving = self._source.random() < 0.5
        if pte.write is None:
            write = self._may_write(state, space.vmas[place], pte) and self._source.random() < 0.5
            space.ptes.allow(place, write)
        return pte

    @staticmethod
    def _may_write(state: State, vma: Vma, pte: Pte) -> bool:
        if vma.rights != "read-write" or pte.page is None:
            return False
        return (pte.page.file and not vma.private) or (not pte.page.file and len(state.users(pte.page)) == 1)

    def _mapped(self, state: State, process: str, place: tuple[str, int]) -> bytes:
        """A word of /proc/PID/pagemap."""
        pte = self._settled(state, process, place)
        if pte is None:
            return bytes(8)
        at = next(iter(pte.page.at)) if pte.page is not None else "zero"
        present = not pte.moving and pte.exclusive is None and (at in ("ram", "zero") or at in COHERENT)
        return struct.pack("=Q", _PRESENT if present else _SWAPPED)
