# SPDX-License-Identifier: GPL-2.0
"""What the model knows: address spaces, pages that they share, mirrors with entries; and what it leaves open.

A kernel may choose: whether it reuses a page or copies it, whether it maps a neighbour. What it may choose is open here
(a set, None, `maybe`) until somebody looks; nothing else is. A page is what has data, a place is a page of a region, as
an address space sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]
"""A region and a page of it."""

Block = tuple[str, int]
"""A region and the number of a huge page in it."""

HUGE = 512
"""Pages of a huge page, x86-64."""

RAM = frozenset(["ram"])
Numbers = frozenset[int]
ZERO: Numbers = frozenset([0])


class Page:
    """Something that holds data: `values` the first word may have, `at` where it may be: "ram", "swap", a device.

    `file`: a page of a file, which never migrates; `pins` are references that nothing here explains; `cached`: it came
    from swap, whose cache may still have it, or another processor may be about to unlock it: then it may be refused
    (M-14). `busy`: somebody who is held has its lock, or a reference: it stays where it is; None: perhaps.
    """

    __slots__ = ("at", "busy", "cached", "file", "forked", "pins", "places", "values")

    def __init__(self, values: Numbers, at: frozenset[str] = RAM, *, file: bool = False) -> None:
        self.values = values
        self.at = at
        self.file = file
        self.pins = 0
        self.busy: bool | None = False
        self.forked = False  # since it was last written: who writes it has to be alone with it (PageAnonExclusive())
        self.cached = False
        self.places: set[Place] = set()  # where somebody has or had it

    @property
    def device(self) -> str:
        """The device that it is on, "" where it is not, or may not be."""
        if self.at is RAM or len(self.at) != 1:
            return ""
        (at,) = self.at
        return at if len(at) == 1 else ""


@dataclass(slots=True)
class Pte:
    """An entry of the CPU's page table; `page` None is the zero page.

    `write` None: either. `exclusive`: the mirror that has it exclusively. `maybe`: it may as well not be there.
    `moving`: a migration that is held has unmapped it; None: perhaps.
    """

    page: Page | None
    write: bool | None
    exclusive: tuple[str, str] | None = None
    maybe: bool = False
    moving: bool | None = False

    def copy(self, page: Page | None) -> Pte:
        """Another one, of that page."""
        return Pte(page, self.write, self.exclusive, self.maybe, self.moving)


class Ptes(dict[Place, Pte]):
    """The CPU's page table of one address space; pages know where they are in it.

    `read_only`: where entries may be that may not write. Nothing else need be looked at for them, and of a huge page
    somebody looks for them at each of its pages.
    """

    __slots__ = ("read_only",)

    def __init__(self) -> None:
        super().__init__()
        self.read_only: set[Block] = set()

    def __setitem__(self, place: Place, pte: Pte) -> None:
        if pte.page is not None:
            pte.page.places.add(place)
        if pte.write is False:
            self.read_only.add(block_of(place))
        dict.__setitem__(self, place, pte)  # quicker than super()

    def allow(self, place: Place, write: bool | None) -> None:
        """The entry there may write, or not, or (None) either."""
        self[place].write = write
        if write is False:
            self.read_only.add(block_of(place))


@dataclass(slots=True)
class Vma:
    """What is mapped at one place: `rights` "read-write", "read-only" or "none"; `index`: which page of `file`.

    `private`: a store makes an anonymous page. `anon`: there was one here before, so fork copies (None: perhaps).
    """

    rights: str
    private: bool
    file: File | None = None
    index: int = 0
    huge: bool = False
    hugetlb: bool = False
    locked: bool = False
    fork: str = "copy"  # "wipe", "leave": what MADV_WIPEONFORK, MADV_DONTFORK say
    anon: bool | None = False
    # Where it was when it got its pages, if it was moved since: no neighbour is one with it.
    origin: Place | None = None
    bare: bool = False  # it perhaps had none when it was moved: then a neighbour may be one with it

    def copy(self, file: File | None) -> Vma:
        """Another one, of that file."""
        how = self.huge, self.hugetlb, self.locked, self.fork
        return Vma(self.rights, self.private, file, self.index, *how, self.anon, self.origin, self.bare)


class File:
    """The page cache of one file."""

    __slots__ = ("pages",)

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}


@dataclass(slots=True)
class Entry:
    """An entry of a device's page table; `page` None is the zero page. `maybe`: it may have been dropped."""

    page: Page | None
    write: bool | None
    exclusive: bool = False
    maybe: bool = False

    def copy(self, page: Page | None) -> Entry:
        """Another one, of that page."""
        return Entry(page, self.write, self.exclusive, self.maybe)


