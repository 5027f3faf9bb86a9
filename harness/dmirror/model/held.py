# SPDX-License-Identifier: GPL-2.0
"""Steps that are held on their way: what is there meanwhile, and what comes of them when they go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dmirror.model import devices, faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.machine import Machine
from dmirror.model.state import Entry, Page, Place, Pte
from dmirror.scenario import tree

_UNMAPPED = ("after setup", "after copy", "after pages", "before finalize")

End = Callable[[], Allowed]


def begin(machine: Machine, step: tree.Step) -> End:
    """Carry a step out up to where it is held; what is returned carries it out to its end."""
    end = _begin(machine, step)

    def ended() -> Allowed:
        try:
            allowed = end()
        except (KeyError, Refused) as refused:
            allowed = Allowed(refused.names if isinstance(refused, Refused) else frozenset())
        device = getattr(step, "device", None)
        if isinstance(device, tree.Device) and device.process not in machine.state.spaces:
            # Its address space went while it was held: it may come to its end all the same.
            return Allowed(allowed.failed | _LATE)
        if any(isinstance(item, tree.Step) and item.waits for item in step.block):
            # Who waits goes on before it has counted what it did.
            late = frozenset(["ENOENT", "EFAULT", "EPERM"] if isinstance(device, tree.Device) else [])
            return Allowed(allowed.failed | late, None if late else allowed.values)
        return allowed

    return ended


_LATE = frozenset(["", "EFAULT", "EINVAL", "ESRCH", "ENOENT", "EINTR"])


def _begin(machine: Machine, step: tree.Step) -> End:
    assert step.held is not None
    whole = replace(step, held=None, block=())
    match step:
        case tree.Migrate() if step.held.point in _UNMAPPED:
            return _migration(machine, step, step.held.point)
        case tree.Load() | tree.Store() | tree.Add() if step.held.point in _UNMAPPED:
            return _cpu_fault(machine, step)
        case tree.DeviceRead() | tree.DeviceWrite():
            _fault_only(machine, step)
        case tree.Exclusive() if step.held.point == "when exclusive":
            # It is held at the first page.
            first = tree.Pages(step.pages.region, step.pages.first, step.pages.first + 1)
            allowed = machine.do(tree.Exclusive(step.device, first))
            return _exclusive(machine, step, allowed)
    return lambda: machine.do(whole)


def _migration(machine: Machine, step: tree.Migrate, point: tree.Point) -> End:
    """migrate_vma_setup() and what follows it, in parts."""
    key, places = (step.device.name, step.device.process), machine.places(step.pages)
    state = machine.state
    space, mirror = state.spaces[key[1]], faults.mirror_of(state, key)
    if any(place not in space.vmas or space.vmas[place].rights == "none" for place in places):
        raise Refused("EINVAL")
    faults.invalidate(state, key[1], places, key[0])
    holes: list[Place] = []
    moving: list[tuple[Place, Pte, Page]] = []
    for place in places:
        pte = space.ptes.get(place)
        if step.to == "device" and faults.may_migrate(state, space, place):
            if pte is None or pte.page is None:
                holes.append(place)
                _taken_away(machine, key, place, point)
                continue
        elif not (step.to == "system" and pte is not None and pte.page is not None and key[0] in pte.page.at):
            continue
        assert pte is not None and pte.page is not None
        pte.moving = True
        moving.append((place, pte, pte.page))
        _unmapped_elsewhere(machine, pte)
        _taken_away(machine, key, place, point)

    def fill() -> None:
        # Announced from the first hole on, before it is known whether they still are holes.
        faults.invalidate(state, key[1], places[places.index(holes[0]) :] if holes else [], key[0])
        for place in holes:
            pte = space.ptes.get(place)
            if place in space.vmas and (pte is None or pte.page is None):
                faults.to_device(state, key, place)

    if point in ("after pages", "before finalize"):
        fill()
        for place in holes if point == "after pages" else []:
            mirror.entries.pop(place, None)
        holes = []
        if point == "before finalize" and step.to == "device":
            for place, pte, page in moving:
                mirror.entries[place] = Entry(page, pte.write)

    def end() -> Allowed:
        fill()
        for place, pte, page in moving:
            for _, _, other in state.users(page):
                other.moving = False
            if space.ptes.get(place) is not pte:
                _went_for_others(machine, key, step, page)  # discarded here meanwhile
                continue
            if step.to == "device":
                faults.to_device(state, key, place)
            else:
                faults.to_system(state, page, key[1])
        if step.to == "device":
            for place in places:
                there = space.ptes.get(place)
                if there is not None and there.page is not None and there.page.device == key[0]:
                    had = mirror.entries.get(place)
                    mirror.entries[place] = Entry(there.page, there.write, maybe=had is None)
            return devices.resident(machine, mirror, key, places)
        return Allowed(pages=None)

    return end


def _taken_away(machine: Machine, key: tuple[str, str], place: Place, point: tree.Point) -> None:
    """The driver takes its own entries of the sources away, those of zero pages too, before it copies."""
    if point == "after setup":
        faults.loosen(machine.state, key[1], [place])
    else:
        machine.state.mirrors[key].entries.pop(place, None)


def _went_for_others(machine: Machine, key: tuple[str, str], step: tree.Migrate, page: Page) -> None:
    """Whoever else has the page has it where it went."""
    if not any(machine.state.users(page)):
        return
    if step.to == "system":
        faults.to_system(machine.state, page, key[1])
        return
    page.at = frozenset([key[0]])
    machine.state.mirrors[key].moved.setdefault(page)


def _unmapped_elsewhere(machine: Machine, pte: Pte) -> None:
    """Whoever else maps the page has no entry of it meanwhile, and his mirrors were told."""
    page = pte.page
    assert page is not None
    faults.loosen_kin(machine.state, page)
    for process, place, other in machine.state.users(page):
        if other is not pte:
            other.moving = True
            faults.invalidate(machine.state, process, [place])


def _exclusive(machine: Machine, step: tree.Exclusive, allowed: Allowed) -> End:
    """The first page is exclusive, and the driver has not noted it yet."""
    key = (step.device.name, step.device.process)
    places = machine.places(step.pages)
    entries = machine.state.mirrors[key].entries
    entry = entries.pop(places[0], None)

    def end() -> Allowed:
        pte = machine.state.spaces[key[1]].ptes.get(places[0])
        if entry is not None and pte is not None and pte.exclusive == key:
            entries[places[0]] = entry
        if len(places) == 1:
            return allowed
        rest = tree.Pages(step.pages.region, step.pages.first + 1, step.pages.first + len(places))
        return replace(machine.do(tree.Exclusive(step.device, rest)), pages=None)

    return end


def _cpu_fault(machine: Machine, step: tree.Load | tree.Store | tree.Add) -> End:
    process = machine.process(step.actor)
    space = machine.state.spaces[process]
    for place in machine.places(step.pages):
        pte = space.ptes.get(place)
        if pte is not None and pte.page is not None and pte.page.device:
            pte.moving = True
            _unmapped_elsewhere(machine, pte)
            faults.invalidate(machine.state, process, [place], pte.page.device)
            faults.loosen(machine.state, process, [place])
            break  # it is held at the first one

    def end() -> Allowed:
        release(machine)
        return machine.do(replace(step, held=None, block=()))

    return end


def release(machine: Machine) -> None:
    """Whoever waits for a CPU fault that was held goes on, and so does that itself, in whatever order."""
    for space in machine.state.spaces.values():
        for pte in space.ptes.values():
            pte.moving = False


def _fault_only(machine: Machine, step: tree.DeviceRead | tree.DeviceWrite) -> None:
    """hmm_range_fault() has been there, and nothing is installed yet."""
    key = (step.device.name, step.device.process)
    mirror, write = faults.mirror_of(machine.state, key), isinstance(step, tree.DeviceWrite)
    missing = False
    for place in machine.places(step.pages):
        entry = mirror.entries.get(place)
        missing |= entry is None or (write and entry.write is not True)
        if not missing:
            continue
        try:
            faults.walk_fault(machine.state, key, place, write=write)
        except Refused:
            return
