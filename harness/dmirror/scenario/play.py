# SPDX-License-Identifier: GPL-2.0
"""Plays a scenario where the driver is loaded, with real processes and devices, and keeps what it saw."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from dmirror.calls import MirrorError
from dmirror.holds import HoldOver
from dmirror.memory import WORDS, Data, Span
from dmirror.mirror import devices
from dmirror.process import PATIENCE
from dmirror.scenario import orders, tree
from dmirror.scenario.agents import Agent, Agents, Gone, Reply
from dmirror.scenario.course import Course, course
from dmirror.scenario.features import features
from dmirror.scenario.orders import ByAgent, ByDevice, Order, Packed
from dmirror.scenario.record import (
    Done,
    Entry,
    Looked,
    Outcome,
    Record,
    Rounds,
    Stretch,
    answered,
    errno_name,
    together,
)
from dmirror.scenario.world import CHARGE_SLACK, Unsupported, World
from dmirror.threads import Task
from dmirror.uapi import ffi, lib

_PROCESSORS = os.sched_getaffinity(0)
_INJECT = {
    "device allocation": lib.DMIRROR_INJECT_DEVICE_ALLOC,
    "system allocation": lib.DMIRROR_INJECT_SYSTEM_ALLOC,
    "copy": lib.DMIRROR_INJECT_COPY,
}

# What may be looked at while a thread is held there: it has no lock that looking takes.
_LOOK_AT = ("at begin", "after setup", "after copy", "after pages", "before finalize", "when exclusive", "before check")


class Player:
    """Plays scenarios one after another, with the same first process as long as that lives."""

    def __init__(self) -> None:
        self._agents: Agents | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._agents is not None:
            self._agents.close()
            self._agents = None

    def play(self, scenario: tree.Scenario, *, log: bool = True) -> Record:
        """Play it to its end, whatever comes out. Unsupported where the machine cannot.

        `log`: with the record's table of events, which takes several times as long.
        """
        return self.run(course(scenario), log=log)

    def run(self, ready: Course, *, log: bool) -> Record:
        """The same with one that is made ready already."""
        with _one_processor():
            if self._agents is None:
                self._agents = Agents(tree.MAIN)
            world = World(self._agents, ready.regions, logged=log or ready.logged, counted=ready.counted)
            whole = False
            try:
                record = _Play(ready, world).run(log=log)
                whole = world.clear()
            finally:
                if not whole:
                    self._end()
        return record


@functools.cache
def _devices() -> tuple[int, ...]:
    return devices()


@contextmanager
def _one_processor() -> Iterator[None]:
    """Whoever waits for another process on its own processor gets its answer soonest: no processor has to be woken.

    Columns leave it: they are to run at once.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Play:
    """One scenario under way."""

    def __init__(self, ready: Course, world: World) -> None:
        self._course = ready
        self._world = world
        # Steps of the present block that sleep until the hold is over, by their place in it, and whether they do.
        self._waiting: dict[int, tuple[_Begun, bool]] = {}
        self._taken: list[Entry | Stretch] = []

    def run(self, *, log: bool) -> Record:
        world, ready = self._world, self._course
        missing = [name for name, _ in ready.mirrored if tree.DEVICES[name] not in _devices()]
        if missing:
            raise Unsupported(f"no hmm_dmirror{tree.DEVICES[missing[0]]}: the driver was given no coherent memory")
        for region in ready.regions:
            world.declare(region)
        for device, process in ready.mirrored:
            if process == tree.MAIN:
                world.open(tree.Device(device))
        for child in dict.fromkeys(region.shared_with for region in ready.regions if region.shared_with):
            self._fork(tree.MAIN, child)
        if ready.charged:
            world.group()
        start, broken = world.look(), ""
        try:
            for part in ready.parts:
                if isinstance(part, Packed):
                    world.play(part, self._taken)
                else:
                    self._taken.append(self._item(part))
        except (TimeoutError, HoldOver, Gone) as error:
            broken = f"{type(error).__name__}: {error}"
        return Record(
            features(),
            {name: span.addr for name, span in world.places.items()},
            start,
            tuple(self._taken),
            broken,
            world.table() if log else "",
        )

    def _item(self, item: tree.Item, *, look: bool = True) -> Entry:
        if isinstance(item, tree.Step):
            return self._step(item, look=look)
        if isinstance(item, tree.Par):
            return self._par(item)
        if isinstance(item, tree.Forget):
            self._world.forget()
        elif isinstance(item, tree.Saw):
            return Looked(events=self._world.events(item.device))
        elif isinstance(item, tree.Counts):
            return Looked(number=self._world.counted(item.device, item.counter))
        elif isinstance(item, tree.Charged):
            return Looked(number=self._world.charged(), slack=CHARGE_SLACK)
        return None

    # One step

    def _step(self, step: tree.Step, *, look: bool) -> Done:
        if step.held is not None:
            return self._held(step, look=look)
        outcome = self._act(step)
        return Done(outcome, self._world.look() if look else None)

    def _act(self, step: tree.Step) -> Outcome:
        """Do it, from beginning to end."""
        if isinstance(step, ByAgent) and _plain(step):
            agent = self._world.agents[step.actor.name]
            return together([_accessed(agent, order) for order in orders.of_agent(step, self._world.places)])
        try:
            return self._other(step)
        except MirrorError as error:
            return Outcome(errno_name(error.errno or 0), pages=error.pages)
        except OSError as error:
            return Outcome(errno_name(error.errno or 0))

    def _other(self, step: tree.Step) -> Outcome:
        world = self._world
        match step:
            case tree.Call():
                self._memory(step)
            case tree.Limit():
                world.limit(step.pages)
            case tree.Fork():
                self._fork(step.actor.name, step.child.name)
            case tree.Thread():
                world.agents.thread(step.actor.name, step.thread.name)
            case tree.Leave():
                self._leave(step)
            case tree.Inject():
                # It lasts until it has failed once, or the mirror is closed.
                world.mirror(step.device).own("INJECT", what=_INJECT[step.what], nth=step.nth)
            case tree.Turn():
                (world.open if step.how == "opens" else world.close)(step.device)
            case tree.Evict():
                world.mirror(step.device).release()
            case _:
                return self._device(step)
        return Outcome()

    def _memory(self, step: tree.Call) -> None:
        world, name, span = self._world, step.actor.name, self._world.span(step.pages)
        match step.verb:
            case "maps":
                world.map(name, span, world.regions[step.pages.region])
            case "pins":
                world.pin(name, span)
            case "unpins":
                world.unpin(name, span)
            case "swaps out":
                world.swap_out(name, span)
            case "splits":
                world.split(name, span)
            case "moves to node":
                world.move_to_node(name, span, step.number)
            case _:
                raise ValueError(f"no verb {step.verb!r}")

    def _device(self, step: tree.Step) -> Outcome:
        assert isinstance(step, ByDevice)
        mirror, span = self._world.mirror(step.device), self._world.span(step.pages)
        if isinstance(step, tree.DeviceRead):
            result = mirror.read(span)
            return Outcome(values=_words(result.data, result.pages), pages=result.pages)
        if isinstance(step, tree.Peek):
            return Outcome(values=_words(mirror.peek(span), span.npages), pages=span.npages)
        pages = span.npages
        match step:
            case tree.DeviceWrite():
                pages = mirror.write(span, _data(step.value.of(span.npages))).pages
            case tree.Migrate(to="device"):
                pages = mirror.migrate_to_device(span).pages
            case tree.Migrate():
                pages = mirror.migrate_to_system(span)
            case tree.Exclusive():
                pages = mirror.exclusive(span).pages
            case tree.Snapshot():
                mirror.snapshot(span)
        return Outcome(pages=pages)

    def _fork(self, parent: str, child: str) -> None:
        self._world.fork(parent, child)
        for device in self._course.at_fork[child]:
            self._world.open(tree.Device(device, child))

    def _leave(self, step: tree.Leave) -> None:
        world, name = self._world, step.actor.name
        agent = world.agents[name]
        if step.how == "execs":
            agent.send(lib.AGENT_EXEC)
            agent.wait_other_program()
            world.gone(name)
            return
        if step.how == "exits":
            agent.send(*orders.of_agent(step, world.places)[0])
            agent.pending -= 1
            agent.wait_gone()
        world.agents.end(name)
        world.gone(name)

    # Held, and asleep

    def _held(self, step: tree.Step, *, look: bool) -> Done:
        """Begin it, do the block while it is held, and let it go on."""
        assert step.held is not None
        mirror = self._world.mirror(step.held.by or _device_of(step))
        outer, self._waiting = self._waiting, {}
        with ExitStack() as stack:
            hold = stack.enter_context(mirror.hold(_point(step), self._around(step)))
            begun = self._begin(step, stack)
            hold.wait()
            looks = step.held.point in _LOOK_AT
            held = self._world.look() if looks else None
            block: list[Entry] = []
            for number, item in enumerate(step.block):
                if isinstance(item, tree.Step) and item.waits:
                    sleeper = self._begin(item, stack)
                    self._waiting[number] = sleeper, sleeper.asleep()
                    block.append(None)
                else:
                    # Who sleeps may be first in the queue for a lock that looking takes.
                    block.append(self._item(item, look=looks and not self._waiting))
            hold.resume()
            outcome = begun.finish()
            for number, (sleeper, slept) in self._waiting.items():
                block[number] = Done(sleeper.finish()._replace(slept=slept))
        self._waiting = outer
        return Done(outcome, self._world.look() if look else None, held, tuple(block))

    def _begin(self, step: tree.Step, stack: ExitStack) -> _Begun:
        """Begin a step and do not wait for its end."""
        if isinstance(step, ByAgent) and _plain(step):
            order, *more = orders.of_agent(step, self._world.places)
            if not more:
                agent = self._world.agents[step.actor.name]
                agent.send(*order)
                return _Begun(lambda: _outcome(agent.receive(), order), agent.wait_asleep)
        task = stack.enter_context(Task(self._act, step))

        def asleep() -> bool:
            try:
                task.wait_asleep()
            except RuntimeError:
                return False
            return True

        return _Begun(task.result, asleep)

    def _around(self, step: tree.Step) -> Span | None:
        pages = getattr(step, "pages", None)
        return self._world.span(pages) if isinstance(pages, tree.Pages) else None

    # Columns

    def _par(self, par: tree.Par) -> Rounds:
        """Each column in a thread of its own, and each process in it by a thread of its own in that process."""
        stand_ins = [self._stand_ins(column, number) for number, column in enumerate(par.columns)]
        rounds, seen = [], []
        for _ in range(par.times):
            start = threading.Barrier(len(par.columns))
            with ExitStack() as stack:
                tasks = [
                    stack.enter_context(Task(self._column, column, names, start))
                    for column, names in zip(par.columns, stand_ins, strict=True)
                ]
                rounds.append(tuple(task.result() for task in tasks))
            seen.append(self._world.look())
        for names in stand_ins:
            for name in names.values():
                self._world.agents.stop(name)
        return Rounds(tuple(rounds), tuple(seen))

    def _stand_ins(self, column: Sequence[tree.Item], number: int) -> dict[str, str]:
        actors = {item.actor.name for item in column if isinstance(item, ByAgent)}
        names = {actor: f"{actor} in column {number}" for actor in sorted(actors)}
        for actor, name in names.items():
            os.sched_setaffinity(self._world.agents.thread(actor, name).tid, _PROCESSORS)
        return names

    def _column(self, column: Sequence[tree.Item], names: dict[str, str], start: threading.Barrier) -> tuple[Done, ...]:
        os.sched_setaffinity(0, _PROCESSORS)
        start.wait(PATIENCE)
        done = []
        for item in column:
            assert isinstance(item, tree.Step)
            if isinstance(item, ByAgent):
                item = replace(item, actor=tree.Actor(names[item.actor.name]))  # noqa: PLW2901
            done.append(Done(self._act(item)))
        return tuple(done)