class Entries(dict[Place, Entry]):
    """A device's page table.

    `firm`: by huge page, where entries may be that are not `maybe`, and no others are. None until somebody asks.
    """

    __slots__ = ("firm",)

    def __init__(self) -> None:
        super().__init__()
        self.firm: dict[Block, set[Place]] | None = None

    def __setitem__(self, place: Place, entry: Entry) -> None:
        if self.firm is not None and not entry.maybe:
            self.firm.setdefault((place[0], place[1] // HUGE), set()).add(place)
        dict.__setitem__(self, place, entry)

    def loosen(self, block: Block, within: Mapping[Place, object]) -> None:
        """Those of a huge page may have been dropped, as far as they are `within`."""
        if self.firm is None:
            self.firm = {}
            for place, entry in self.items():
                if not entry.maybe:
                    self.firm.setdefault(block_of(place), set()).add(place)
        found = self.firm.pop(block, None)
        if not found:
            return
        for place in found:
            if place in self and place in within:
                self[place].maybe = True
        if not all(place in within for place in found):
            self.firm[block] = found.difference(within)


@dataclass(slots=True)
class Mirror:
    """A device as it mirrors one address space; `alive` until that is gone. `moved`: pages it migrated, in order."""

    entries: Entries = field(default_factory=Entries)
    alive: bool = True
    moved: dict[Page, None] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)  # what INJECT counts down

    def fails(self, what: str) -> bool:
        """Whether an injected failure comes to this one."""
        if what in self.failing:
            self.failing[what] -= 1
            if self.failing[what] == 0:
                del self.failing[what]
                return True
        return False


@dataclass(slots=True)
class Space:
    """An address space: what is mapped where, and what is there.

    `anon`: regions where each mapping is known to have an anonymous page, or perhaps to have one. `cuts`: where a
    mapping may begin that is like the one before it, since what had parted them is gone and each has an anon_vma of its
    own. `moved`: by origin, places that mappings were moved to from there.
    """

    vmas: dict[Place, Vma] = field(default_factory=dict)
    ptes: Ptes = field(default_factory=Ptes)
    pins: dict[Place, list[Page | None]] = field(default_factory=dict)
    anon: set[str] = field(default_factory=set)
    cuts: set[Place] = field(default_factory=set)
    moved: dict[Place, set[Place]] = field(default_factory=dict)

    def anonymous_near(self, region: str) -> bool:
        """Whether what comes to a region may become one mapping with a neighbour that has had anonymous pages."""
        return any(vma.anon is not False for (name, _), vma in self.vmas.items() if name == region)

    def cut(self, places: list[Place]) -> None:
        """A call was for these places alone."""
        region, last = places[-1]
        self.cuts |= {places[0], (region, last + 1)}

    def copied_moves(self) -> dict[Place, set[Place]]:
        """`moved`, for another address space."""
        return {origin: set(places) for origin, places in self.moved.items()}


def block_of(place: Place) -> Block:
    """The huge page that a place is in, or would be in."""
    return place[0], place[1] // HUGE


class State:
    """All of it. `spaces` by process, `mirrors` by device and process; threads are of the process `owner` says."""

    __slots__ = ("_mirrors_of", "mirrors", "moves", "owner", "racing", "spaces")

    def __init__(self) -> None:
        self.spaces: dict[str, Space] = {}
        self.mirrors: dict[tuple[str, str], Mirror] = {}
        self.owner: dict[str, str] = {}
        self.racing = False
        self.moves = False  # some mapping has an origin
        self._mirrors_of: dict[str, tuple[tuple[str, Mirror], ...]] = {}  # until one is opened or ends

    def users(self, page: Page) -> list[tuple[str, Place, Pte]]:
        """Every entry of a CPU page table that has the page."""
        found = []
        for process, space in self.spaces.items():
            for place in page.places:
                pte = space.ptes.get(place)
                if pte is not None and pte.page is page:
                    found.append((process, place, pte))
        return found

    def mirrors_of(self, process: str) -> tuple[tuple[str, Mirror], ...]:
        """The devices that mirror a process."""
        found = self._mirrors_of.get(process)
        if found is None:
            found = self._mirrors_of[process] = tuple(
                (device, mirror) for (device, of), mirror in self.mirrors.items() if of == process and mirror.alive
            )
        return found

    def open(self, key: tuple[str, str]) -> None:
        """A device mirrors a process from now on."""
        self.mirrors[key] = Mirror()
        self._mirrors_of.clear()

    def close(self, key: tuple[str, str]) -> Mirror | None:
        """It does not any more; the mirror that it was, if it did."""
        self._mirrors_of.clear()
        return self.mirrors.pop(key, None)

    def end(self, process: str) -> Space:
        """An address space is gone; what it was. Its mirrors stay, and have nothing any more."""
        for key, mirror in self.mirrors.items():
            if key[1] == process:
                mirror.alive = False
                mirror.entries.clear()
        self._mirrors_of.clear()
        return self.spaces.pop(process)

    def likeness(self) -> object:
        """What is equal and hashable for states that go on alike: of memory, not of what steps have set up."""
        numbers: dict[int, int] = {}
        pages: list[object] = []

        def number(page: Page | None) -> int:
            if page is None:
                return -1
            if id(page) not in numbers:
                numbers[id(page)] = len(numbers)
                pages.append((sorted(page.values), sorted(page.at), page.pins, page.cached, page.forked))
            return numbers[id(page)]

        tables = [
            (process, place, number(pte.page), pte.write, pte.exclusive, pte.maybe, space.vmas[place].anon)
            for process, space in self.spaces.items()
            for place, pte in sorted(space.ptes.items())
        ]
        entries = [
            (key, place, number(entry.page), entry.write, entry.exclusive, entry.maybe)
            for key, mirror in self.mirrors.items()
            for place, entry in sorted(mirror.entries.items())
        ]
        files = [
            (place, vma.index, sorted((index, number(page)) for index, page in vma.file.pages.items()))
            for space in self.spaces.values()
            for place, vma in space.vmas.items()
            if vma.file is not None
        ]
        moved = [sorted(map(number, mirror.moved)) for mirror in self.mirrors.values()]
        return repr((tables, entries, files, moved, pages))

    def pages(self) -> set[Page]:
        """Every page that somebody has."""
        found = {pte.page for space in self.spaces.values() for pte in space.ptes.values() if pte.page is not None}
        for space in self.spaces.values():
            for vma in space.vmas.values():
                if vma.file is not None:
                    found.update(vma.file.pages.values())
        return found

    def copy(self) -> State:
        """Another one that goes its own way."""
        pages: dict[int, Page] = {}
        files: dict[int, File] = {}

        def page(old: Page | None) -> Page | None:
            if old is None:
                return None
            if id(old) not in pages:
                new = pages[id(old)] = Page(old.values, old.at, file=old.file)
                new.pins, new.cached, new.forked, new.busy = old.pins, old.cached, old.forked, old.busy
                new.places = set(old.places)
            return pages[id(old)]

        def some(old: Iterable[Page]) -> list[Page]:
            return [new for new in map(page, old) if new is not None]

        def file(old: File | None) -> File | None:
            if old is None:
                return None
            if id(old) not in files:
                new = files[id(old)] = File()
                new.pages = dict(zip(old.pages, some(old.pages.values()), strict=True))
            return files[id(old)]

        twin = State()
        twin.owner = dict(self.owner)
        twin.racing, twin.moves = self.racing, self.moves
        for name, space in self.spaces.items():
            other = twin.spaces[name] = Space(
                {place: vma.copy(file(vma.file)) for place, vma in space.vmas.items()},
                pins={place: [page(one) for one in pinned] for place, pinned in space.pins.items()},
                anon=set(space.anon),
                cuts=set(space.cuts),
                moved=space.copied_moves(),
            )
            # Pages know their places already.
            dict.update(other.ptes, {place: pte.copy(page(pte.page)) for place, pte in space.ptes.items()})
            other.ptes.read_only = set(space.ptes.read_only)
        for key, mirror in self.mirrors.items():
            copied = twin.mirrors[key] = Mirror(
                alive=mirror.alive, moved=dict.fromkeys(some(mirror.moved)), failing=dict(mirror.failing)
            )
            entries = mirror.entries.items()
            dict.update(copied.entries, {place: entry.copy(page(entry.page)) for place, entry in entries})
        return twin


class _Anything(frozenset[int]):
    """Every number."""

    def __contains__(self, number: object) -> bool:
        return True


ANYTHING: Numbers = _Anything()
"""The values of a page that nobody can say: after a race of too many orders."""


def added(numbers: Numbers, amount: int) -> Numbers:
    """What each of them is with `amount` more, in 64 bits."""
    return numbers if numbers is ANYTHING else frozenset((number + amount) % (1 << 64) for number in numbers)
