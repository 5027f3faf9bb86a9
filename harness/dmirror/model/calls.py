# SPDX-License-Identifier: GPL-2.0
"""What a process does to its memory: mmap(2), mprotect(2), madvise(2) and their like."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING

from dmirror.model import faults
from dmirror.model.allowed import Allowed
from dmirror.model.faults import Refused
from dmirror.model.state import RAM, Place, Vma
from dmirror.scenario import tree

if TYPE_CHECKING:
    from dmirror.model.machine import Machine

_ANY = frozenset(["EAGAIN", "EBUSY", "EFAULT", "EINVAL", "ENOMEM", "ENOENT"])

# Advice that changes nothing that can be seen here.
_QUIET = (
    *("normal", "random", "sequential", "willneed", "mergeable", "unmergeable"),
    *("hugepage", "nohugepage", "dontdump", "dodump"),
)


def _mapped(machine: Machine, process: str, places: list[Place], name: str = "ENOMEM") -> None:
    if any(place not in machine.state.spaces[process].vmas for place in places):
        raise Refused(name)


def _unmap(machine: Machine, step: tree.Call) -> Allowed:
    drop(machine, machine.process(step.actor), machine.places(step.pages), unmap=True)
    return Allowed()


def drop(machine: Machine, process: str, places: list[Place], *, unmap: bool = False) -> None:
    """What was there is not there any more (zap_page_range())."""
    space = machine.state.spaces[process]
    faults.invalidate(machine.state, process, [place for place in places if place in space.vmas])
    for place in places:
        pte = space.ptes.pop(place, None)
        if pte is not None:
            faults.unlocked(machine.state, space.vmas[place], pte.page)
        if unmap:
            space.vmas.pop(place, None)


def _remap(machine: Machine, step: tree.Call) -> Allowed:
    process, places = machine.process(step.actor), machine.places(step.pages)
    if any(place in machine.state.spaces[process].vmas for place in places):
        raise Refused("EEXIST")
    region = machine.regions[step.pages.region]
    machine.map(process, places, region, region.rights)
    return Allowed()


def _mprotect(machine: Machine, step: tree.Call) -> Allowed:
    assert step.rights is not None
    process, places = machine.process(step.actor), machine.places(step.pages)
    space = machine.state.spaces[process]
    space.cut(places)
    for number, place in enumerate(places):  # as far as there are mappings
        if place not in space.vmas:
            protect(machine, process, places[:number], step.rights)
            raise Refused("ENOMEM")
    protect(machine, process, places, step.rights)
    return Allowed()


def protect(machine: Machine, process: str, places: list[Place], rights: str) -> None:
    space = machine.state.spaces[process]
    changed = [place for place in places if space.vmas[place].rights != rights]
    # Announced only where there are page tables; what has no entry loses none.
    faults.invalidate(machine.state, process, changed)
    for place in changed:
        vma, pte = space.vmas[place], space.ptes.get(place)
        vma.rights = rights
        if pte is not None:
            # What was forked is not writable before somebody writes it (can_change_pte_writable()).
            could = pte.page is not None and not (pte.page.forked and not pte.page.file)
            space.ptes.allow(place, None if rights == "read-write" and could else False)
        if vma.locked and vma.private and rights == "read-write":
            # So that the first store need not (mprotect_fixup()).
            faults.fault(machine.state, process, place, write=True)


def _move(machine: Machine, step: tree.Call) -> Allowed:
    assert step.to is not None
    process, old, new = machine.process(step.actor), machine.places(step.pages), machine.places(step.to)
    space = machine.state.spaces[process]
    _mapped(machine, process, old[:1], "EFAULT")
    kinds = {
        (vma.rights, id(vma.file), vma.file and vma.index - place[1]) if (vma := space.vmas.get(place)) else None
        for place in old
    }
    if machine.rules.moves_several:
        # Where nothing is mapped, nothing is moved.
        mapped = [(at, to) for at, to in zip(old, new, strict=True) if at in space.vmas]
        old, new = [at for at, _ in mapped], [to for _, to in mapped]
    # Of several mappings, one may come beside what the next one is going to replace.
    beside = space.anonymous_near(new[0][0])
    drop(machine, process, new, unmap=True)
    if len(kinds) > 1 and not machine.rules.moves_several:
        # By then the target is unmapped (6.12 mm/mremap.c, mremap_to()).
        raise Refused("EFAULT")
    faults.invalidate(machine.state, process, old)
    moved = [(space.vmas.pop(place), space.ptes.pop(place, None)) for place in old]
    beside = beside or space.anonymous_near(new[0][0])
    space.anon.discard(new[0][0])
    # What may part two mappings goes with them.
    space.cuts |= {to for at, to in zip(old, new, strict=True) if at in space.cuts}
    space.cut(new)
    for before, place, (vma, pte) in zip(old, new, moved, strict=True):
        if vma.anon is not False:
            vma.bare = vma.anon is None and (vma.origin is None or vma.bare)
            vma.origin = vma.origin or before
            space.moved.setdefault(vma.origin, set()).add(place)
            machine.state.moves = True
        elif beside:
            vma.anon = None
        beside = beside or vma.anon is not False
        space.vmas[place] = vma
        if pte is not None:
            space.ptes[place] = pte
    return Allowed()


def _advise(machine: Machine, step: tree.Call) -> Allowed:
    process, places = machine.process(step.actor), machine.places(step.pages)
    space = machine.state.spaces[process]
    match step.advice:
        case "dontneed" | "free" | "remove" | "pageout" | "cold":
            return _discard(machine, process, places, step.advice)
        case "populate_read" | "populate_write":
            return _populate(machine, process, places, write=step.advice == "populate_write")
    _mapped(machine, process, places)
    space.cut(places)
    match step.advice:
        case "dontfork" | "dofork" | "wipeonfork" | "keeponfork":
            what = {"dontfork": "leave", "wipeonfork": "wipe"}.get(step.advice, "copy")
            if step.advice == "wipeonfork" and any(space.vmas[place].file for place in places):
                raise Refused("EINVAL")
            for place in places:
                space.vmas[place].fork = what
        case "collapse":
            return _collapse(machine, step)
        case _ if step.advice in _QUIET:
            pass
    return Allowed(frozenset(["", "EINVAL"] if step.advice in _QUIET else [""]))


def _discard(machine: Machine, process: str, places: list[Place], advice: str) -> Allowed:
    """Mapping by mapping, up to the first that refuses; what is not mapped is passed over, and said at the end."""
    space = machine.state.spaces[process]
    mapped = [place for place in places if place in space.vmas]
    if advice == "dontneed":
        drop(machine, process, list(takewhile(lambda place: not space.vmas[place].locked, mapped)))
    for place in mapped:
        vma = space.vmas[place]
        if vma.locked and advice != "remove":
            raise Refused("EINVAL")
        if advice == "free":
            if vma.file:
                raise Refused("EINVAL")
            faults.invalidate(machine.state, process, [place])
        elif advice == "remove":
            if vma.private:
                raise Refused("EINVAL", "EACCES")
            _punch(machine, vma)
        elif advice != "dontneed":
            _age(machine, process, place)
    if len(mapped) < len(places):
        raise Refused("ENOMEM")
    return Allowed()


def _punch(machine: Machine, vma: Vma) -> None:
    """A page of a file is gone, for everybody who maps it."""
    page = vma.file.pages.pop(vma.index, None) if vma.file else None
    if page is not None:
        for process, there, _ in machine.state.users(page):
            faults.invalidate(machine.state, process, [there])
            del machine.state.spaces[process].ptes[there]


def _age(machine: Machine, process: str, place: Place) -> None:
    """MADV_PAGEOUT: to swap where there is some, and it is nobody else's."""
    pte = machine.state.spaces[process].ptes.get(place)
    if pte is not None and pte.page is not None and pte.page.at == RAM and pte.exclusive is None:
        if not pte.page.file:
            pte.page.at = frozenset(["ram", "swap"])
        else:
            pte.maybe = True
        faults.loosen(machine.state, process, [place])


