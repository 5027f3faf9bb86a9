# SPDX-License-Identifier: GPL-2.0
"""Faults that are held on their way: of a page of a device that comes back, and of what they tell mirrors before.

The fault has a reference on the page from the beginning and its lock (6.12 and before: from setup on), of all of it
where it is huge. So nobody else moves it, and who faults on it waits. From setup on it is mapped nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dmirror.model import faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import COHERENT
from dmirror.model.machine import Machine
from dmirror.model.state import Page, Place
from dmirror.scenario import tree
from dmirror.scenario.record import Done

End = Callable[[], Allowed]
Access = tree.Load | tree.Store | tree.Add


def passed(machine: Machine, step: Access) -> int:
    """How many pages of an access are through before the one that is held."""
    assert step.held is not None and step.held.by is not None
    process = machine.process(step.actor)
    for number, place in enumerate(machine.places(step.pages)):
        pte = machine.state.spaces[process].ptes.get(place)
        if step.held.point == "in invalidation":
            if _tells(machine, process, place, write=not isinstance(step, tree.Load)):
                return number
        elif pte is not None and pte.page is not None and step.held.by.name in pte.page.at:
            return number
    return 0


def _tells(machine: Machine, process: str, place: Place, *, write: bool, but: str = "") -> bool:
    """Whether mirrors are told of something when a fault comes there; the walk of a device, `but`, leaves its own."""
    pte = machine.state.spaces[process].ptes.get(place)
    if pte is None:
        return False
    away = pte.page is not None and not pte.page.at <= {"ram", "swap", but, *COHERENT}
    return away or pte.exclusive is not None or (write and pte.write is not True)


def split(machine: Machine, step: Access, count: int) -> tuple[Access | None, Access]:
    """The first pages of an access, and the others; neither is held."""
    whole = replace(step, held=None, block=())
    if not count:
        return None, whole
    places = machine.places(step.pages)
    region, first = places[0]
    parts = [(first, first + count), (first + count, first + len(places))]
    one, other = (replace(whole, pages=tree.Pages(region, *part)) for part in parts)
    if isinstance(one, tree.Store) and isinstance(other, tree.Store):
        numbers = one.value.of(len(places))
        return replace(one, value=tree.Value(numbers[:count])), replace(other, value=tree.Value(numbers[count:]))
    return one, other


def rest(machine: Machine, step: Access, done: Done, count: int) -> tuple[Access, Done]:
    """An access, and what came of it, from the page on that was held."""
    outcome = done.outcome
    left = outcome._replace(values=outcome.values[count:], pages=max(outcome.pages - count, 0))
    return split(machine, step, count)[1], done._replace(outcome=left)


def of_cpu(machine: Machine, step: Access) -> End:
    """A CPU access whose fault is held."""
    assert step.held is not None and step.held.by is not None
    count = passed(machine, step)
    first, others = split(machine, step, count)
    before = machine.do(first) if first is not None else Allowed(values=(), pages=0)
    if "" not in before.failed:
        return lambda: before
    let_go = _hold(machine, machine.process(step.actor), machine.places(others.pages)[0], step.held)

    def end() -> Allowed:
        let_go()
        after = machine.do(others)
        values = (*(before.values or ()), *(after.values or ()))
        return replace(after, values=values, pages=None if after.pages is None else count + after.pages)

    return end


def of_device(machine: Machine, step: tree.DeviceRead | tree.DeviceWrite | tree.Exclusive) -> End:
    """A device's access that is held in what its fault tells, of the first page that has to be faulted."""
    assert step.held is not None
    process, write = step.device.process, not isinstance(step, tree.DeviceRead)
    faults.mirror_of(machine.state, (step.device.name, process))
    places = machine.places(step.pages)
    if not isinstance(step, tree.Exclusive):  # which tells of each page
        places = [place for place in places if _tells(machine, process, place, write=write, but=step.device.name)]
    let_go = _hold(machine, process, places[0], step.held) if places else None

    def end() -> Allowed:
        if let_go is not None:
            let_go()
        return machine.do(replace(step, held=None, block=()))

    return end


def _hold(machine: Machine, process: str, place: Place, hold: tree.Hold) -> Callable[[], None]:
    """What is so while the fault of a page that is on a device is held; what is returned ends it."""
    space = machine.state.spaces[process]
    pte = space.ptes.get(place)
    page = pte.page if pte is not None else None
    if page is None or page.at <= {"ram", "swap", *COHERENT}:
        return lambda: None
    assert hold.by is not None
    device = hold.by.name if hold.by.name in page.at else next(at for at in sorted(page.at) if at in tree.DEVICES)
    unmapped = hold.point not in ("at begin", "in invalidation")
    if hold.point == "in invalidation" and hold.by.process != process:
        unmapped = True  # who faults is told first, then whoever else has the page
    page.at = frozenset([device])
    held: list[Page] = []
    for other in faults.block(space, place) if machine.rules.huge_device_pages else [place]:
        beside = space.ptes.get(other)
        if beside is None or beside.page is None or device not in beside.page.at:
            continue
        held.append(beside.page)
        sure = other == place
        beside.page.busy = True if sure else None
        for of, there, one in machine.state.users(beside.page) if unmapped else ():
            one.moving = beside.page.busy
            faults.loosen(machine.state, of, [there])
            if sure and of != process:
                faults.invalidate(machine.state, of, [there])
        if unmapped:
            faults.loosen_kin(machine.state, beside.page)
    if unmapped:
        faults.invalidate(machine.state, process, [place], device)

    def let_go() -> None:
        for one in held:
            one.busy = False
            for _, _, entry in machine.state.users(one):
                entry.moving = False

    return let_go