@dataclass(frozen=True)
class _Begun:
    """A step under way: `finish` waits for how it ends, `asleep` whether it falls asleep before that."""

    finish: Callable[[], Outcome]
    asleep: Callable[[], bool]


def _plain(step: tree.Step) -> bool:
    """Whether agents do it by themselves."""
    return not isinstance(step, tree.Call) or step.verb in orders.SYSTEM_CALLS


def _device_of(step: tree.Step) -> tree.Device:
    device = getattr(step, "device", None)
    assert isinstance(device, tree.Device), f"{step} is held by nobody"
    return device


def _point(step: tree.Step) -> str:
    """The hold point of holds.POINTS that is meant."""
    assert step.held is not None
    point = step.held.point
    if point == "in invalidation":
        return "invalidate"
    if isinstance(step, tree.Exclusive):
        return "exclusive.after"
    family = "fault" if isinstance(step, tree.DeviceRead | tree.DeviceWrite) else "cpu_fault"
    if isinstance(step, tree.Migrate):
        family = "migrate"
    return f"{family}.{point.removeprefix('at ').replace(' ', '_')}"


def _accessed(agent: Agent, order: Order) -> Outcome:
    return _outcome(agent.ask(*order), order)


def _outcome(reply: Reply, order: Order) -> Outcome:
    return answered(reply.result, reply.fault, reply.signal, reply.values, call=order[0] == lib.AGENT_CALL)


def _words(data: Data, npages: int) -> tuple[int, ...]:
    words = ffi.cast("uint64_t *", data.buffer)
    return tuple(words[page * WORDS] for page in range(npages))


def _data(numbers: Sequence[int]) -> Data:
    """Pages whose first words these are, and zeroes behind them."""
    data = Data(len(numbers))
    words = ffi.cast("uint64_t *", data.buffer)
    for page, number in enumerate(numbers):
        words[page * WORDS] = number
    return data