def _swap_out(machine: Machine, step: tree.Call) -> Allowed:
    process = machine.process(step.actor)
    for place in machine.places(step.pages):
        pte = machine.state.spaces[process].ptes.get(place)
        if pte is not None and pte.page is not None:
            if not pte.page.file:
                pte.page.at = frozenset(["swap"])
            faults.invalidate(machine.state, process, [place])
    return Allowed()


def _populate(machine: Machine, process: str, places: list[Place], *, write: bool) -> Allowed:
    for place in places:
        try:
            faults.fault(machine.state, process, place, write=write)
        except Refused:
            raise Refused("EINVAL", "EFAULT", "ENOMEM") from None
    return Allowed()


def _collapse(machine: Machine, step: tree.Call) -> Allowed:
    process = machine.process(step.actor)
    _mapped(machine, process, machine.places(step.pages))
    for place in machine.places(step.pages):
        pte = machine.state.spaces[process].ptes.get(place)
        if pte is not None:
            faults.loosen(machine.state, process, [place])
            if pte.page is not None and pte.page.device:
                pte.page.at |= RAM
            if pte.page is not None:
                for of, there, other in machine.state.users(pte.page) if pte.page.file else []:
                    # Page tables of all who map the file are taken away (retract_page_tables()).
                    faults.loosen(machine.state, of, [there])
                    other.maybe = True
                pte.write = None if machine.state.spaces[process].vmas[place].rights == "read-write" else pte.write
    return Allowed(_ANY | {""})


