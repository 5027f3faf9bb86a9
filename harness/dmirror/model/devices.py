# SPDX-License-Identifier: GPL-2.0
"""What a device does: the driver's calls (docs/driver.md)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING

from dmirror.model import faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.state import HUGE, RAM, ZERO, Entry, Mirror, Numbers, Page, Place, Space, Vma, block_of
from dmirror.scenario import tree

if TYPE_CHECKING:
    from dmirror.model.machine import Machine


def snapshot(machine: Machine, step: tree.Snapshot) -> Allowed:
    """SNAPSHOT; what it says is compared anyway."""
    machine.mirror(step.device)
    return Allowed(pages=len(machine.places(step.pages)))


def inject(machine: Machine, step: tree.Inject) -> Allowed:
    """INJECT of one failure."""
    machine.mirror(step.device).failing[step.what] = step.nth
    return Allowed()


def migrate(machine: Machine, step: tree.Migrate) -> Allowed:
    """MIGRATE_TO_DEV and MIGRATE_TO_SYS."""
    return _to_device(machine, step) if step.to == "device" else _to_system(machine, step)


def access(machine: Machine, step: tree.DeviceRead | tree.DeviceWrite) -> Allowed:
    key = (step.device.name, step.device.process)
    mirror, places = faults.mirror_of(machine.state, key), machine.places(step.pages)
    write = isinstance(step, tree.DeviceWrite)
    wanted = step.value.of(len(places)) if isinstance(step, tree.DeviceWrite) else (0,) * len(places)
    values: list[Numbers] = []
    ends: frozenset[str] = frozenset([""])
    for number, place in enumerate(places):
        entry = mirror.entries.get(place)
        if entry is None or entry.maybe or (write and (entry.exclusive or entry.write is not True)):
            ends = _fault_to_the_end(machine, key, places[number:], write=write)
        entry = mirror.entries.get(place)
        if entry is None:
            break
        if isinstance(step, tree.DeviceWrite):
            if entry.page is None or entry.exclusive or entry.write is not True:
                break
            entry.page.values = frozenset([wanted[number]])
        values.append(entry.page.values if entry.page is not None else ZERO)
    done = len(values)
    return Allowed(
        frozenset([""]) if done == len(places) else ends,
        tuple(values) if isinstance(step, tree.DeviceRead) and done == len(places) else None,
        done,
    )


def _fault_to_the_end(machine: Machine, key: tuple[str, str], places: list[Place], *, write: bool) -> frozenset[str]:
    """A device fault goes to the end of the call, up to the first page that cannot be had."""
    space = machine.state.spaces[key[1]]
    further: bool | None = False
    for number, place in enumerate(places):
        if number:
            further = _goes_on(space, places[number - 1], place, further)
        if further is None:
            _perhaps_back(machine, key, place)
        try:
            try:
                faulted = faults.device_fault(machine.state, key, place, write=write, further=bool(further))
            except faults.Injected:
                if len(places) == 1:
                    raise
                # It tries page by page then, and the failure has been.
                faulted = faults.device_fault(machine.state, key, place, write=write, further=bool(further))
        except faults.Injected:
            return frozenset(["EFAULT"])
        except Refused as refused:
            if "EPERM" in refused.names and not further and _own(space, key, place):
                walk_past(machine, key, places[number:])
            return refused.names
        further = faulted or further
    return frozenset([""])


def walk_past(machine: Machine, key: tuple[str, str], places: Sequence[Place]) -> None:
    """A walk goes past read-only pages of its own device, and faults what follows; none of that is installed."""
    space = machine.state.spaces[key[1]]
    further: bool | None = False
    for number, place in enumerate(places):
        if number:
            further = _goes_on(space, places[number - 1], place, further)
        if further is not True and _own(space, key, place):
            if further is None:
                _perhaps_back(machine, key, place)
            continue
        try:
            further = faults.walk_fault(machine.state, key, place, write=True, further=bool(further)) or further
        except Refused:
            return


def _goes_on(space: Space, before: Place, place: Place, further: bool | None) -> bool | None:
    """What `further` is at the next place, None: perhaps. One walk goes to the end of a page table, or of a mapping."""
    if further is False or _table(space, before) != _table(space, place):
        return False
    one, other = space.vmas.get(before), space.vmas.get(place)
    if one is not None and other is not None and _way(one, before) != _way(other, place):
        return None if one.bare or other.bare else False
    return None if place in space.cuts else further


def _table(space: Space, place: Place) -> object:
    """What one walk of a page table goes over: at most a huge page of one mapping."""
    vma = space.vmas.get(place)
    if vma is None:
        return None
    file = (id(vma.file), vma.index - place[1]) if vma.file else None
    return (place[0], place[1] // HUGE, vma.rights, file, vma.locked, vma.fork)


def _way(vma: Vma, place: Place) -> object:
    """From where to where it was moved with its pages."""
    return (vma.origin[0], vma.origin[1] - place[1]) if vma.origin else None


def _own(space: Space, key: tuple[str, str], place: Place) -> bool:
    pte = space.ptes.get(place)
    return pte is not None and pte.page is not None and pte.page.device == key[0]


def _perhaps_back(machine: Machine, key: tuple[str, str], place: Place) -> None:
    """A page of its own, if it is one, comes back if the walk is still the one that has faulted."""
    pte = machine.state.spaces[key[1]].ptes.get(place)
    if pte is not None and pte.page is not None and pte.page.device == key[0] not in faults.COHERENT:
        faults.loosen_kin(machine.state, pte.page)
        pte.page.at |= RAM


def peek(machine: Machine, step: tree.Peek) -> Allowed:
    mirror, places = machine.state.mirrors.get((step.device.name, step.device.process)), machine.places(step.pages)
    if mirror is None:
        raise Refused("EBADF")
    values, unsure = [], False
    for place in places:
        entry = mirror.entries.get(place)
        if entry is None:
            return Allowed(frozenset(["ENOENT"]))
        unsure |= entry.maybe
        values.append(entry.page.values if entry.page is not None else ZERO)
    return Allowed(frozenset(["", "ENOENT"] if unsure else [""]), tuple(values), len(values))


def _to_device(machine: Machine, step: tree.Migrate) -> Allowed:
    key, places = (step.device.name, step.device.process), machine.places(step.pages)
    mirror, space = faults.mirror_of(machine.state, key), machine.state.spaces[step.device.process]
    for number, place in enumerate(places):
        vma = space.vmas.get(place)
        if vma is None or vma.rights == "none" or vma.hugetlb:
            _migrate(machine, key, places[:number])
            resident(machine, mirror, key, places)
            raise Refused("EINVAL")
    _migrate(machine, key, places)
    return resident(machine, mirror, key, places)


def _migrate(machine: Machine, key: tuple[str, str], places: list[Place]) -> None:
    device, process = key
    space, mirror = machine.state.spaces[process], machine.state.mirrors[key]
    faults.invalidate(machine.state, process, places, device)
    for place in places:
        if not faults.may_migrate(machine.state, space, place):
            _put_back(machine, process, place)
            continue
        failed = mirror.failing and (mirror.fails("device allocation") or mirror.fails("copy"))
        if failed and not space.vmas[place].huge:
            _put_back(machine, process, place)
            continue
        # A huge page that fails becomes small ones, of which that one fails or not.
        perhaps = bool(machine.state.racing or failed or left_out(machine, space, place))
        faults.to_device(machine.state, key, place, perhaps=perhaps)


def left_out(machine: Machine, space: Space, place: Place) -> bool:
    """Whether it may be left out: before 6.19 a page of a huge one that is mapped as a small one is
    (migrate_vma_collect_pmd())."""
    return space.vmas[place].huge and not machine.rules.huge_device_pages and place in space.ptes


def at_once(space: Space, places: list[Place]) -> list[Place]:
    """Those of the first migrate_vma_setup(), as far as is known: at most a huge page, of one mapping."""
    first = _table(space, places[0])
    return list(takewhile(lambda place: _table(space, place) == first, places))


def _put_back(machine: Machine, process: str, place: Place) -> None:
    """A page that stays may have been unmapped on the way, wherever it is mapped (migrate_vma_unmap())."""
    pte = machine.state.spaces[process].ptes.get(place)
    if pte is not None and pte.page is not None and pte.page.at == RAM and pte.exclusive is None:
        faults.loosen_kin(machine.state, pte.page)


def resident(machine: Machine, mirror: Mirror, key: tuple[str, str], places: list[Place]) -> Allowed:
    """How many from the beginning on are on the device; entries of those that had none are made."""
    space, done, mapped = machine.state.spaces[key[1]], 0, False
    unsure = False
    for place in places:
        pte, entry = space.ptes.get(place), mirror.entries.get(place)
        if not mapped and (entry is None or entry.page is None or key[0] not in entry.page.at):
            # From the first one without an entry on, whatever is not there.
            mapped = True
            _map_resident(machine, key, places[done:])
        if pte is None or pte.page is None or pte.moving or key[0] not in pte.page.at:
            break
        unsure |= len(pte.page.at) > 1 or pte.moving is None
        done += 1
    if done == len(places):
        return Allowed(frozenset(["", "ENOENT"] if unsure else [""]), None, None if unsure else done)
    return Allowed(frozenset(["ENOENT"]), None, None if unsure else done)


def _map_resident(machine: Machine, key: tuple[str, str], places: list[Place]) -> None:
    """Entries of what is on the device; of what may be there, those that may be."""
    space, mirror = machine.state.spaces[key[1]], machine.state.mirrors[key]
    for place in places:
        pte = space.ptes.get(place)
        if pte is None or pte.page is None or pte.moving or key[0] not in pte.page.at:
            continue
        if space.vmas[place].rights != "none":
            unsure = len(pte.page.at) > 1 or pte.moving is None
            mirror.entries[place] = Entry(pte.page, pte.write, maybe=unsure)


def map_late(machine: Machine, step: tree.Migrate) -> None:
    """The last of a migration to a device: it maps what is there, whatever it was told since the pages moved."""
    key = (step.device.name, step.device.process)
    if key in machine.state.mirrors and step.device.process in machine.state.spaces:
        _map_resident(machine, key, machine.places(step.pages))


def _to_system(machine: Machine, step: tree.Migrate) -> Allowed:
    device, process = step.device.name, step.device.process
    key, places = (device, process), machine.places(step.pages)
    mirror, space = faults.mirror_of(machine.state, key), machine.state.spaces[process]
    for number, place in enumerate(places):
        vma = space.vmas.get(place)
        if vma is None or vma.rights == "none" or vma.hugetlb:
            _bring_back(machine, key, places[:number])
            raise Refused("EINVAL")
    if mirror.failing.get("system allocation") or mirror.failing.get("copy"):
        # Tried once more, so whether it fails in the end depends on how many.
        mirror.failing.clear()
    moved = _bring_back(machine, key, places)
    return Allowed(pages=None if machine.state.racing or any(space.vmas[p].huge for p in places) else moved)


def _bring_back(machine: Machine, key: tuple[str, str], places: list[Place]) -> int:
    device, process = key
    space, moved = machine.state.spaces[process], 0
    faults.invalidate(machine.state, process, places, device)
    for place in places:
        pte = space.ptes.get(place)
        if pte is not None and pte.page is not None and device in pte.page.at and not pte.moving:
            if pte.page.busy:
                # Perhaps it is unmapped on the way, and put back: it is locked, or has a reference too many.
                faults.loosen_kin(machine.state, pte.page)
                continue
            perhaps = pte.page.busy is None or pte.moving is None
            if len(pte.page.at) > 1 or machine.state.racing or perhaps:
                pte.page.at |= RAM
                faults.loosen_kin(machine.state, pte.page)
            else:
                faults.to_system(machine.state, pte.page, process)
            moved += 1
    return moved


def exclusive(machine: Machine, step: tree.Exclusive) -> Allowed:
    key, places = (step.device.name, step.device.process), machine.places(step.pages)
    mirror, process = faults.mirror_of(machine.state, key), step.device.process
    space, within = machine.state.spaces[process], set(places)
    done = 0
    for place in places:
        vma = space.vmas.get(place)
        if vma is None or vma.rights != "read-write":
            return Allowed(frozenset(["EFAULT", "EINVAL", "EPERM", "EBUSY"]), None, done)
        if vma.hugetlb or (vma.file is not None and not vma.private):
            # It is faulted before anybody sees that it is no anonymous page.
            for there in [place] if machine.rules.exclusive_by_page else places[done:]:
                with suppress(Refused):
                    faults.fault(machine.state, process, there, write=True)
            return Allowed(frozenset(["EFAULT", "EINVAL", "EOPNOTSUPP", "EBUSY"]), None, done)
        pte = faults.fault(machine.state, process, place, write=True)
        faults.invalidate(machine.state, process, [place], key[0])
        for of, there, other in machine.state.users(pte.page) if pte.page is not None else []:
            assert (of, there, other) == (process, place, pte), "a page that may be written is nobody else's"
        for name, other_mirror in machine.state.mirrors_of(process):
            if name == key[0]:
                other_mirror.entries.pop(place, None)
        pte.exclusive = key
        mirror.entries[place] = Entry(pte.page, False, exclusive=True)
        if vma.huge and (done == 0 or block_of(place) != block_of(places[done - 1])):
            faults.loosen(machine.state, process, [p for p in faults.block(space, place) if p not in within])
        done += 1
    huge = any(space.vmas[place].huge for place in places)
    names = frozenset(["", "EBUSY"]) if (huge and not machine.rules.exclusive_by_page) else frozenset([""])
    return Allowed(names, None, done)


def evict(machine: Machine, step: tree.Evict) -> Allowed:
    """What somebody who is held has stays, and is waited for in vain."""
    machine.mirror(step.device)
    stay = [_home(machine, page) for page in machine.state.pages() if step.device.name in page.at]
    if True in stay:
        return Allowed(frozenset(["EBUSY"]))
    return Allowed(frozenset(["", "EBUSY"] if None in stay else [""]))


def _home(machine: Machine, page: Page) -> bool | None:
    """A page of a device comes back by migrate_device_range(): announced by the walk of its mappings only. Whether it
    stays, None: perhaps."""
    state = machine.state
    users = state.users(page)
    stays = page.busy
    for _, _, pte in users:
        if stays is not True and pte.moving is not False:
            stays = pte.moving
    if stays is not False or state.moves or len(users) < len(state.spaces) * len(page.places):
        faults.loosen_kin(state, page)
    if stays:
        return True
    for process, place, _ in users:
        if stays is None:
            faults.loosen_block(state, process, place)
        else:
            faults.invalidate(state, process, [place])
    if stays is None:
        page.at |= RAM
        return None
    faults.in_memory(state, page)
    return False


def turn(machine: Machine, step: tree.Turn) -> Allowed:
    key = (step.device.name, step.device.process)
    if step.how == "opens":
        if step.device.process not in machine.state.spaces:
            raise Refused("EBADF", "EINVAL")
        machine.state.open(key)
        return Allowed()
    mirror = machine.state.close(key)
    if mirror is None:
        raise Refused("EBADF")
    there = machine.state.pages()
    for page in [page for page in mirror.moved if page in there]:
        _home(machine, page)
    return Allowed()
