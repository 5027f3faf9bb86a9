# SPDX-License-Identifier: GPL-2.0
"""What the model says is there against what was seen; what it leaves open is as it was seen from then on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from dmirror.model.allowed import Allowed
from dmirror.model.faults import COHERENT
from dmirror.model.state import ANYTHING, RAM, Entry, Mirror, Page, Place, Pte, Space, State, Vma
from dmirror.scenario import tree
from dmirror.scenario.record import Outcome
from dmirror.scenario.seen import Memory
from dmirror.scenario.seen import Page as Seen


def outcome(allowed: Allowed, seen: Outcome) -> Iterator[str]:
    """How a step may not have ended, a sentence each."""
    if seen.failed not in allowed.failed:
        yield f"ended with {seen.failed or 'success'}; the model allows {allowed}"
        return
    if allowed.pages is not None and len(allowed.failed) == 1 and seen.pages not in (0, allowed.pages):
        yield f"came to {seen.pages} pages; the model says {allowed.pages}"
    if allowed.values is not None:
        for page, (number, numbers) in enumerate(zip(seen.values, allowed.values, strict=False)):
            if number not in numbers:
                yield f"page {page} read as {number}; the model allows {' or '.join(map(str, sorted(numbers)))}"


def memory(state: State, seen: Memory, most: int | None = None) -> list[str]:
    """Where the page tables are not as the model has them, a sentence each, or the first so many; settles what it
    leaves open otherwise."""
    return list(islice(_memory(state, seen), most))


def _memory(state: State, seen: Memory) -> Iterator[str]:
    frames = _Frames()
    for process, regions in seen.items():
        space = state.spaces.get(process)
        if space is None:
            continue
        mirrors = dict(state.mirrors_of(process))
        mapped = any(mirror.entries for mirror in mirrors.values())
        for region, pages in regions.items():
            for number, page in enumerate(pages):
                place = (region, number)
                wrong = _entry_of_cpu(state, space, mirrors, place, page)
                if wrong:
                    yield f"{_where(process, place)} {wrong}"
                if mapped or page.entries:
                    yield from _entries_of_devices(mirrors, place, page, process)
                pte = space.ptes.get(place)
                if pte is not None and pte.page is not None and page.frame and page.place != "zero":
                    yield from frames.same(pte.page, page.frame, process, place, "")
                for device, entry in page.entries.items():
                    had = mirrors[device].entries.get(place) if device in mirrors else None
                    if had is not None and had.page is not None:
                        yield from frames.same(had.page, entry.frame, process, place, device)


def _where(process: str, place: Place, device: str = "") -> str:
    return f"{place[0]}[{place[1]}] of {process}" + (f" on {device}" if device else "")


class _Frames:
    """That what is one page to the model is one page frame, and two are two, as far as they are seen at once."""

    def __init__(self) -> None:
        self._of_page: dict[Page, tuple[int, tuple[str, Place, str]]] = {}
        self._of_frame: dict[int, tuple[Page, tuple[str, Place, str]]] = {}

    def same(self, page: Page, frame: int, process: str, place: Place, device: str) -> Sequence[str]:
        where = (process, place, device)
        known, first = self._of_page.setdefault(page, (frame, where))
        other, owner = self._of_frame.setdefault(frame, (page, where))
        if known == frame and other is page:
            return ()
        wrong = []
        if known != frame:
            wrong.append(f"{_where(*where)} has another page than {_where(*first)}; they should share it")
        if other is not page:
            wrong.append(f"{_where(*where)} has the page of {_where(*owner)}; they should share nothing")
        return wrong


def visible(state: State, process: str, place: Place) -> frozenset[str]:
    """Where the model allows the page to be seen: a place of seen.Page."""
    return _visible(state, state.spaces[process], dict(state.mirrors_of(process)), place)


_NONE, _NOTHING, _SWAP = frozenset(["none"]), frozenset(["error", "none"]), frozenset(["swap"])


def _visible(state: State, space: Space, mirrors: dict[str, Mirror], place: Place) -> frozenset[str]:
    vma, pte = space.vmas.get(place), space.ptes.get(place)
    nothing = _NOTHING if vma is None or vma.rights == "none" else _NONE
    if vma is None or pte is None:
        return nothing
    if pte.moving:
        return _SWAP
    seen: frozenset[str]
    if pte.exclusive is not None:
        # Who made it so may have been told since, of a change of rights for one.
        mirror = state.mirrors.get(pte.exclusive)
        entry = mirror.entries.get(place) if mirror else None
        seen = frozenset(["swap"] if entry is None else ["exclusive", "swap"] if entry.maybe else ["exclusive"])
    elif pte.page is None:
        # Who looks cannot tell the huge zero page from other memory.
        unsure = vma.huge or vma.rights == "none" or not mirrors
        seen = frozenset(["zero", "ram"] if unsure else ["zero"])
    elif pte.page.at == RAM:
        seen = RAM
    else:
        seen = frozenset(_as_seen(at, vma, mirrors) for at in pte.page.at)
    if pte.maybe:
        seen = seen | nothing
    return seen | _SWAP if pte.moving is None else seen


def _as_seen(at: str, vma: Vma, mirrors: dict[str, Mirror]) -> str:
    if at in COHERENT:
        return at if mirrors and vma.rights != "none" else "ram"
    if at in ("ram", "swap"):
        return at
    return at if at in mirrors and vma.rights != "none" else "swap"


def rights(state: State, process: str, place: Place) -> frozenset[str]:
    """What the CPU's entry may allow, as mirrors see it: of seen.Page. Nothing where nobody looks at the process."""
    space = state.spaces[process]
    pte, vma = space.ptes.get(place), space.vmas.get(place)
    unseen = not dict(state.mirrors_of(process)) or visible(state, process, place) <= {"swap", "exclusive"}
    if unseen or pte is None or vma is None or vma.rights == "none":
        return frozenset(["none"])
    allowed = {True: ("rw",), False: ("r",), None: ("r", "rw")}[pte.write]
    return frozenset([*allowed, "none"] if pte.maybe else allowed)