def _lock(machine: Machine, step: tree.Call) -> Allowed:
    process, places = machine.process(step.actor), machine.places(step.pages)
    space = machine.state.spaces[process]
    _set_locked(machine, process, places, locked=True)
    for place in places:
        vma = space.vmas[place]
        try:
            faults.fault(machine.state, process, place, write=vma.rights == "read-write" and vma.private)
        except Refused:
            raise Refused("ENOMEM") from None
    return Allowed()


def _unlock(machine: Machine, step: tree.Call) -> Allowed:
    _set_locked(machine, machine.process(step.actor), machine.places(step.pages), locked=False)
    return Allowed()


def _set_locked(machine: Machine, process: str, places: list[Place], *, locked: bool) -> None:
    """Up to the first that is not mapped: those before it are as they were told."""
    machine.state.spaces[process].cut(places)
    for place in places:
        _mapped(machine, process, [place])
        machine.state.spaces[process].vmas[place].locked = locked


def _pin(machine: Machine, step: tree.Call) -> Allowed:
    process = machine.process(step.actor)
    space = machine.state.spaces[process]
    for place in machine.places(step.pages):
        try:
            pte = faults.fault(machine.state, process, place, write=False)
        except Refused:
            raise Refused("EFAULT") from None
        if pte.page is not None:
            pte.page.pins += 1
        space.pins.setdefault(place, []).append(pte.page)
    return Allowed()


def _unpin(machine: Machine, step: tree.Call) -> Allowed:
    space = machine.state.spaces[machine.process(step.actor)]
    for place in machine.places(step.pages):
        for page in space.pins.pop(place, []):
            if page is not None:
                page.pins -= 1
    return Allowed()


def _split(machine: Machine, step: tree.Call) -> Allowed:
    process = machine.process(step.actor)
    faults.loosen(machine.state, process, machine.places(step.pages))
    return Allowed(_ANY | {""})


def _to_node(machine: Machine, step: tree.Call) -> Allowed:
    process, space = machine.process(step.actor), machine.state.spaces[machine.process(step.actor)]
    for place in machine.places(step.pages):
        pte = space.ptes.get(place)
        if pte is not None and pte.page is not None and pte.page.at == RAM:
            faults.loosen(machine.state, process, [place])
    return Allowed(_ANY | {""})


VERBS: dict[str, Callable[[Machine, tree.Call], Allowed]] = {
    "maps": _remap,
    "unmaps": _unmap,
    "protects": _mprotect,
    "moves": _move,
    "advises": _advise,
    "locks": _lock,
    "unlocks": _unlock,
    "pins": _pin,
    "unpins": _unpin,
    "swaps out": _swap_out,
    "collapses": _collapse,
    "splits": _split,
    "moves to node": _to_node,
}
"""By the verbs of words.CALLS."""
