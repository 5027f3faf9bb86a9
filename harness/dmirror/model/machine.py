# SPDX-License-Identifier: GPL-2.0
"""Carries out a scenario's steps on the state of the model: what each may end with, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dmirror.model import faults
from dmirror.model.faults import Refused
from dmirror.model.rules import Rules
from dmirror.model.state import RAM, ZERO, Entry, File, Mirror, Numbers, Page, Place, Pte, Space, State, Vma
from dmirror.scenario import tree

HUGE = faults.HUGE
_ANY = frozenset(["EAGAIN", "EBUSY", "EFAULT", "EINVAL", "ENOMEM", "ENOENT"])

# Advice that changes nothing that can be seen here.
_QUIET = (
    "normal",
    "random",
    "sequential",
    "willneed",
    "mergeable",
    "unmergeable",
    "hugepage",
    "nohugepage",
    "dontdump",
)
_QUIET += ("dodump", "cold")


@dataclass(frozen=True)
class Allowed:
    """How a step may end: `failed` the errnos and signals, "" for none; `values` what each page may read as.

    `pages` None: any number. `page`: number in the span of the page whose access raises the signal.
    """

    failed: frozenset[str] = frozenset([""])
    values: tuple[Numbers, ...] | None = None
    pages: int | None = None

    def __str__(self) -> str:
        names = " or ".join(sorted(name or "success" for name in self.failed))
        if self.values is None:
            return names
        return f"{names}, {' '.join('|'.join(map(hex, sorted(numbers))) for numbers in self.values)}"


class Machine:
    """The model of one scenario on one kernel. `state` is what is there now."""

    def __init__(self, scenario: tree.Scenario, rules: Rules) -> None:
        self.scenario = scenario
        self.rules = rules
        self.state = State()
        self.regions = {region.name: region for region in scenario.regions}
        self._begin()

    def twin(self) -> Machine:
        """Another one in the same state, that goes its own way."""
        other = Machine.__new__(Machine)
        other.scenario, other.rules, other.regions = self.scenario, self.rules, self.regions
        other.state = self.state.copy()
        return other

    # The beginning

    def pages_of(self, name: str) -> int:
        region = self.regions[name]
        return region.count * (HUGE if region.huge else 1)

    def places(self, pages: tree.Pages) -> list[Place]:
        stop = self.pages_of(pages.region) if pages.stop is None else pages.stop
        return [(pages.region, number) for number in range(pages.first, stop)]

    def _begin(self) -> None:
        self.state.spaces[tree.MAIN] = Space()
        self.state.owner[tree.MAIN] = tree.MAIN
        for region in self.scenario.regions:
            self._map(tree.MAIN, self.places(tree.Pages(region.name)), region, "read-write")
            self._fill(region)
        for device, process in tree.mirrors(self.scenario):
            if process == tree.MAIN:
                self.state.mirrors[(device, process)] = Mirror()
        for child in dict.fromkeys(region.shared_with for region in self.scenario.regions if region.shared_with):
            self._fork(tree.MAIN, child)

    def _fill(self, region: tree.Region) -> None:
        places = self.places(tree.Pages(region.name))
        if region.written is not None:
            for place, number in zip(places, region.written.of(len(places)), strict=True):
                faults.fault(self.state, tree.MAIN, place, write=True)
                self._store(tree.MAIN, place, frozenset([number]))
        elif region.read:
            for place in places:
                faults.fault(self.state, tree.MAIN, place, write=False)
        if region.rights != "read-write":
            self._protect(tree.MAIN, places, region.rights)

    def _map(self, process: str, places: list[Place], region: tree.Region, rights: str) -> None:
        file = File() if region.kind in ("shared", "memfd", "private file") else None
        private = region.kind not in ("shared", "memfd")
        huge = region.huge and region.kind == "anonymous"
        for place in places:
            self.state.spaces[process].vmas[place] = Vma(
                rights, private, file, huge or region.kind == "hugetlb", region.kind == "hugetlb"
            )

    # Steps

    def do(self, step: tree.Step) -> Allowed:
        """Carry it out from beginning to end."""
        try:
            return self._do(step)
        except Refused as refused:
            return Allowed(refused.names)

    def _do(self, step: tree.Step) -> Allowed:
        match step:
            case tree.Load() | tree.Store() | tree.Add():
                return self._access(step)
            case tree.Call():
                return _CALLS[step.verb](self, step)
            case tree.DeviceRead() | tree.DeviceWrite():
                return self._device_access(step)
            case tree.Peek():
                return self._peek(step)
            case tree.Migrate(to="device"):
                return self._to_device(step)
            case tree.Migrate():
                return self._to_system(step)
            case tree.Exclusive():
                return self._exclusive(step)
            case tree.Snapshot():
                self._mirror(step.device)
                return Allowed(pages=len(self.places(step.pages)))
            case tree.Evict():
                return self._evict(step)
            case tree.Turn():
                return self._turn(step)
            case tree.Inject():
                mirror = self._mirror(step.device)
                mirror.failing[step.what] = step.nth
            case tree.Fork():
                self._fork(self.process(step.actor), step.child.name)
            case tree.Thread():
                self.state.owner[step.thread.name] = self.process(step.actor)
            case tree.Leave():
                self._leave(self.process(step.actor))
        return Allowed()

    def process(self, actor: tree.Actor) -> str:
        """The process of a process or a thread."""
        return self.state.owner[actor.name]

    def _mirror(self, device: tree.Device) -> Mirror:
        return faults.mirror_of(self.state, (device.name, device.process))

    def _store(self, process: str, place: Place, numbers: Numbers) -> None:
        page = self.state.spaces[process].ptes[place].page
        assert page is not None
        page.values = numbers

    # The CPU's accesses

    def _access(self, step: tree.Load | tree.Store | tree.Add) -> Allowed:
        process, places = self.process(step.actor), self.places(step.pages)
        values: list[Numbers] = []
        wanted = step.value.of(len(places)) if isinstance(step, tree.Store) else (0,) * len(places)
        for place, number in zip(places, wanted, strict=True):
            try:
                pte = faults.fault(self.state, process, place, write=not isinstance(step, tree.Load))
            except Refused as refused:
                return Allowed(refused.names, tuple(values), len(values))
            before = pte.page.values if pte.page is not None else ZERO
            if isinstance(step, tree.Store):
                self._store(process, place, frozenset([number]))
                before = frozenset([number])
            elif isinstance(step, tree.Add):
                self._store(process, place, frozenset((old + step.amount) % (1 << 64) for old in before))
            values.append(before)
        return Allowed(values=tuple(values), pages=len(values))

    # What a process does to its memory

    def _mapped(self, process: str, places: list[Place], name: str = "ENOMEM") -> None:
        if any(place not in self.state.spaces[process].vmas for place in places):
            raise Refused(name)

    def _unmap(self, step: tree.Call) -> Allowed:
        self._drop(self.process(step.actor), self.places(step.pages), unmap=True)
        return Allowed()

    def _drop(self, process: str, places: list[Place], *, unmap: bool = False) -> None:
        """What was there is not there any more (zap_page_range())."""
        space = self.state.spaces[process]
        faults.invalidate(self.state, process, [place for place in places if place in space.vmas])
        for place in places:
            space.ptes.pop(place, None)
            if unmap:
                space.vmas.pop(place, None)

    def _remap(self, step: tree.Call) -> Allowed:
        process, places = self.process(step.actor), self.places(step.pages)
        if any(place in self.state.spaces[process].vmas for place in places):
            raise Refused("EEXIST")
        region = self.regions[step.pages.region]
        self._map(process, places, region, region.rights)
        return Allowed()

    def _call_protect(self, step: tree.Call) -> Allowed:
        assert step.rights is not None
        process, places = self.process(step.actor), self.places(step.pages)
        space = self.state.spaces[process]
        for number, place in enumerate(places):  # as far as there are mappings
            if place not in space.vmas:
                self._protect(process, places[:number], step.rights)
                raise Refused("ENOMEM")
        self._protect(process, places, step.rights)
        return Allowed()

    def _protect(self, process: str, places: list[Place], rights: str) -> None:
        space = self.state.spaces[process]
        changed = [place for place in places if space.vmas[place].rights != rights]
        # Announced only where there are page tables; what has no entry loses none.
        faults.invalidate(self.state, process, changed)
        for place in changed:
            vma, pte = space.vmas[place], space.ptes.get(place)
            vma.rights = rights
            if pte is not None:
                pte.write = None if rights == "read-write" and pte.page is not None else False

    def _move(self, step: tree.Call) -> Allowed:
        assert step.to is not None
        process, old, new = self.process(step.actor), self.places(step.pages), self.places(step.to)
        space = self.state.spaces[process]
        self._mapped(process, old, "EFAULT")
        if len({(space.vmas[place].rights, id(space.vmas[place].file)) for place in old}) > 1:
            # Several mappings are moved since 6.17 only.
            raise Refused("EFAULT", "EINVAL", "")
        self._drop(process, new, unmap=True)
        faults.invalidate(self.state, process, old)
        moved = [(space.vmas.pop(place), space.ptes.pop(place, None)) for place in old]
        for place, (vma, pte) in zip(new, moved, strict=True):
            space.vmas[place] = vma
            if pte is not None:
                space.ptes[place] = pte
        return Allowed()

    def _advise(self, step: tree.Call) -> Allowed:
        process, places = self.process(step.actor), self.places(step.pages)
        space = self.state.spaces[process]
        self._mapped(process, places)
        match step.advice:
            case "dontneed" | "free" | "remove" | "pageout" | "cold":
                if step.advice != "remove" and any(space.vmas[place].locked for place in places):
                    raise Refused("EINVAL")
                return self._discard(process, places, step.advice)
            case "populate_read" | "populate_write":
                return self._populate(process, places, write=step.advice == "populate_write")
            case "dontfork" | "dofork" | "wipeonfork" | "keeponfork":
                what = {"dontfork": "leave", "wipeonfork": "wipe"}.get(step.advice, "copy")
                if step.advice == "wipeonfork" and any(space.vmas[place].file for place in places):
                    raise Refused("EINVAL")
                for place in places:
                    space.vmas[place].fork = what
            case "collapse":
                return self._collapse(step)
            case _ if step.advice in _QUIET:
                pass
        return Allowed(frozenset(["", "EINVAL"] if step.advice in _QUIET else [""]))

    def _discard(self, process: str, places: list[Place], advice: str) -> Allowed:
        space = self.state.spaces[process]
        if advice == "dontneed":
            self._drop(process, places)
        elif advice == "free":
            if any(space.vmas[place].file for place in places):
                raise Refused("EINVAL")
            faults.invalidate(self.state, process, places)
        elif advice == "remove":
            if any(space.vmas[place].private for place in places):
                raise Refused("EINVAL", "EACCES")
            for place in places:
                self._punch(space.vmas[place].file, place)
        else:
            for place in places:
                self._age(process, place)
        return Allowed()

    def _punch(self, file: File | None, place: Place) -> None:
        """A page of a file is gone, for everybody who maps it."""
        page = file.pages.pop(place[1], None) if file else None
        if page is not None:
            for process, there, _ in list(self.state.users(page)):
                faults.invalidate(self.state, process, [there])
                del self.state.spaces[process].ptes[there]

    def _age(self, process: str, place: Place) -> None:
        """MADV_PAGEOUT: to swap where there is some, and it is nobody else's."""
        pte = self.state.spaces[process].ptes.get(place)
        if pte is not None and pte.page is not None and pte.page.at == RAM and pte.exclusive is None:
            if not pte.page.file:
                pte.page.at = frozenset(["ram", "swap"])
            else:
                pte.maybe = True
            faults.loosen(self.state, process, [place])

    def _swap_out(self, step: tree.Call) -> Allowed:
        process = self.process(step.actor)
        for place in self.places(step.pages):
            pte = self.state.spaces[process].ptes.get(place)
            if pte is not None and pte.page is not None:
                if not pte.page.file:
                    pte.page.at = frozenset(["swap"])
                faults.invalidate(self.state, process, [place])
        return Allowed()

    def _populate(self, process: str, places: list[Place], *, write: bool) -> Allowed:
        for place in places:
            try:
                faults.fault(self.state, process, place, write=write)
            except Refused:
                raise Refused("EINVAL", "EFAULT", "ENOMEM") from None
        return Allowed()

    def _collapse(self, step: tree.Call) -> Allowed:
        process = self.process(step.actor)
        self._mapped(process, self.places(step.pages))
        for place in self.places(step.pages):
            pte = self.state.spaces[process].ptes.get(place)
            if pte is not None:
                faults.loosen(self.state, process, [place])
                if pte.page is not None and pte.page.device:
                    pte.page.at |= RAM
                if pte.page is not None:
                    pte.write = None if self.state.spaces[process].vmas[place].rights == "read-write" else pte.write
        return Allowed(_ANY | {""})

    def _lock(self, step: tree.Call) -> Allowed:
        process, places = self.process(step.actor), self.places(step.pages)
        space = self.state.spaces[process]
        self._mapped(process, places)
        for place in places:
            space.vmas[place].locked = True
        for place in places:
            vma = space.vmas[place]
            try:
                faults.fault(self.state, process, place, write=vma.rights == "read-write" and vma.private)
            except Refused:
                raise Refused("ENOMEM") from None
        return Allowed()

    def _unlock(self, step: tree.Call) -> Allowed:
        process, places = self.process(step.actor), self.places(step.pages)
        self._mapped(process, places)
        for place in places:
            self.state.spaces[process].vmas[place].locked = False
        return Allowed()

    def _pin(self, step: tree.Call) -> Allowed:
        process = self.process(step.actor)
        space = self.state.spaces[process]
        for place in self.places(step.pages):
            try:
                pte = faults.fault(self.state, process, place, write=False)
            except Refused:
                raise Refused("EFAULT") from None
            if pte.page is not None:
                pte.page.pins += 1
            space.pins.setdefault(place, []).append(pte.page)
        return Allowed()

    def _unpin(self, step: tree.Call) -> Allowed:
        space = self.state.spaces[self.process(step.actor)]
        for place in self.places(step.pages):
            for page in space.pins.pop(place, []):
                if page is not None:
                    page.pins -= 1
        return Allowed()

    def _split(self, step: tree.Call) -> Allowed:
        process = self.process(step.actor)
        faults.loosen(self.state, process, self.places(step.pages))
        return Allowed(_ANY | {""})

    def _to_node(self, step: tree.Call) -> Allowed:
        process, space = self.process(step.actor), self.state.spaces[self.process(step.actor)]
        for place in self.places(step.pages):
            pte = space.ptes.get(place)
            if pte is not None and pte.page is not None and pte.page.at == RAM:
                faults.loosen(self.state, process, [place])
        return Allowed(_ANY | {""})

    # Processes

    def _fork(self, parent: str, child: str) -> None:
        state = self.state
        space = state.spaces[parent]
        twin = state.spaces[child] = Space()
        state.owner[child] = child
        for place, vma in space.vmas.items():
            if vma.fork == "leave":
                continue
            twin.vmas[place] = replace(vma, locked=False)
            if vma.fork == "wipe":
                twin.vmas[place].anon = False
                continue
            pte = space.ptes.get(place)
            if pte is not None and vma.anon is not False:
                self._copy_entry(parent, place, pte, twin, vma)
            if vma.anon is not False and vma.private:
                # Announced per mapping, whatever is in it.
                (faults.loosen if vma.anon is None else faults.invalidate)(state, parent, [place])
        for device in tree.opened_at_fork(self.scenario, child):
            state.mirrors[(device, child)] = Mirror()

    def _copy_entry(self, parent: str, place: Place, pte: Pte, twin: Space, vma: Vma) -> None:
        if pte.exclusive is not None:
            faults.revoke(self.state, parent, place, pte)
        page = pte.page
        if page is not None and not page.file and page.pins:
            # A pinned page may be copied for the child at once (copy_present_page()), or be shared.
            twin.ptes[place] = Pte(page, False)
            pte.write = False
            return
        maybe = pte.maybe or page is None or page.file
        if page is not None and not page.file:
            pte.write = False
        twin.ptes[place] = Pte(page, pte.write if page is not None and page.file else False, maybe=maybe)

    def _leave(self, process: str) -> None:
        state = self.state
        for key, mirror in state.mirrors.items():
            if key[1] == process:
                mirror.alive = False
                mirror.entries.clear()
        space = state.spaces.pop(process)
        for pinned in space.pins.values():
            for page in pinned:
                if page is not None:
                    page.pins -= 1
        for name in [name for name, of in state.owner.items() if of == process]:
            del state.owner[name]

    # Devices

    def _device_access(self, step: tree.DeviceRead | tree.DeviceWrite) -> Allowed:
        key = (step.device.name, step.device.process)
        mirror, places = faults.mirror_of(self.state, key), self.places(step.pages)
        write = isinstance(step, tree.DeviceWrite)
        wanted = step.value.of(len(places)) if isinstance(step, tree.DeviceWrite) else (0,) * len(places)
        values: list[Numbers] = []
        ends: frozenset[str] = frozenset([""])
        for number, place in enumerate(places):
            entry = mirror.entries.get(place)
            if entry is None or entry.maybe or (write and (entry.exclusive or entry.write is not True)):
                ends = self._fault_to_the_end(key, places[number:], write=write)
            entry = mirror.entries.get(place)
            if entry is None:
                break
            if isinstance(step, tree.DeviceWrite):
                assert entry.page is not None
                entry.page.values = frozenset([wanted[number]])
            values.append(entry.page.values if entry.page is not None else ZERO)
        done = len(values)
        return Allowed(
            frozenset([""]) if done == len(places) else ends,
            tuple(values) if isinstance(step, tree.DeviceRead) and done == len(places) else None,
            done,
        )

    def _fault_to_the_end(self, key: tuple[str, str], places: list[Place], *, write: bool) -> frozenset[str]:
        """A device fault goes to the end of the call, up to the first page that cannot be had."""
        for place in places:
            try:
                faults.device_fault(self.state, key, place, write=write)
            except Refused as refused:
                self.state.mirrors[key].entries.pop(place, None)
                return refused.names
        return frozenset([""])

    def _peek(self, step: tree.Peek) -> Allowed:
        mirror, places = self.state.mirrors.get((step.device.name, step.device.process)), self.places(step.pages)
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

    def _to_device(self, step: tree.Migrate) -> Allowed:
        key, places = (step.device.name, step.device.process), self.places(step.pages)
        mirror, space = faults.mirror_of(self.state, key), self.state.spaces[step.device.process]
        for number, place in enumerate(places):
            vma = space.vmas.get(place)
            if vma is None or vma.rights == "none" or vma.hugetlb:
                self._migrate(key, places[:number])
                raise Refused("EINVAL")
        self._migrate(key, places)
        return self.resident(mirror, key, places)

    def _migrate(self, key: tuple[str, str], places: list[Place]) -> None:
        device, process = key
        space, mirror = self.state.spaces[process], self.state.mirrors[key]
        faults.invalidate(self.state, process, places, device)
        for place in places:
            if not faults.may_migrate(self.state, space, place) or self._fails(mirror, "device allocation", "copy"):
                continue
            faults.to_device(self.state, key, place)
            if self.state.racing:
                pte = space.ptes[place]
                assert pte.page is not None
                pte.page.at |= RAM
                mirror.entries[place].maybe = True

    @staticmethod
    def _fails(mirror: Mirror, *whats: str) -> bool:
        """Whether an injected failure comes to this page."""
        for what in whats:
            if what in mirror.failing:
                mirror.failing[what] -= 1
                if mirror.failing[what] == 0:
                    del mirror.failing[what]
                    return True
        return False

    def resident(self, mirror: Mirror, key: tuple[str, str], places: list[Place]) -> Allowed:
        """How many from the beginning on are on the device; entries of those that had none are made."""
        space, done, mapped = self.state.spaces[key[1]], 0, False
        unsure = False
        for place in places:
            pte, entry = space.ptes.get(place), mirror.entries.get(place)
            here = pte is not None and pte.page is not None and key[0] in pte.page.at
            if not here:
                break
            assert pte is not None and pte.page is not None
            unsure |= len(pte.page.at) > 1
            if entry is None and not mapped:
                mapped = True
                self._map_resident(key, places[done:])
            done += 1
        if done == len(places):
            return Allowed(frozenset(["", "ENOENT"] if unsure else [""]), None, None if unsure else done)
        return Allowed(frozenset(["ENOENT"]), None, None if unsure else done)

    def _map_resident(self, key: tuple[str, str], places: list[Place]) -> None:
        space, mirror = self.state.spaces[key[1]], self.state.mirrors[key]
        for place in places:
            pte = space.ptes.get(place)
            if pte is not None and pte.page is not None and pte.page.device == key[0]:
                mirror.entries[place] = Entry(pte.page, pte.write)

    def _to_system(self, step: tree.Migrate) -> Allowed:
        device, process = step.device.name, step.device.process
        key, places = (device, process), self.places(step.pages)
        mirror, space = faults.mirror_of(self.state, key), self.state.spaces[process]
        for number, place in enumerate(places):
            vma = space.vmas.get(place)
            if vma is None or vma.rights == "none" or vma.hugetlb:
                self._bring_back(key, places[:number])
                raise Refused("EINVAL")
        if mirror.failing.get("system allocation") or mirror.failing.get("copy"):
            # Tried once more, so whether it fails in the end depends on how many.
            mirror.failing.clear()
        moved = self._bring_back(key, places)
        return Allowed(pages=None if self.state.racing or any(space.vmas[p].huge for p in places) else moved)

    def _bring_back(self, key: tuple[str, str], places: list[Place]) -> int:
        device, process = key
        space, moved = self.state.spaces[process], 0
        faults.invalidate(self.state, process, places, device)
        for place in places:
            pte = space.ptes.get(place)
            if pte is not None and pte.page is not None and device in pte.page.at:
                if len(pte.page.at) > 1 or self.state.racing:
                    pte.page.at |= RAM
                    faults.loosen(self.state, process, [place])
                else:
                    faults.to_system(self.state, pte.page, process)
                moved += 1
        return moved

    def _exclusive(self, step: tree.Exclusive) -> Allowed:
        key, places = (step.device.name, step.device.process), self.places(step.pages)
        mirror, process = faults.mirror_of(self.state, key), step.device.process
        space = self.state.spaces[process]
        done = 0
        for place in places:
            vma = space.vmas.get(place)
            if vma is None or vma.rights != "read-write":
                return Allowed(frozenset(["EFAULT", "EINVAL", "EPERM", "EBUSY"]), None, done)
            if vma.file is not None or vma.hugetlb:
                if not (vma.private and not vma.hugetlb):
                    return Allowed(frozenset(["EFAULT", "EINVAL", "EOPNOTSUPP", "EBUSY"]), None, done)
            pte = faults.fault(self.state, process, place, write=True)
            faults.invalidate(self.state, process, [place], key[0])
            for of, there, other in list(self.state.users(pte.page)) if pte.page is not None else []:
                assert (of, there, other) == (process, place, pte), "a page that may be written is nobody else's"
            for name, other_mirror in self.state.mirrors_of(process):
                if name == key[0]:
                    other_mirror.entries.pop(place, None)
            pte.exclusive = key
            mirror.entries[place] = Entry(pte.page, False, exclusive=True)
            if vma.huge:
                faults.loosen(self.state, process, [p for p in faults.block(space, place) if p not in places])
            done += 1
        huge = any(space.vmas[place].huge for place in places)
        names = frozenset(["", "EBUSY"]) if (huge and not self.rules.exclusive_by_page) else frozenset([""])
        return Allowed(names, None, done)

    def _evict(self, step: tree.Evict) -> Allowed:
        self._mirror(step.device)
        for page in [page for page in self.state.pages() if step.device.name in page.at]:
            self._home(page)
        return Allowed()

    def _home(self, page: Page) -> None:
        """A page of a device comes back by migrate_device_range(): announced by the walk of its mappings only."""
        for process, place, _ in list(self.state.users(page)):
            faults.invalidate(self.state, process, [place])
        for mirror in self.state.mirrors.values():
            if page in mirror.moved:
                mirror.moved.remove(page)
        page.at = RAM

    def _turn(self, step: tree.Turn) -> Allowed:
        key = (step.device.name, step.device.process)
        if step.how == "opens":
            if step.device.process not in self.state.spaces:
                raise Refused("EBADF", "EINVAL")
            self.state.mirrors[key] = Mirror()
            return Allowed()
        mirror = self.state.mirrors.pop(key, None)
        if mirror is None:
            raise Refused("EBADF")
        there = self.state.pages()
        for page in [page for page in mirror.moved if page in there]:
            self._home(page)
        return Allowed()


_CALLS: dict[str, Callable[[Machine, tree.Call], Allowed]] = {
    "maps": Machine._remap,
    "unmaps": Machine._unmap,
    "protects": Machine._call_protect,
    "moves": Machine._move,
    "advises": Machine._advise,
    "locks": Machine._lock,
    "unlocks": Machine._unlock,
    "pins": Machine._pin,
    "unpins": Machine._unpin,
    "swaps out": Machine._swap_out,
    "collapses": Machine._collapse,
    "splits": Machine._split,
    "moves to node": Machine._to_node,
}