def _entry_of_cpu(state: State, space: Space, mirrors: dict[str, Mirror], place: Place, page: Seen) -> str:
    """What is wrong with it, "" for nothing."""
    expected = _visible(state, space, mirrors, place)
    if page.place not in expected:
        return f"is {page.place}; the model says {' or '.join(sorted(expected))}"
    pte = space.ptes.get(place)
    if pte is None:
        return ""
    if page.place in ("none", "error") and pte.maybe:
        del space.ptes[place]
        return ""
    pte.maybe = False
    if pte.moving is None:
        _settle_moving(pte, mirrors, page.place)
    if pte.moving is not False:
        return ""
    if pte.page is not None and len(pte.page.at) > 1:
        _settle(state, pte.page, page.place)
    if not mirrors or page.place in ("swap", "exclusive") or space.vmas[place].rights == "none":
        return ""
    if pte.write is None:
        space.ptes.allow(place, page.rights == "rw")
    wanted = "rw" if pte.write else "r"
    return "" if page.rights == wanted else f"is {page.rights} for the CPU; the model says {wanted}"


def _settle_moving(pte: Pte, mirrors: dict[str, Mirror], place: str) -> None:
    """Where its device can be seen, what is away is under way."""
    if place != "swap":
        pte.moving = False
    elif pte.page is not None and pte.page.device in mirrors:
        pte.moving = True


def _settle(state: State, page: Page, place: str) -> None:
    if "swap" in page.at and len(state.users(page)) > 1:
        return  # each of them comes back from swap by itself
    if place in page.at:
        page.at = frozenset([place])
    elif place == "swap":
        page.at -= RAM
    for (device, _), mirror in state.mirrors.items():
        if device not in page.at and page in mirror.moved:
            del mirror.moved[page]


def _entries_of_devices(mirrors: dict[str, Mirror], place: Place, page: Seen, process: str) -> Iterator[str]:
    for device, mirror in mirrors.items():
        entry, seen = mirror.entries.get(place), page.entries.get(device)
        if entry is None:
            if seen is not None:
                yield f"{device} still maps {_where(process, place)}; the model says that it was told"
            continue
        if seen is None:
            if not entry.maybe:
                where = _where(process, place)
                yield f"{device} does not map {where} any more; the model says that nothing was to be told"
            else:
                del mirror.entries[place]
            continue
        if entry.maybe:
            entry.maybe = False
            mirror.entries[place] = entry
        if seen.exclusive != entry.exclusive:
            has = f"{device} has {_where(process, place)} {'' if seen.exclusive else 'not '}exclusively"
            yield f"{has}; the model says the contrary"
        if entry.write is None:
            entry.write = seen.write
        if seen.write != entry.write and not entry.exclusive:
            may = f"{device} may {'' if seen.write else 'not '}write {_where(process, place)}"
            yield f"{may}; the model says the contrary"


def narrow(state: State, process: str, place: Place, number: int) -> None:
    """A page was read: it has this value."""
    pte: Pte | None = state.spaces[process].ptes.get(place) if process in state.spaces else None
    if pte is not None and pte.page is not None and number in pte.page.values:
        pte.page.values = frozenset([number])


def accept(state: State, seen: Memory) -> None:
    """Take what was seen for what is there, with values that nobody can say."""
    pages: dict[int, Page] = {}  # by frame, of all processes: they may share them
    for process, regions in seen.items():
        space, mirrors = state.spaces[process], state.mirrors_of(process)
        for _, mirror in mirrors:
            mirror.entries.firm = None  # all of it changes
        for region, found in regions.items():
            for number, page in enumerate(found):
                place = (region, number)
                kept = _accept(space, process, place, page, pages)
                for device, mirror in mirrors:
                    entry = page.entries.get(device)
                    if entry is not None:
                        mirror.entries[place] = Entry(kept, entry.write, entry.exclusive)
                    elif mirror.entries:
                        mirror.entries.pop(place, None)


def _accept(space: Space, process: str, place: Place, page: Seen, pages: dict[int, Page]) -> Page | None:
    """The CPU's entry; which page it is."""
    where, rights, frame, _, entries = page
    old = space.ptes.get(place)
    if where in ("none", "error"):
        if old is not None:
            del space.ptes[place]
        return None
    if where == "zero":
        space.ptes[place] = Pte(None, False)
        return None
    kept = old.page if old is not None and old.page is not None else Page(ANYTHING)
    kept = pages.setdefault(frame, kept) if frame else kept
    kept.values = ANYTHING
    # A device that was told has no entry any more where the CPU's still says exclusive, which looks like away.
    still = old.exclusive if old is not None and where == "swap" and kept.at == RAM else None
    if where != "swap" or not (kept.device or still):  # without a mirror pages of devices look like that, too
        kept.at = _AT[where]
    exclusive = still
    for device, entry in entries.items():
        if entry.exclusive:
            exclusive = (device, process)
            break
    write = rights == "rw" if rights != "none" else None
    if old is None or old.page is not kept:
        space.ptes[place] = Pte(kept, write, exclusive)
    else:
        old.exclusive, old.maybe, old.moving, old.write = exclusive, False, False, write
        if write is False:
            space.ptes.allow(place, write)
    return kept


_AT = {place: frozenset([place]) for place in (*tree.DEVICES, "swap")} | {"ram": RAM, "exclusive": RAM}
