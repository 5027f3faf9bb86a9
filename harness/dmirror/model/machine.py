# SPDX-License-Identifier: GPL-2.0
"""Carries out a scenario's steps on the state of the model: what each may end with, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dmirror.model import calls, devices, faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.rules import Rules
from dmirror.model.state import HUGE, ZERO, File, Mirror, Numbers, Place, Pte, Space, State, Vma, added
from dmirror.scenario import tree


class Machine:
    """The model of one scenario on one kernel. `state` is what is there now."""

    def __init__(self, scenario: tree.Scenario, rules: Rules) -> None:
        self.scenario = scenario
        self.rules = rules
        self.state = State()
        self.regions = {region.name: region for region in scenario.regions}
        self._places: dict[tree.Pages, list[Place]] = {}
        self._begin()

    def twin(self) -> Machine:
        """Another one in the same state, that goes its own way."""
        other = Machine.__new__(Machine)
        other.scenario, other.rules, other.regions = self.scenario, self.rules, self.regions
        other._places = self._places
        other.state = self.state.copy()
        return other

    # The beginning

    def pages_of(self, name: str) -> int:
        """How many pages a region has."""
        region = self.regions[name]
        return region.count * (HUGE if region.huge else 1)

    def places(self, pages: tree.Pages) -> list[Place]:
        """The places that are meant."""
        found = self._places.get(pages)
        if found is None:
            stop = self.pages_of(pages.region) if pages.stop is None else pages.stop
            found = self._places[pages] = [(pages.region, number) for number in range(pages.first, stop)]
        return found

    def _begin(self) -> None:
        self.state.spaces[tree.MAIN] = Space()
        self.state.owner[tree.MAIN] = tree.MAIN
        for region in self.scenario.regions:
            self.map(tree.MAIN, self.places(tree.Pages(region.name)), region, "read-write")
            self._fill(region)
        for device, process in tree.mirrors(tree.walk(self.scenario.items)):
            if process == tree.MAIN:
                self.state.open((device, process))
        for child in dict.fromkeys(region.shared_with for region in self.scenario.regions if region.shared_with):
            self.fork(tree.MAIN, child)

    def _fill(self, region: tree.Region) -> None:
        places = self.places(tree.Pages(region.name))
        if region.written is not None:
            for place, number in zip(places, region.written.of(len(places)), strict=True):
                page = faults.fault(self.state, tree.MAIN, place, write=True).page
                assert page is not None
                page.values = frozenset([number])
        elif region.read:
            for place in places:
                faults.fault(self.state, tree.MAIN, place, write=False)
        if region.rights != "read-write":
            calls.protect(self, tree.MAIN, places, region.rights)

    def map(self, process: str, places: list[Place], region: tree.Region, rights: str) -> None:
        """mmap(2) of places of a region, with a file of its own where it is one of a file."""
        file = File() if region.kind in ("shared", "memfd", "private file") else None
        private = region.kind not in ("shared", "memfd")
        hugetlb = region.kind == "hugetlb"
        huge = hugetlb or (region.huge and region.kind == "anonymous")
        space = self.state.spaces[process]
        vmas = space.vmas
        space.anon.discard(region.name)
        space.cut(places)
        beside = space.anonymous_near(region.name)
        for place in places:
            vmas[place] = Vma(rights, private, file, place[1], huge, hugetlb)
            vmas[place].anon = None if beside and file is None else False

    # Steps

    def do(self, step: tree.Step) -> Allowed:
        """Carry it out from beginning to end."""
        try:
            return _HANDLERS[type(step)](self, step)
        except Refused as refused:
            return Allowed(refused.names)

    def process(self, actor: tree.Actor) -> str:
        """The process of a process or a thread."""
        return self.state.owner[actor.name]

    def mirror(self, device: tree.Device) -> Mirror:
        """The mirror that acts. Refused where it is closed, or its address space is gone."""
        return faults.mirror_of(self.state, (device.name, device.process))

    # The CPU's accesses

    def access(self, step: tree.Load | tree.Store | tree.Add) -> Allowed:
        """One access a page, up to the first that raises a signal."""
        process, places = self.process(step.actor), self.places(step.pages)
        values: list[Numbers] = []
        wanted = step.value.of(len(places)) if isinstance(step, tree.Store) else (0,) * len(places)
        for place, number in zip(places, wanted, strict=True):
            try:
                pte = faults.fault(self.state, process, place, write=not isinstance(step, tree.Load))
            except Refused as refused:
                return Allowed(refused.names, tuple(values), len(values))
            before = pte.page.values if pte.page is not None else ZERO
            if isinstance(step, tree.Store) and pte.page is not None:
                before = pte.page.values = frozenset([number])
            elif isinstance(step, tree.Add) and pte.page is not None:
                pte.page.values = added(before, step.amount)
            values.append(before)
        return Allowed(values=tuple(values), pages=len(values))

    # Processes

    def fork(self, parent: str, child: str) -> None:
        """copy_page_range(), mapping by mapping; the mirrors of the child are open from then on."""
        state = self.state
        space = state.spaces[parent]
        twin = state.spaces[child] = Space(cuts=set(space.cuts), moved=space.copied_moves())
        state.owner[child] = child
        for place, vma in space.vmas.items():
            if vma.fork == "leave":
                continue
            twin.vmas[place] = replace(vma, locked=False)
            if vma.fork == "wipe":
                twin.vmas[place].anon = False
                continue
            if place in space.ptes and vma.anon is not False:
                self._copy_entry(parent, place, twin)
            if vma.anon is not False and vma.private:
                # Announced per mapping, whatever is in it.
                (faults.loosen if vma.anon is None else faults.invalidate)(state, parent, [place])
        for device in tree.opened_at_fork(list(tree.walk(self.scenario.items)), child):
            state.open((device, child))

    def _copy_entry(self, parent: str, place: Place, twin: Space) -> None:
        space = self.state.spaces[parent]
        pte = space.ptes[place]
        if pte.exclusive is not None:
            faults.revoke(self.state, parent, place, pte)
        page = pte.page
        if page is not None:
            page.forked = True
        if page is not None and not page.file and page.pins:
            # A pinned page may be copied for the child at once (copy_present_page()), or be shared.
            twin.ptes[place] = Pte(page, False, moving=pte.moving)
            space.ptes.allow(place, False)
            return
        maybe = pte.maybe or page is None or page.file
        if page is not None and not page.file:
            space.ptes.allow(place, False)
        write = pte.write if page is not None and page.file else False
        twin.ptes[place] = Pte(page, write, maybe=maybe, moving=pte.moving)

    def leave(self, process: str) -> None:
        """The address space is gone, by exit, exec or death."""
        state = self.state
        for pinned in state.end(process).pins.values():
            for page in pinned:
                if page is not None:
                    page.pins -= 1
        for name in [name for name, of in state.owner.items() if of == process]:
            del state.owner[name]


def _fork(machine: Machine, step: tree.Fork) -> Allowed:
    machine.fork(machine.process(step.actor), step.child.name)
    return Allowed()


def _thread(machine: Machine, step: tree.Thread) -> Allowed:
    machine.state.owner[step.thread.name] = machine.process(step.actor)
    return Allowed()


def _leave(machine: Machine, step: tree.Leave) -> Allowed:
    machine.leave(machine.process(step.actor))
    return Allowed()


def _limit(_: Machine, __: tree.Limit) -> Allowed:
    # What a limit does is a matter of bytes, which the model does not count.
    return Allowed()


_HANDLERS: dict[type[tree.Step], Callable[[Machine, Any], Allowed]] = {
    tree.Load: Machine.access,
    tree.Store: Machine.access,
    tree.Add: Machine.access,
    tree.Call: lambda machine, step: calls.VERBS[step.verb](machine, step),
    tree.Limit: _limit,
    tree.Fork: _fork,
    tree.Thread: _thread,
    tree.Leave: _leave,
    tree.DeviceRead: devices.access,
    tree.DeviceWrite: devices.access,
    tree.Peek: devices.peek,
    tree.Migrate: devices.migrate,
    tree.Exclusive: devices.exclusive,
    tree.Snapshot: devices.snapshot,
    tree.Evict: devices.evict,
    tree.Turn: devices.turn,
    tree.Inject: devices.inject,
}
