# SPDX-License-Identifier: GPL-2.0
"""What happens to one page: it is announced, faulted by the CPU, copied on write, migrated, taken exclusively.

mm/memory.c, mm/migrate_device.c, mm/rmap.c, mm/hmm.c and the driver (docs/driver.md), as far as they promise it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmirror.model.state import HUGE, RAM, ZERO, Entry, Mirror, Page, Place, Pte, Space, State, Vma, block_of

COHERENT = frozenset("CD")
"""The devices whose memory the CPU reaches in place."""


class Refused(Exception):
    """The step fails here: with any of these errnos or signals, by name."""

    def __init__(self, *names: str) -> None:
        super().__init__(", ".join(names))
        self.names = frozenset(names)


class Injected(Refused):
    """It fails because a failure was injected."""


def block(space: Space, place: Place) -> list[Place]:
    """The pages that are one huge page with it, where its mapping may have huge pages; else only it."""
    region, number = place
    if not space.vmas[place].huge:
        return [place]
    first = number - number % HUGE
    vmas = space.vmas
    return [other for n in range(first, first + HUGE) if (other := (region, n)) in vmas]


# What mirrors are told


def invalidate(state: State, process: str, places: Sequence[Place], owner: str = "") -> None:
    """Every mirror of the process loses its entries of those places; those of the device `owner` filter the event.

    Of a huge page more may be announced than was asked for.
    """
    others, tables = False, []
    for device, mirror in state.mirrors_of(process):
        if device != owner:
            others = True
            for place in places if mirror.entries else ():
                mirror.entries.pop(place, None)
        if mirror.entries:
            tables.append(mirror.entries)
    if others and tables:
        vmas = state.spaces[process].vmas
        for huge in {block_of(place) for place in places if place in vmas and vmas[place].huge}:
            for entries in tables:
                entries.loosen(huge, vmas)


def loosen_block(state: State, process: str, place: Place) -> None:
    """Mirrors may be told of all of a huge page where one of its pages is meant."""
    vmas = state.spaces[process].vmas
    if vmas[place].huge:
        for _, mirror in state.mirrors_of(process):
            if mirror.entries:
                mirror.entries.loosen(block_of(place), vmas)


def loosen(state: State, process: str, places: Iterable[Place]) -> None:
    """Mirrors may be told of those places, or not."""
    for _, mirror in state.mirrors_of(process):
        entries = mirror.entries
        for place in places if entries else ():
            if place in entries:
                entries[place].maybe = True


def loosen_kin(state: State, page: Page) -> None:
    """The walk of a page's mappings (rmap) tells those, too, who had it by fork once and have another there now, or who
    never had it: a copy is looked for wherever its origin is mapped."""
    if not state.moves:
        for kin in state.spaces:
            loosen(state, kin, page.places)
        return
    origins = page.places | {
        origin for process, place, _ in state.users(page) if (origin := _origin(state, process, place))
    }
    for kin, space in state.spaces.items():
        # Wherever that is now, and what was mapped there since: it goes by vm_pgoff.
        moved = {place for origin in origins for place in space.moved.get(origin, ()) if _is_from(space, place, origin)}
        loosen(state, kin, origins | moved)


def _is_from(space: Space, place: Place, origin: Place) -> bool:
    vma = space.vmas.get(place)
    return vma is not None and vma.origin == origin


def _origin(state: State, process: str, place: Place) -> Place | None:
    vma = state.spaces[process].vmas.get(place)
    return vma.origin if vma else None


def _left(state: State, page: Page, device: str, told: str = "") -> None:
    """A page has moved: who had it in another address space was told by the walk of its mappings (rmap). Mirrors of the
    process `told`, but for those of the device, were told before."""
    if state.moves:
        loosen_kin(state, page)
    for process, space in state.spaces.items():
        mirrors, ptes = state.mirrors_of(process), space.ptes
        for place in page.places:
            pte = ptes.get(place)
            has = pte is not None and pte.page is page
            for name, mirror in mirrors:
                entry = mirror.entries.get(place)
                if entry is None:
                    continue
                if has and process == told and name != device:
                    del mirror.entries[place]
                # In a race perhaps it stays where it is.
                elif not has or state.racing or (entry.page is not page and name == device):
                    entry.maybe = True
                else:
                    del mirror.entries[place]
            if has and space.vmas[place].huge:
                for _, mirror in mirrors:
                    if mirror.entries:
                        mirror.entries.loosen((place[0], place[1] // HUGE), space.vmas)


# CPU faults


def fault(state: State, process: str, place: Place, *, write: bool) -> Pte:
    """Make the page accessible to the CPU, as an access does. Refused with SIGSEGV where the mapping forbids it."""
    space = state.spaces[process]
    vma = space.vmas.get(place)
    if vma is None or vma.rights == "none" or (write and vma.rights != "read-write"):
        raise Refused("SIGSEGV")
    if place in space.ptes:
        back(state, process, place)
    pte = space.ptes.get(place)
    if pte is None or pte.maybe:
        pte = _populate(state, process, place, vma, write=write)
    if write and pte.write is not True:
        pte = _write_fault(state, process, place, vma, pte)
    return pte


def back(state: State, process: str, place: Place) -> None:
    """What is away comes back: from a device, from swap, from exclusive access."""
    space = state.spaces[process]
    pte = space.ptes.get(place)
    if pte is None:
        return
    if pte.moving:
        raise Refused("a wait for the migration that is held")
    if pte.exclusive is not None:
        revoke(state, process, place, pte)
    page = pte.page
    if page is None or page.at == RAM or page.device in COHERENT:
        return
    device = page.device
    if page.busy and device:
        raise Refused("a wait for the fault that is held")
    if page.at <= {"ram", "swap"}:
        page.at = frozenset(["ram", "swap"]) if _shared(state, page) else RAM
        page.cached = True
        space.ptes.allow(place, None if space.vmas[place].rights == "read-write" else False)
        return
    if injected(state, page, "copy"):
        for of, there, _ in state.users(page):
            loosen(state, of, [there])
        raise Injected("SIGBUS")
    # Of a huge page the others come along, if there is memory for all; where there was none it is split.
    along = block(space, place) if device else ()
    to_system(state, page, process)
    for other in along:
        beside = space.ptes.get(other)
        if other != place and beside is not None and beside.page is not None and beside.page.device:
            beside.page.at |= RAM
            beside.maybe = False
            loosen(state, process, [other])


def injected(state: State, page: Page, what: str) -> bool:
    """Whether a failure was injected, by the mirror that migrated the page, and this is what fails."""
    failing = [mirror for mirror in state.mirrors.values() if mirror.failing]
    return any(page in mirror.moved and mirror.fails(what) for mirror in failing) if failing else False


def revoke(state: State, process: str, place: Place, pte: Pte) -> None:
    """Exclusive access ends: every mirror is told, and the entry is as its mapping allows."""
    pte.exclusive = None
    invalidate(state, process, [place])
    space = state.spaces[process]
    space.ptes.allow(place, None if space.vmas[place].rights == "read-write" else False)


def _populate(state: State, process: str, place: Place, vma: Vma, *, write: bool) -> Pte:
    space = state.spaces[process]
    if vma.file is not None:
        return _populate_file(state, process, place, vma, write=write)
    # Where something is there perhaps, a page table is: no huge page comes any more.
    whole = [place] if place in space.ptes else block(space, place)
    if vma.hugetlb or (vma.huge and write):
        for other in whole:
            if other not in space.ptes:
                # A huge page, or only the one that is wanted where there is none.
                maybe = not vma.hugetlb and other != place
                space.ptes[other] = Pte(Page(ZERO), vma.rights == "read-write", maybe=maybe)
        pte = space.ptes[place]
        pte.maybe = False
        if pte.page is None:
            return _write_fault(state, process, place, vma, pte) if write else pte
    elif write:
        pte = space.ptes[place] = Pte(Page(ZERO), True)
    else:
        for other in whole:
            if other not in space.ptes:
                space.ptes[other] = Pte(None, False, maybe=other != place)
        pte = space.ptes[place]
        pte.maybe = False
    if pte.page is not None:
        anonymous(space, place)
    return pte


def anonymous(space: Space, place: Place) -> None:
    """Its mapping has an anonymous page now, so that fork copies it (vma_needs_copy() in mm/memory.c)."""
    space.vmas[place].anon = True
    if place[0] in space.anon:
        return
    space.anon.add(place[0])
    for (region, _), vma in space.vmas.items():
        if region == place[0] and not vma.anon:
            vma.anon = None


def _populate_file(state: State, process: str, place: Place, vma: Vma, *, write: bool) -> Pte:
    space, file = state.spaces[process], vma.file
    assert file is not None
    page = file.pages.get(vma.index)
    if page is None:
        page = file.pages[vma.index] = Page(ZERO, file=True)
    if write and vma.private:
        anonymous(space, place)
        pte = space.ptes[place] = Pte(Page(page.values), True)
        return pte
    pte = space.ptes[place] = Pte(page, None if not vma.private and vma.rights == "read-write" else False)
    if write:
        return pte
    # Neighbours that are cached are mapped on the way (do_fault_around()).
    for there, other in space.vmas.items():
        if there[0] == place[0] and there not in space.ptes and other.file is file and other.index in file.pages:
            allowed = None if not other.private and other.rights == "read-write" else False
            space.ptes[there] = Pte(file.pages[other.index], allowed, maybe=True)
    return pte


def _write_fault(state: State, process: str, place: Place, vma: Vma, pte: Pte) -> Pte:
    """A store to what is there and read-only: do_wp_page()."""
    space = state.spaces[process]
    page = pte.page
    if page is not None and page.file and not vma.private:
        pte.write = True
        return pte
    if page is None or page.file or _shared(state, page):
        values = ZERO if page is None else page.values
        invalidate(state, process, [place])
        unlocked(state, vma, page)
        anonymous(space, place)
        space.ptes[place] = Pte(Page(values), True)
        for other in block(space, place) if vma.hugetlb else []:
            beside = space.ptes.get(other)
            if beside is not None and beside.page is not None and other != place:
                # The whole huge page is copied (hugetlb_wp()).
                space.ptes[other] = Pte(Page(beside.page.values), True)
        if page is None and vma.huge:
            for other in block(space, place):
                beside = space.ptes.get(other)
                if beside is not None and beside.page is None and other != place:
                    # What replaces the huge zero page is huge, or it is split.
                    space.ptes[other] = Pte(Page(ZERO), None)
                    loosen(state, process, [other])
        return space.ptes[place]
    # Its own: made writable, or copied all the same where something else refers to it.
    if pte.write is False or page.pins:
        loosen(state, process, [place])
    if page.pins and page.forked:
        new = Page(page.values)
        space.ptes[place] = Pte(new, True)
        invalidate(state, process, [place])
        return space.ptes[place]
    pte.write = True
    page.forked = False
    if block_of(place) in space.ptes.read_only and vma.huge:
        for other in block(space, place):
            beside = space.ptes.get(other)
            if beside is not None and beside.write is False:
                beside.write = None
                loosen(state, process, [other])
        space.ptes.read_only.discard(block_of(place))
    return pte


def unlocked(state: State, vma: Vma, page: Page | None) -> None:
    """A page that leaves a locked mapping has a reference until its processor has unlocked 15 of them, or is told to
    (mlock_fbatch of mm/mlock.c). Whoever migrates tells his own, and who raced was on others."""
    if vma.locked and state.racing and page is not None:
        page.cached = True


def _shared(state: State, page: Page) -> bool:
    return len(state.users(page)) > 1


# Migration


def to_system(state: State, page: Page, process: str) -> None:
    """A page of a device comes to system memory, in every address space that has it."""
    _left(state, page, page.device, process)  # by migrate_vma_setup(), with an owner that is not theirs
    in_memory(state, page)


def in_memory(state: State, page: Page) -> None:
    """It is in system memory, and counts for no mirror as migrated any more."""
    for mirror in state.mirrors.values():
        if page in mirror.moved:
            del mirror.moved[page]
    page.at = RAM


def may_migrate(state: State, space: Space, place: Place) -> bool:
    """Whether migrate_vma_setup() collects it from system memory, as it stands."""
    vma, pte = space.vmas[place], space.ptes.get(place)
    if pte is None or pte.page is None:
        return vma.file is None
    page = pte.page
    if page.file or page.pins or page.busy or pte.exclusive is not None or pte.moving:
        return False
    return page.at >= RAM


def to_device(state: State, key: tuple[str, str], place: Place, *, perhaps: bool = False) -> None:
    """A page, or a hole, goes to the device by migrate_vma_pages(), and the driver maps it; or perhaps it does not."""
    device, process = key
    space, mirror = state.spaces[process], state.mirrors[key]
    pte = space.ptes.get(place)
    if pte is None or pte.page is None:
        write: bool | None = space.vmas[place].rights == "read-write"
        page = Page(ZERO, frozenset([device]))
        anonymous(space, place)
        # The second invalidation: whoever mapped the zero page meanwhile loses it.
        invalidate(state, process, [place], device)
        for name, other in state.mirrors_of(process):
            if name == device:
                other.entries.pop(place, None)
        space.ptes[place] = Pte(page, write)
    else:
        page, write = pte.page, pte.write
        pte.maybe = pte.moving = False
        _left(state, page, device)
        # What may be elsewhere, or may be refused, may stay there.
        refused = page.cached or page.busy is None
        if len(page.at) > 1:
            page.at |= {device}
        else:
            page.at = frozenset([device, *RAM] if refused or perhaps else [device])
    if perhaps and "ram" not in page.at:
        page.at |= RAM
    mirror.moved.setdefault(page)  # in a race it may have been there, and back
    mirror.entries[place] = Entry(page, write, maybe=len(page.at) > 1)


# Device faults


def device_fault(state: State, key: tuple[str, str], place: Place, *, write: bool, further: bool = False) -> bool:
    """hmm_range_fault() of one page with a request, and the entry that the driver makes of it; as walk_fault()."""
    further = walk_fault(state, key, place, write=write, further=further)
    pte = state.spaces[key[1]].ptes[place]
    state.mirrors[key].entries[place] = Entry(pte.page, pte.write)
    return further


def walk_fault(state: State, key: tuple[str, str], place: Place, *, write: bool, further: bool = False) -> bool:
    """hmm_range_fault() of one page with a request.

    Whether the walk had to fault it. `further`: it has faulted one before, and so goes on to fault all that follow it
    under the same page table, even pages of its own device, which come back (docs/findings.md, H-04).
    """
    device, process = key
    space = state.spaces[process]
    vma = space.vmas.get(place)
    if vma is None or vma.rights == "none":
        raise Refused("EFAULT")
    if write and vma.rights != "read-write":
        raise Refused("EPERM")
    pte = space.ptes.get(place)
    if pte is not None and pte.moving:
        raise Refused("a wait for the migration that is held")
    if pte is not None and pte.page is not None and device in pte.page.at and not _readable(pte, device):
        # After a race it may be on another one, from which it comes back; where it is here it stays.
        pte.page.at = RAM | {device}
        loosen_kin(state, pte.page)
    ready = pte is not None and pte.exclusive is None and not pte.maybe and _readable(pte, device)
    writable = ready and pte is not None and pte.write is not False and pte.page is not None
    own = ready and pte is not None and pte.page is not None and pte.page.device == device
    # A page of its own that may not be written is not faulted by the walk: the driver asks for it as a stranger.
    stranger = own and write and not writable and not further
    needed = not ready or (write and not writable)
    if needed or further:
        pte = fault(state, process, place, write=write)
    assert pte is not None
    if write and pte.write is None:
        pte.write = True
    return further or (needed and not stranger)


def _readable(pte: Pte, device: str) -> bool:
    page = pte.page
    # After a race it may be on the device or not: either way it stays there.
    return page is None or page.at <= {"ram", device} or page.device in COHERENT


def mirror_of(state: State, key: tuple[str, str]) -> Mirror:
    """The mirror. Refused as the driver does where the address space is gone, or the device closed."""
    mirror = state.mirrors.get(key)
    if mirror is None:
        raise Refused("EBADF")
    if not mirror.alive:
        raise Refused("EFAULT", "EINVAL", "ESRCH")
    return mirror
