# SPDX-License-Identifier: GPL-2.0
"""What is wrong with a scenario that parses: names, ranges, what cannot be where it stands, needs that are not said."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from dmirror import inputs
from dmirror.scenario import tree
from dmirror.scenario.faults import Fault, Faults, listed, nearest
from dmirror.scenario.parser import parse
from dmirror.scenario.text import format_pages, format_subject, subject
from dmirror.scenario.tree import MAIN, At

HUGE_PAGES = 512
"""Pages of a huge page."""

MOST_PAGES = 1 << 18
"""Of a region: 1 GiB."""

MOST_PINNED = 16
"""Pages that a pipe has room for, as it is made."""

MOST_TIMES = 10_000

_WORD = 1 << 64
_MIGRATION = ("at begin", "after setup", "after copy", "after pages", "before finalize")
_FAULT = ("before check", "before install")


def load(path: Path) -> tree.Scenario:
    """Read, parse and check a file. Raises Faults, and OSError where it cannot be read."""
    return loaded(inputs.read(path, inputs.SCENARIO), str(path))


def loaded(data: bytes, name: str) -> tree.Scenario:
    """The same, of what is read already."""
    scenario = parse(decoded(data, name), name)
    if faults := check(scenario):
        raise Faults(faults, name)
    return scenario


def decoded(data: bytes, name: str) -> str:
    """A file as text. Raises Faults where it is none."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        fault = Fault(line, column, 1, f"this is not UTF-8: byte {data[error.start]:#04x}")
        raise Faults([fault], name) from error


def check(scenario: tree.Scenario) -> tuple[Fault, ...]:
    """What is wrong with it, by line; () where nothing is."""
    checking = _Check(scenario)
    checking.head()
    checking.items(scenario.items, _Now())
    return tuple(sorted({*checking.faults, *_unsaid(scenario)}))


@dataclass
class _Now:
    """What holds at a step, on the way through the items."""

    processes: dict[str, str] = field(default_factory=lambda: {MAIN: ""})
    """By name; a thread has that of its process."""
    gone: dict[str, int] = field(default_factory=dict)
    """The lines that processes and threads left at."""
    closed: dict[tree.Device, int] = field(default_factory=dict)
    held: tuple[tree.Step, ...] = ()
    """Those in whose blocks this is."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Of the processes and threads, who sleeps until a hold is over, and since which line."""
    column: tree.Par | None = None

    def branch(self, **changes: object) -> _Now:
        """The same, to go its own way from here."""
        copies = {"processes": dict(self.processes), "gone": dict(self.gone), "closed": dict(self.closed)}
        return replace(self, **copies, **changes)  # type: ignore[arg-type]

    def join(self, others: Iterable[_Now]) -> None:
        """Go on behind them."""
        before = dict(self.closed)
        for other in others:
            self.processes |= other.processes
            self.gone |= other.gone
            self.closed |= other.closed.items() - before.items()
            for opened in before.keys() - other.closed.keys():
                self.closed.pop(opened, None)


@dataclass
class _Check:
    scenario: tree.Scenario
    faults: set[Fault] = field(default_factory=set)
    regions: dict[str, tree.Region] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    """Names of which it is said that they are no region, process or thread."""

    def wrong(self, at: At, message: str, suggestion: str = "") -> None:
        self.faults.add(Fault.at(at, message, suggestion))

    # Before the first step

    def head(self) -> None:
        for need in self.scenario.needs:
            if isinstance(need, tree.NeedKernel) and need.low and need.high and need.low >= need.high:
                self.wrong(need.at, "there is no such kernel: the second release has to be newer than the first")
        for region in self.scenario.regions:
            self._region(region)
        for region in self.scenario.regions:
            if region.shared_with in self.regions:
                self.wrong(region.at, f"{region.shared_with!r} is a region, and a region is shared with a process")

    def _region(self, region: tree.Region) -> None:
        if (before := self.regions.get(region.name)) is not None:
            self.wrong(region.at, f"there is a region {region.name!r} already, in line {before.at.line}")
            return
        self.regions[region.name] = region
        if region.huge and region.kind not in ("anonymous", "hugetlb"):
            self.wrong(region.at, f"huge pages are of anonymous memory or of hugetlb, not of {region.kind} memory")
        if region.kind == "hugetlb" and not region.huge:
            self.wrong(region.at, "hugetlb memory is counted in huge pages", f"{region.count} huge pages")
        if not 0 < _size(region) <= MOST_PAGES:
            self.wrong(region.at, f"{_size(region)} pages: a region has 1 to {MOST_PAGES} of them")
        elif region.written:
            self._value(region.written, _size(region), region.at)

    # Items

    def items(self, items: tuple[tree.Item, ...], now: _Now) -> None:
        if not now.held and now.column is None:
            for region in self.scenario.regions:
                if region.shared_with:  # it is forked before the first step
                    now.processes.setdefault(region.shared_with, "")
        behind_par = False
        for item in items:
            match item:
                case tree.Par():
                    self._par(item, now)
                case tree.Expect():
                    self._expect(item, now, behind_par)
                case tree.Forget():
                    self._not_racing(item, "events are forgotten", now)
                case tree.Step():
                    self._step(item, now)
            behind_par = isinstance(item, tree.Par) or (behind_par and isinstance(item, tree.Expect))

    def _not_racing(self, item: tree.Item, what: str, now: _Now) -> None:
        if now.column is not None:
            self.wrong(item.at, f"{what} behind a par, not in a column, which says nothing of when")

    def _par(self, par: tree.Par, now: _Now) -> None:
        if now.column is not None or now.held:
            self.wrong(par.at, f"a par cannot stand in {'a column' if now.column else 'the block of a held step'}")
        if not 0 < par.times <= MOST_TIMES:
            self.wrong(par.at, f"{par.times} times: 1 to {MOST_TIMES} can be")
        ways = [now.branch(column=par) for _ in par.columns]
        for column, way in zip(par.columns, ways, strict=True):
            self.items(column, way)
        now.join(ways)

    def _step(self, step: tree.Step, now: _Now) -> None:
        who = subject(step)
        if isinstance(who, tree.Device):
            self._device(who, now)
            if who in now.closed and not isinstance(step, tree.Turn) and not isinstance(step.outcome, tree.Fails):
                name = format_subject(who)
                self.wrong(who.at, f"{name} is closed since line {now.closed[who]}: '{name} opens' has to come before")
        else:
            self._actor(who, now)
        self._arguments(step)
        if step.waits and not now.held:
            self.wrong(step.at, "nothing is held here that it could wait for")
        self._processes(step, now)
        if step.held:
            self._hold(step, step.held, now)
            inside = now.branch(held=(*now.held, step), waiting=dict(now.waiting))
            self.items(step.block, inside)
            now.join([inside])
        if step.waits and isinstance(who, tree.Actor):
            now.waiting[who.name] = step.at.line

    def _actor(self, who: tree.Actor, now: _Now) -> None:
        if who.name not in now.processes:
            known = (*now.processes, *tree.DEVICES)
            there = self._there(now, now.processes)
            is_region = ", it is a region" if who.name in self.regions else ""
            if who.name not in self.unknown:
                said = f"there is no process or thread {who.name!r} here{is_region}{there}"
                self.wrong(who.at, said, nearest(who.name, known))
            self.unknown.add(who.name)
        elif (line := self._left(who.name, now)) is not None:
            self.wrong(who.at, f"{who.name} can do nothing any more: it has left at line {line}")
        elif (line := now.waiting.get(who.name)) is not None:
            self.wrong(who.at, f"{who.name} waits since line {line}, and does nothing until that hold is over")
        for step in now.held:
            if subject(step) == who:
                self.wrong(who.at, f"{who.name} is held itself since line {step.at.line}: another one has to do this")

    def _there(self, now: _Now, names: Iterable[str]) -> str:
        """Of these processes and threads those that have not left."""
        there = [name for name in names if self._left(name, now) is None]
        if len(there) < 2:
            return "".join(f"; there is {name} only" for name in there)
        return f"; there are {', '.join(there[:-1])} and {there[-1]}"

    @staticmethod
    def _left(name: str, now: _Now) -> int | None:
        return now.gone.get(name, now.gone.get(now.processes.get(name, "")))

    def _device(self, device: tree.Device, now: _Now) -> None:
        self._process(device.process, device.at, now)

    def _process(self, name: str, at: At, now: _Now) -> None:
        if name not in now.processes:
            if name not in self.unknown:
                processes = [process for process, of in now.processes.items() if not of]
                said = f"there is no process {name!r} here{self._there(now, processes)}"
                self.wrong(at, said, nearest(name, processes))
            self.unknown.add(name)
        elif now.processes[name]:
            of = now.processes[name]
            self.wrong(at, f"{name!r} is a thread, and its memory is that of its process", of)

    def _processes(self, step: tree.Step, now: _Now) -> None:
        """Who comes and goes by it."""
        if isinstance(step, tree.Fork | tree.Thread | tree.Leave | tree.Turn) and now.column and now.column.times > 1:
            done = f"{format_subject(subject(step))} cannot do this {now.column.times} times over: names are for once"
            self.wrong(step.at, done)
        match step:
            case tree.Fork(actor, child):
                self._new(child, "", now, actor)
            case tree.Thread(actor, thread):
                self._new(thread, now.processes.get(actor.name) or actor.name, now, actor)
            case tree.Leave(actor) if now.processes.get(actor.name):
                of = now.processes[actor.name]
                self.wrong(actor.at, f"{actor.name} is a thread of {of}, and only whole processes leave", of)
            case tree.Leave(actor):
                now.gone[actor.name] = step.at.line
            case tree.Turn(device, "closes"):
                now.closed[device] = step.at.line
            case tree.Turn(device):
                now.closed.pop(device, None)

    def _new(self, who: tree.Actor, of: str, now: _Now, actor: tree.Actor) -> None:
        shared = [region.name for region in self.scenario.regions if region.shared_with == who.name]
        if shared:
            said = f"{who.name} is there from the beginning, as region {shared[0]!r} is shared with it"
            self.wrong(who.at, said)
        elif who.name in now.processes:
            self.wrong(who.at, f"there is a process or thread {who.name!r} already: take another name")
        elif who.name in self.regions:
            self.wrong(who.at, f"{who.name!r} is a region: take another name")
        now.processes.setdefault(who.name, of)

    # Arguments

    def _pages(self, pages: tree.Pages) -> int | None:
        """How many pages these are; None where that is not known, which is said."""
        region = self.regions.get(pages.region)
        if region is None:
            if pages.region not in self.unknown:
                self.wrong(pages.at, f"there is no region {pages.region!r}", nearest(pages.region, self.regions))
            self.unknown.add(pages.region)
            return None
        size = _size(region)
        stop = size if pages.stop is None else pages.stop
        if not pages.first < stop <= size:
            huge = f" in {region.count} huge ones" if region.huge else ""
            said = f"{format_pages(pages)} is outside of {pages.region}, which has {size} pages{huge}, from 0 on"
            self.wrong(pages.at, said)
            return None
        return stop - pages.first

    def _value(self, value: tree.Value, npages: int, at: At) -> None:
        place = at if value.at == tree.NOWHERE else value.at
        if not value.numbered and len(value.numbers) not in (1, npages):
            self._unlike(place, len(value.numbers), "number", npages)
        if value.numbered and value.numbers[0] + npages > _WORD:
            self.wrong(place, f"{npages} numbers from {value.numbers[0]} on are more than 64 bits have")

    def _unlike(self, at: At, count: int, what: str, npages: int) -> None:
        of_pages = f"{npages} page{'s' * (npages != 1)}"
        each = f"one for all, or {npages}" if npages != 1 else "one"
        self.wrong(at, f"{count} {what}s for {of_pages}: there has to be {each}")

    def _arguments(self, step: tree.Step) -> None:
        pages: tree.Pages | None = getattr(step, "pages", None) if not isinstance(step, tree.Limit) else None
        npages = self._pages(pages) if pages else None
        if npages is not None:
            for value in (getattr(step, "value", None), step.outcome):
                if isinstance(value, tree.Value):
                    self._value(value, npages, step.at)
        match step:
            case tree.Call(verb="pins") if npages is not None and npages > MOST_PINNED:
                self.wrong(step.pages.at, f"{npages} pages: a pipe pins {MOST_PINNED} of them at most")
            case tree.Call(to=tree.Pages() as to):
                length = self._pages(to)
                if length is not None and npages is not None and length != npages:
                    self.wrong(
                        to.at, f"{npages} pages cannot move to where {length} are: the lengths have to be the same"
                    )
            case tree.Call(verb="moves to node") if step.number > 1:
                self.wrong(step.at, f"node {step.number}: what 'two nodes' gives are node 0 and node 1")
            case tree.Inject(nth=0):
                self.wrong(step.at, "they count from 1")

    # Holds

    def _hold(self, step: tree.Step, hold: tree.Hold, now: _Now) -> None:
        if hold.by is not None:
            self._device(hold.by, now)
        if now.column is not None:
            self.wrong(hold.at, "nothing is held in a column: its steps race freely")
        fit = _points(step)
        if hold.point not in fit:
            said = "this step cannot be held"
            if fit:
                said += f" {hold.point!r}; it can {listed(map(repr, fit))}"
            self.wrong(hold.at, said, fit[0] if len(fit) == 1 else "")
            return
        who = subject(step)
        if hold.by is None and (hold.point == "in invalidation" or isinstance(who, tree.Actor)):
            self.wrong(hold.at, "it does not say in whose driver it is held", f"held {hold.point} by A")
        if hold.by is not None and hold.point != "in invalidation" and isinstance(who, tree.Device) and hold.by != who:
            name = format_subject(who)
            self.wrong(hold.by.at, f"this is held in the driver of {name}, which does it: leave 'by' out")

    # Expectations

    def _expect(self, expect: tree.Expect, now: _Now, behind_par: bool) -> None:
        self._not_racing(expect, "an expectation stands", now)
        if expect.verdict is not None and not behind_par:
            self.wrong(expect.at, f"{expect.verdict!r} is of the repetitions of a par, and stands directly behind it")
        device: tree.Device | None = getattr(expect, "device", None)
        if device is not None:
            self._device(device, now)
        pages: tree.Pages | None = getattr(expect, "pages", None) if not isinstance(expect, tree.Charged) else None
        pages = expect.over if isinstance(expect, tree.Saw) else pages
        npages = self._pages(pages) if pages else None
        if isinstance(expect, tree.Where | tree.Allowed):
            self._process(expect.process, expect.at, now)
            if (line := self._left(expect.process, now)) is not None:
                self.wrong(expect.at, f"{expect.process} has no memory any more: it has left at line {line}")
            each = expect.places if isinstance(expect, tree.Where) else expect.rights
            if npages is not None and len(each) not in (1, npages):
                at = expect.at if expect.each_at == tree.NOWHERE else expect.each_at
                self._unlike(at, len(each), "place" if isinstance(expect, tree.Where) else "right", npages)


def _size(region: tree.Region) -> int:
    return region.count * (HUGE_PAGES if region.huge else 1)


def _points(step: tree.Step) -> tuple[str, ...]:
    """Where it can be held."""
    match step:
        case tree.Load() | tree.Store() | tree.Add() | tree.Migrate():
            return (*_MIGRATION, "in invalidation")
        case tree.DeviceRead() | tree.DeviceWrite():
            return (*_FAULT, "in invalidation")
        case tree.Exclusive():
            return ("when exclusive", "in invalidation")
        case tree.Inject() | tree.Turn() | tree.Peek() | tree.Snapshot() | tree.Limit() | tree.Thread():
            return ()
    return ("in invalidation",)


def _unsaid(scenario: tree.Scenario) -> Iterator[Fault]:
    """Needs that it has and does not say, each where it first shows."""
    said = {need.what for need in scenario.needs if isinstance(need, tree.Need)}
    for what, at, why in _needed(scenario):
        if what not in said:
            said.add(what)
            yield Fault.at(at, f"{why}: add the line 'needs {what}'")


def _needed(scenario: tree.Scenario) -> Iterator[tuple[str, At, str]]:
    for region in scenario.regions:
        if region.kind == "hugetlb":
            yield "hugetlb", region.at, "hugetlb pages are set aside at boot"
        elif region.huge and region.kind == "anonymous":
            yield "huge pages", region.at, "huge pages are not on every kernel"
    for item in tree.walk(scenario.items):
        for device in (
            getattr(item, "device", None),
            item.held.by if isinstance(item, tree.Step) and item.held else None,
        ):
            if device is not None and device.name in "CD":
                yield "coherent", device.at, f"{device.name} has coherent memory, which not every machine can have"
        match item:
            case tree.Call(verb="swaps out"):
                yield "swap", item.at, "this takes swap"
            case tree.Call(verb="moves to node"):
                yield "two nodes", item.at, "this takes a machine with two NUMA nodes"
            case tree.Call(verb="collapses" | "splits"):
                yield "huge pages", item.at, "this is about huge pages"
            case tree.Limit() | tree.Charged():
                yield "cgroup", item.at, "this is about what a control group is charged"
