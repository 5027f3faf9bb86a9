# SPDX-License-Identifier: GPL-2.0
"""Judges what came of a scenario: what its file expects, and at every step what the model says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product

from dmirror.model import compare, faults, held, held_faults, races
from dmirror.model.allowed import Allowed
from dmirror.model.machine import Machine
from dmirror.model.rules import Rules
from dmirror.scenario import expectations, tree
from dmirror.scenario.record import Done, Entry, Looked, Outcome, Record, Rounds
from dmirror.scenario.seen import Memory, Raw, decode

_WORLDS = 16  # states that are followed after a race


@dataclass(frozen=True)
class Problem:
    """What was wrong with an item: `by` "file" for what the scenario expects, "model", or "kernel" for a hang."""

    item: tree.Item | None
    by: str
    text: str


def judge(
    scenario: tree.Scenario, record: Record, heard: Callable[[int, int], None] = lambda _, __: None
) -> list[Problem]:
    """Everything that is wrong; of what the model says only the first, since the rest would follow from it.

    `heard` is told of each step and each repetition, and on the way of those that take long: how many are judged, and
    how many there are. What it raises ends the judging.
    """
    return _Judge(scenario, record, heard).run()


def _count(items: Iterable[tree.Item]) -> int:
    """Steps and expectations, and repetitions of columns."""
    return sum(
        item.times if isinstance(item, tree.Par) else 1 + (_count(item.block) if isinstance(item, tree.Step) else 0)
        for item in items
    )


class _Race:
    """Columns in the parts that all their rounds are judged by; `many`: their orders are too many; `one` of them."""

    def __init__(self, machine: Machine, par: tree.Par) -> None:
        self.par = par
        self.many = not races.few(machine, par)
        self.split = [] if self.many else races.parts(machine, par)
        self.apart = [] if self.many else races.parts(machine, par, apart=True)
        self.one = [part for column in races.parts(machine, par, one_by_one=True) for part in column]


class _Judge:
    def __init__(self, scenario: tree.Scenario, record: Record, heard: Callable[[int, int], None]) -> None:
        self._record = record
        self._items = scenario.items
        self._heard, self._done = heard, 0
        self._all = _count(scenario.items)
        self._worlds = [Machine(scenario, Rules.of(record.features))]
        self._problems: list[Problem] = []
        self._agrees = True

    def _tell(self, done: int = 0) -> None:
        self._done += done
        self._heard(self._done, self._all)

    def run(self) -> list[Problem]:
        start = decode(self._record.start)
        self._model(None, lambda machine: compare.memory(machine.state, start))
        seen: list[Memory] = [start]
        for item, entry in zip(self._items, self._record.entries, strict=False):
            self._item(item, entry, seen)
        if self._record.broken:
            done = len(self._record.entries)
            last = self._items[done] if done < len(self._items) else None
            self._problems.append(Problem(last, "kernel", self._record.broken))
        return self._problems

    def _model(self, item: tree.Item | None, ask: Callable[[Machine], Sequence[str]]) -> None:
        """Ask every state that is still possible; those that disagree are not."""
        if not self._agrees:
            return
        answers = [(machine, list(ask(machine))) for machine in self._worlds]
        agreeing = [machine for machine, wrong in answers if not wrong]
        if agreeing:
            self._worlds = agreeing[:_WORLDS]
            return
        self._agrees = False
        self._problems.extend(Problem(item, "model", text) for text in answers[0][1][:4])

    def _file(self, item: tree.Item, texts: Iterable[str]) -> None:
        self._problems.extend(Problem(item, "file", text) for text in texts)

    # Items

    def _item(self, item: tree.Item, entry: Entry, seen: list[Memory]) -> None:
        if isinstance(item, tree.Step) and isinstance(entry, Done):
            self._step(item, entry, seen)
        elif isinstance(item, tree.Par) and isinstance(entry, Rounds):
            self._par(item, entry, seen)
        elif isinstance(item, tree.Expect):
            looked = entry if isinstance(entry, Looked) else Looked()
            self._file(item, expectations.wrong(item, seen, looked, self._record.addresses))
        self._tell(0 if isinstance(item, tree.Par) else 1)

    def _step(self, step: tree.Step, done: Done, seen: list[Memory]) -> None:
        waited_for = any(isinstance(item, tree.Step) and item.waits for item in step.block)
        if step.outcome is not None or not waited_for:
            # Who waits may have undone it before it looked what came of it: the model knows how it may end.
            self._file(step, expectations.wrong_outcome(step, done.outcome))
        if step.held is not None:
            self._held(step, done, seen)
        else:
            self._whole(step, done)
        self._look(step, done.seen, seen)

    def _look(self, item: tree.Item, raw: Raw | None, seen: list[Memory]) -> None:
        if raw is None:
            return
        memory = decode(raw)
        seen[:] = [memory]
        self._model(item, lambda machine: compare.memory(machine.state, memory))

    @staticmethod
    def _ended(machine: Machine, step: tree.Step, allowed: Allowed, outcome: Outcome) -> list[str]:
        wrong = list(compare.outcome(allowed, outcome))
        if isinstance(step, tree.Load | tree.DeviceRead) and not wrong:
            process = machine.state.owner.get(
                step.actor.name if isinstance(step, tree.Load) else step.device.process, ""
            )
            for place, number in zip(machine.places(step.pages), outcome.values, strict=False):
                compare.narrow(machine.state, process, place, number)
        return wrong

    def _held(self, step: tree.Step, done: Done, seen: list[Memory]) -> None:
        ends: dict[int, held_faults.End] = {}
        passed: dict[int, int] = {}

        def begin(machine: Machine) -> list[str]:
            if isinstance(step, tree.Load | tree.Store | tree.Add):
                passed[id(machine)] = held_faults.passed(machine, step)
            try:
                ends[id(machine)] = held.begin(machine, step)
            except faults.Refused as refused:
                return [f"it was held; the model says that it ends with {refused}"]
            return []

        self._model(step, begin)
        self._look(step, done.held, seen)
        later: list[tuple[tree.Step, Done]] = []
        for item, entry in zip(step.block, done.block, strict=False):
            if isinstance(item, tree.Step) and item.waits and isinstance(entry, Done):
                later.append((item, entry))
            else:
                self._item(item, entry, seen)
        for waiter, entry in later:
            self._tell(1)
            self._file(waiter, expectations.wrong_outcome(waiter, entry.outcome))
            if not entry.outcome.slept:
                self._file(waiter, ["it did not wait for the end of the hold"])
        if later and isinstance(step, tree.Load | tree.Store | tree.Add):
            self._model_of_crowd(step, done, passed, later)
            return
        self._model(step, lambda machine: self._ended(machine, step, ends[id(machine)](), done.outcome))
        for waiter, entry in later:
            self._whole(waiter, entry)
        if done.seen is not None and any(isinstance(waiter, tree.Call | tree.Fork) for waiter, _ in later):
            self._settle_order(decode(done.seen))

    def _settle_order(self, memory: Memory) -> None:
        """Who waited may have changed memory before or after the last of what was held: what is there says it."""
        for machine in self._worlds:
            if compare.memory(machine.twin().state, memory):
                compare.accept(machine.state, memory)

    def _model_of_crowd(
        self,
        item: held_faults.Access,
        done: Done,
        passed: dict[int, int],
        later: list[tuple[tree.Step, Done]],
    ) -> None:
        """A fault that was held and steps that waited for it go on at the same moment: any order will do."""
        if not self._agrees:
            return
        agreeing: list[Machine] = []
        wrong: list[str] = []
        for machine in self._worlds:
            held.release(machine)
            crowd = [held_faults.rest(machine, item, done, passed[id(machine)]), *later]
            for order in islice(permutations(crowd), races.ORDERS):
                self._tell()
                twin = machine.twin()
                differs = [
                    text for step, done in order for text in self._ended(twin, step, twin.do(step), done.outcome)
                ]
                if not differs:
                    agreeing.append(twin)
                wrong = wrong or differs
        self._agree(item, agreeing, wrong)

    def _agree(self, item: tree.Item, agreeing: list[Machine], wrong: list[str]) -> None:
        """The states that explain what was seen are those that are still possible."""
        if agreeing:
            self._worlds = agreeing[:_WORLDS]
            return
        self._agrees = False
        text = "no order explains what came out; of one of them: " + "; ".join(wrong[:3])
        self._problems.append(Problem(item, "model", text))

    def _whole(self, step: tree.Step, done: Done) -> None:
        """A step from its beginning to its end."""
        self._model(step, lambda machine: self._ended(machine, step, machine.do(step), done.outcome))

    # Columns

    def _par(self, par: tree.Par, rounds: Rounds, seen: list[Memory]) -> None:
        after: list[Memory] = []
        race = _Race(self._worlds[0], par)
        for columns, raw in zip(rounds.columns, rounds.seen, strict=True):
            memory = decode(raw)
            after.append(memory)
            self._race(race, columns, memory)
            self._tell(1)
        for column, steps in enumerate(par.columns):
            for index, step in enumerate(steps):
                assert isinstance(step, tree.Step)
                if step.outcome is not None:
                    for columns in rounds.columns:
                        self._file(step, expectations.wrong_outcome(step, columns[column][index].outcome))
        seen[:] = after or seen

    def _race(self, race: _Race, columns: tuple[tuple[Done, ...], ...], memory: Memory) -> None:
        if not self._agrees:
            return
        wrong: list[str] = []
        agreeing = self._orders(race.split, columns, memory, wrong) if not race.many else {}
        if not agreeing and not race.many and race.apart != race.split:
            agreeing = self._orders(race.apart, columns, memory, wrong)
        if race.many or (not agreeing and races.walks(race.split)):
            # Any one is carried out, and where it goes wrong what is there is taken as it is.
            for machine in self._worlds:
                races.run(machine, race.one)
                compare.accept(machine.state, memory)
                agreeing.setdefault(machine.state.likeness() if len(self._worlds) > 1 else None, machine)
        if len(agreeing) > _WORLDS:
            first = next(iter(agreeing.values()))
            compare.accept(first.state, memory)
            agreeing = {None: first}
        self._agree(race.par, list(agreeing.values()), wrong)

    def _orders(
        self, split: list[list[races.Part]], columns: tuple[tuple[Done, ...], ...], memory: Memory, wrong: list[str]
    ) -> dict[object, Machine]:
        """The states in which the race may have left it, by their likeness; `wrong` is filled with what the first
        other order does not explain. Nothing where there are too many orders."""
        agreeing: dict[object, Machine] = {}
        if races.count(split) > races.ORDERS:
            return agreeing
        for machine in self._worlds:
            for order, past in product(races.orders(split), races.ways(split)):
                self._tell()
                twin = machine.twin()
                ends = races.run(twin, order, past=past)
                differs = [
                    text
                    for (column, index), allowed in ends.items()
                    for text in compare.outcome(allowed, columns[column][index].outcome)
                ]
                # Of one alone it is told what differs; the others need only be known to.
                differs = differs or compare.memory(twin.state, memory, 1 if wrong else None)
                if not differs:
                    agreeing.setdefault(twin.state.likeness(), twin)
                wrong[:] = wrong or differs
        return agreeing
