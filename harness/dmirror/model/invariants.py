# SPDX-License-Identifier: GPL-2.0
"""What holds of the model's own state after every step, whatever was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dmirror.model.state import RAM, State, block_of

_PRIVATE = frozenset("AB")
_PLACES = RAM | {"swap"} | frozenset("ABCD")


def broken(state: State) -> Iterator[str]:
    """What does not hold, a sentence each."""
    users = Counter(
        id(pte.page) for space in state.spaces.values() for pte in space.ptes.values() if pte.page is not None
    )
    yield from _places(state, users)
    yield from _rights(state, users)
    yield from _entries(state)
    yield from _indices(state)
    yield from _moved(state)


def _places(state: State, users: Counter[int]) -> Iterator[str]:
    pages = state.pages()
    for page in pages:
        if not page.at or not page.at <= _PLACES:
            yield f"a page is at {sorted(page.at) or 'no place'}"
        if page.file and page.at & _PRIVATE:
            yield f"a page of a file is on {page.device}"
        if page.pins < 0:
            yield f"a page has {page.pins} pins"
        # What is charged is counted by page, what is resident by entry: both go by who has the page.
        if len(state.users(page)) != users[id(page)]:
            yield f"a page has {users[id(page)]} entries, and knows of {len(state.users(page))}"


def _rights(state: State, users: Counter[int]) -> Iterator[str]:
    for process, space in state.spaces.items():
        for place, pte in space.ptes.items():
            where = f"{place[0]}[{place[1]}] of {process}"
            vma = space.vmas.get(place)
            if vma is None:
                yield f"{where} has an entry and no mapping"
                continue
            if pte.write and vma.rights != "read-write":
                yield f"{where} may be written, its mapping is {vma.rights}"
            if pte.page is None and pte.write:
                yield f"{where} is the zero page and may be written"
            if pte.page is not None and pte.write and not pte.page.file and users[id(pte.page)] > 1:
                yield f"{where} may be written and is shared"
            if pte.exclusive is not None and pte.page is None:
                yield f"{where} is the zero page, and exclusive"


def _entries(state: State) -> Iterator[str]:
    for (device, process), mirror in state.mirrors.items():
        space = state.spaces.get(process)
        if space is None:
            if mirror.entries or mirror.alive:
                yield f"{device} of {process} maps what is gone"
            continue
        for place, entry in mirror.entries.items():
            where = f"{device} of {process} at {place[0]}[{place[1]}]"
            pte = space.ptes.get(place)
            if pte is None or pte.moving:
                if not entry.maybe:
                    yield f"{where} has an entry, the CPU has none"
            elif entry.page is not pte.page and not entry.maybe and not pte.maybe:
                yield f"{where} has another page than the CPU"
            elif entry.exclusive and pte.exclusive != (device, process):
                yield f"{where} is exclusive; the CPU's entry says {pte.exclusive}"
            elif entry.write and pte.write is False and not entry.maybe and not entry.exclusive:
                yield f"{where} may be written; the CPU may not"


def _indices(state: State) -> Iterator[str]:
    """Who looks for what is read-only, or sure, of a huge page, looks only where it is said to be."""
    for process, space in state.spaces.items():
        for place, pte in space.ptes.items():
            if pte.write is False and block_of(place) not in space.ptes.read_only:
                yield f"{place[0]}[{place[1]}] of {process} is read-only, and nobody would look for it"
    for (device, process), mirror in state.mirrors.items():
        firm = mirror.entries.firm
        for place, entry in mirror.entries.items():
            if firm is not None and not entry.maybe and place not in firm.get(block_of(place), ()):
                yield f"{device} of {process} has {place[0]}[{place[1]}] for sure, and nobody would loosen it"


def _moved(state: State) -> Iterator[str]:
    owned: Counter[tuple[str, int]] = Counter()
    for (device, _), mirror in state.mirrors.items():
        for page in mirror.moved:
            owned[device, id(page)] += 1
    there = state.pages()
    for page in there:
        counts = {device: owned[device, id(page)] for device in sorted(_PRIVATE)}
        if sum(counts.values()) > 1 and len(page.at) == 1:
            yield f"a page was migrated by {counts}, and once only"
        if page.at == RAM and any(counts.values()):
            yield f"a page in memory counts as migrated by {counts}"
        if page.device in _PRIVATE and not counts[page.device]:
            yield f"a page on {page.device} was migrated by nobody"
