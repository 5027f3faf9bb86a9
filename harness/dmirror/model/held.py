# SPDX-License-Identifier: GPL-2.0
"""Steps that are held on their way: what is there meanwhile, and what comes of them when they go on."""

from __future__ import annotations

from dataclasses import replace

from dmirror.model import devices, faults, held_faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.held_faults import End
from dmirror.model.machine import Machine
from dmirror.model.state import Entry, Page, Place, Pte, block_of
from dmirror.scenario import tree

# Verbs and advices that hold the lock of a page while they tell of it.
_LOCKS = ("swaps out", "splits", "collapses", "moves to node", "pageout", "collapse")
_UNMAPPED = ("after setup", "after copy", "after pages", "before finalize")


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
        case tree.Load() | tree.Store() | tree.Add():
            return held_faults.of_cpu(machine, step)
        case tree.DeviceRead() | tree.DeviceWrite() | tree.Exclusive() if step.held.point == "in invalidation":
            _perhaps_told(machine, step.held, step.device.process, step.pages)
            return held_faults.of_device(machine, step)
        case tree.Migrate() if step.held.point == "in invalidation":
            _perhaps_told(machine, step.held, step.device.process, step.pages)
        case tree.Call() if step.held.point == "in invalidation":
            _perhaps_told(machine, step.held, machine.process(step.actor), step.pages)
            if step.verb in _LOCKS or step.advice in _LOCKS:
                return _locked(machine, step)
        case tree.DeviceRead() | tree.DeviceWrite():
            _fault_only(machine, step)
        case tree.Exclusive() if step.held.point == "when exclusive":
            # It is held at the first page.
            first = tree.Pages(step.pages.region, step.pages.first, step.pages.first + 1)
            allowed = machine.do(tree.Exclusive(step.device, first))
            return _exclusive(machine, step, allowed)
    return lambda: machine.do(whole)


def _perhaps_told(machine: Machine, hold: tree.Hold, process: str, pages: tree.Pages) -> None:
    """Mirrors are told one after another: the others may have been, before the one that is held."""
    for device, mirror in machine.state.mirrors_of(process):
        for place in machine.places(pages) if (device, process) != _key(hold.by) else ():
            if place in mirror.entries:
                mirror.entries[place].maybe = True


def _key(device: tree.Device | None) -> tuple[str, str]:
    assert device is not None
    return device.name, device.process


def _locked(machine: Machine, step: tree.Call) -> End:
    """What moves pages has their locks when it tells of them."""
    ptes = machine.state.spaces[machine.process(step.actor)].ptes
    pages = [pte.page for place in machine.places(step.pages) if (pte := ptes.get(place)) and pte.page is not None]
    for page in pages:
        page.busy = None

    def end() -> Allowed:
        for page in pages:
            page.busy = False
        return machine.do(replace(step, held=None, block=()))

    return end


def _migration(machine: Machine, step: tree.Migrate, point: tree.Point) -> End:
    """migrate_vma_setup() and what follows it, in parts; of the pages that one such call is for."""
    key, every = (step.device.name, step.device.process), machine.places(step.pages)
    state = machine.state
    space, mirror = state.spaces[key[1]], faults.mirror_of(state, key)
    if every[0] not in space.vmas or space.vmas[every[0]].rights == "none":
        raise Refused("EINVAL")
    places = devices.at_once(space, every)
    faults.invalidate(state, key[1], places, key[0])
    holes, moving = _collected(machine, step, places)
    for place in [*holes, *(place for place, _, _ in moving)]:
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
                mirror.entries[place] = Entry(page, pte.write, maybe=pte.moving is None)

    def end() -> Allowed:
        fill()
        for place, pte, page in moving:
            moves = pte.moving
            for _, _, other in state.users(page):
                other.moving = False
            if space.ptes.get(place) is not pte:
                _went_for_others(machine, key, step, page)  # discarded here meanwhile
            elif step.to == "device" and moves is not False:
                faults.to_device(state, key, place, perhaps=moves is None)
            elif moves is not False:
                faults.to_system(state, page, key[1])
        rest = every[len(places) :]
        ended = machine.do(_part(step, rest)) if rest else Allowed()
        if step.to == "system":
            return Allowed(ended.failed, pages=None)
        if not ended.failed & {"", "ENOENT"}:
            return ended
        for place in places:
            there = space.ptes.get(place)
            if there is not None and there.page is not None and there.page.device == key[0]:
                had = mirror.entries.get(place)
                mirror.entries[place] = Entry(there.page, there.write, maybe=had is None)
        return devices.resident(machine, mirror, key, every)

    return end


def _collected(
    machine: Machine, step: tree.Migrate, places: list[Place]
) -> tuple[list[Place], list[tuple[Place, Pte, Page]]]:
    """Holes that are to be filled, and what is unmapped to be moved."""
    process, device = step.device.process, step.device.name
    space = machine.state.spaces[process]
    holes, moving = [], []
    for place in places:
        pte = space.ptes.get(place)
        if step.to == "device" and faults.may_migrate(machine.state, space, place):
            if pte is None or pte.page is None:
                holes.append(place)
                continue
        elif not (step.to == "system" and pte is not None and _may_come_back(pte, device)):
            continue
        assert pte is not None and pte.page is not None
        pte.moving = None if pte.page.busy is None or devices.left_out(machine, space, place) else True
        moving.append((place, pte, pte.page))
        _unmapped_elsewhere(machine, pte)
        faults.loosen_block(machine.state, process, place)
    return holes, moving


def _may_come_back(pte: Pte, device: str) -> bool:
    return pte.page is not None and device in pte.page.at and not pte.page.busy and not pte.moving


def _part(step: tree.Migrate, places: list[Place]) -> tree.Migrate:
    region, first = places[0]
    return replace(step, held=None, block=(), pages=tree.Pages(region, first, first + len(places)))


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
    space = machine.state.spaces[key[1]]
    # It has the lock of the page, if that is a huge one of all of it.
    locked = [pte.page for place in faults.block(space, places[0]) if (pte := space.ptes.get(place)) and pte.page]
    for page in locked:
        page.busy = None

    def end() -> Allowed:
        for page in locked:
            page.busy = False
        pte = machine.state.spaces[key[1]].ptes.get(places[0])
        if entry is not None and pte is not None and pte.exclusive == key:
            entries[places[0]] = entry
        if len(places) == 1:
            return allowed
        rest = tree.Pages(step.pages.region, step.pages.first + 1, step.pages.first + len(places))
        return replace(machine.do(tree.Exclusive(step.device, rest)), pages=None)

    return end


def _fault_only(machine: Machine, step: tree.DeviceRead | tree.DeviceWrite) -> None:
    """hmm_range_fault() has been there, and nothing is installed yet: from the first page that is missing to the end of
    a huge one."""
    key = (step.device.name, step.device.process)
    mirror, write = faults.mirror_of(machine.state, key), isinstance(step, tree.DeviceWrite)
    missing: Place | None = None
    for place in machine.places(step.pages):
        entry = mirror.entries.get(place)
        if missing is None and (entry is None or (write and entry.write is not True)):
            missing = place
        if missing is None:
            continue
        if block_of(place) != block_of(missing):
            return
        try:
            faults.walk_fault(machine.state, key, place, write=write)
        except Refused:
            return


def release(machine: Machine) -> None:
    """Whoever waits for a CPU fault that was held goes on, and so does that itself, in whatever order."""
    for space in machine.state.spaces.values():
        for pte in space.ptes.values():
            pte.moving = False
            if pte.page is not None:
                pte.page.busy = False
