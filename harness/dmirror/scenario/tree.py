# SPDX-License-Identifier: GPL-2.0
"""The syntax tree of a scenario: the parser makes it, the formatter prints it, the model and the runner carry it out.

Two trees are equal when they say the same, wherever it stands in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

MAIN = "CPU"
"""The process that a scenario begins with; every other one is forked."""

DEVICES = {"A": 0, "B": 1, "C": 2, "D": 3}
"""The devices by their numbers: A and B have private memory, C and D coherent memory."""


@dataclass(frozen=True)
class At:
    """Where something stands in a file, from 1, and how many characters it takes."""

    line: int
    column: int
    length: int = 1


NOWHERE = At(0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Node:
    at: At = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Comment:
    """`# text`, on a line of its own or behind something; `at` is the place of the hash."""

    text: str
    own_line: bool
    at: At


# What a scenario needs


@dataclass(frozen=True)
class NeedKernel(Node):
    """`needs kernel 7.2 or newer`, `needs kernel before 7.2`: releases from `low` up to, not including, `high`."""

    low: tuple[int, int] | None = None
    high: tuple[int, int] | None = None

    @property
    def comparison(self) -> str:
        """As running.release_matches() takes it: ">=6.12, <7.2"."""
        bounds = ((">=", self.low), ("<", self.high))
        return ", ".join(f"{sign}{bound[0]}.{bound[1]}" for sign, bound in bounds if bound)


@dataclass(frozen=True)
class Need(Node):
    """`needs swap`, `needs config CONFIG_KSM`, `needs capability device_thp`; `what` is one of words.NEEDS."""

    what: str
    value: str = ""


# Values, pages, actors


@dataclass(frozen=True)
class Value(Node):
    """The first word of each page: one number for all, or one each; `numbered`: the first, and one more each.

    `hexadecimal`: they are written so.
    """

    numbers: tuple[int, ...]
    numbered: bool = False
    hexadecimal: bool = field(default=False, compare=False, repr=False)

    def of(self, npages: int) -> tuple[int, ...]:
        """For each of so many pages. ValueError where as many numbers as pages are wanted and there are not."""
        if self.numbered:
            return tuple(self.numbers[0] + page for page in range(npages))
        if len(self.numbers) == 1:
            return self.numbers * npages
        if len(self.numbers) != npages:
            raise ValueError(f"{len(self.numbers)} numbers for {npages} pages")
        return self.numbers


@dataclass(frozen=True)
class Pages(Node):
    """`buf` (all of it, `stop` None), `buf[3]`, or `buf[2:6]`; in pages of the region, huge pages counted as theirs."""

    region: str
    first: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Actor(Node):
    """A process or a thread, by its name."""

    name: str


@dataclass(frozen=True)
class Device(Node):
    """`A`, or `A of kid`: the mirror that a device is of the address space of a process."""

    name: str
    process: str = MAIN


RegionKind = Literal["anonymous", "private file", "shared", "memfd", "hugetlb"]
Rights = Literal["read-write", "read-only", "none"]


@dataclass(frozen=True)
class Region(Node):
    """`region buf: anonymous 4 pages, read-only, written numbered from 1, shared with kid`.

    `huge` counts in huge pages, transparent ones of anonymous memory. `rights` are those of the mapping once it is
    populated: `written`, read by the CPU (`read`), or untouched. `shared_with`: it is populated before that process is
    forked, which happens before the first step.
    """

    name: str
    kind: RegionKind
    count: int
    huge: bool = False
    rights: Rights = "read-write"
    written: Value | None = None
    read: bool = False
    shared_with: str = ""


# How a step ends


@dataclass(frozen=True)
class Fails(Node):
    """`fails EFAULT`: the call ends with this errno, by name; of a CPU access `raises SIGSEGV`: with this signal."""

    name: str


Outcome = Value | Fails | None
"""What the file expects of a step: a value that is read, a failure, or nothing, which means no failure."""

Point = Literal[
    "at begin",
    "after setup",
    "after copy",
    "after pages",
    "before finalize",
    "before check",
    "before install",
    "when exclusive",
    "in invalidation",
]


@dataclass(frozen=True)
class Hold(Node):
    """`held after setup`: where it is held; `by`: the mirror whose driver holds it, None: the one that acts."""

    point: Point
    by: Device | None = None


@dataclass(frozen=True, kw_only=True)
class Step(Node):
    """`held` has steps of its own, `block`, which are done while it is held, until `ACTOR resumes`.

    `waits`: in such a block, it has to sleep until the hold is over, and ends after it. `resumes`: where that stands.
    """

    outcome: Outcome = None
    held: Hold | None = None
    block: tuple[Item, ...] = ()
    waits: bool = False
    resumes: At = field(default=NOWHERE, compare=False, repr=False)


# What the CPU does


@dataclass(frozen=True)
class Load(Step):
    """`CPU reads buf[0:4] == 7`."""

    actor: Actor
    pages: Pages


@dataclass(frozen=True)
class Store(Step):
    """`CPU writes buf[0] = 7`."""

    actor: Actor
    pages: Pages
    value: Value


@dataclass(frozen=True)
class Add(Step):
    """`CPU adds 1 to buf[0]`: one atomic instruction a page."""

    actor: Actor
    pages: Pages
    amount: int


@dataclass(frozen=True)
class Call(Step):
    """What a process does to its memory, by `verb`: one of words.CALLS. Each has at most one of the arguments.

    maps, unmaps, protects (`rights`), moves (`to`), advises (`advice`), locks, unlocks, pins, unpins, swaps out,
    collapses, splits, moves to a node (`number`).
    """

    actor: Actor
    verb: str
    pages: Pages
    rights: Rights | None = None
    to: Pages | None = None
    advice: str = ""
    number: int = 0


@dataclass(frozen=True)
class Limit(Step):
    """`CPU limits memory to 64 pages`, beyond what is charged now; `CPU lifts the memory limit` (`pages` None)."""

    actor: Actor
    pages: int | None


@dataclass(frozen=True)
class Fork(Step):
    """`CPU forks kid`."""

    actor: Actor
    child: Actor


@dataclass(frozen=True)
class Thread(Step):
    """`CPU starts thread t`."""

    actor: Actor
    thread: Actor


@dataclass(frozen=True)
class Leave(Step):
    """`kid exits`, `kid execs`; `how`: exits, execs, or `dies` of SIGKILL."""

    actor: Actor
    how: Literal["exits", "execs", "dies"]


# What a device does


@dataclass(frozen=True)
class DeviceRead(Step):
    """`A reads buf[0] == 7`."""

    device: Device
    pages: Pages


@dataclass(frozen=True)
class DeviceWrite(Step):
    """`A writes buf[0] = 7`."""

    device: Device
    pages: Pages
    value: Value


@dataclass(frozen=True)
class Peek(Step):
    """`A peeks buf[0] == 7`: by its page table alone, without a fault."""

    device: Device
    pages: Pages


@dataclass(frozen=True)
class Migrate(Step):
    """`A migrates buf to device`, `A migrates buf to system`."""

    device: Device
    pages: Pages
    to: Literal["device", "system"]


@dataclass(frozen=True)
class Exclusive(Step):
    """`A takes buf[0] exclusively`."""

    device: Device
    pages: Pages


@dataclass(frozen=True)
class Snapshot(Step):
    """`A snapshots buf`."""

    device: Device
    pages: Pages


@dataclass(frozen=True)
class Evict(Step):
    """`A evicts everything`: every page of the device, of whatever process, comes back, and its memory goes."""

    device: Device


@dataclass(frozen=True)
class Turn(Step):
    """`A closes`, `A opens`."""

    device: Device
    how: Literal["closes", "opens"]


@dataclass(frozen=True)
class Inject(Step):
    """`A fails its next device allocation`, `A fails its system allocation 3`, `A fails its next copy`."""

    device: Device
    what: Literal["device allocation", "system allocation", "copy"]
    nth: int = 1


# Several at once


@dataclass(frozen=True)
class Par(Node):
    """`par 20 times` and columns of steps, which run at once; the whole is done as often as `times` says."""

    columns: tuple[tuple[Item, ...], ...]
    times: int = 1
    columns_at: tuple[At, ...] = field(default=(), compare=False, repr=False)


# What is expected


Verdict = Literal["always", "never", "sometimes"]


@dataclass(frozen=True, kw_only=True)
class Expect(Node):
    """`verdict`: behind a `par`, of its repetitions: it is looked at after each; None anywhere else."""

    verdict: Verdict | None = None


@dataclass(frozen=True)
class Where(Expect):
    """`expect where buf == A x3 ram`: for each page a device's name or one of words.PLACES; one: for all pages.

    Where a process has them, as its mirrors see it. `each_at`: where the places stand.
    """

    pages: Pages
    places: tuple[str, ...]
    process: str = MAIN
    each_at: At = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Allowed(Expect):
    """`expect rights buf == rw r none`: what the page table of the CPU allows now, for each page or for all.

    `each_at`: where the rights stand.
    """

    pages: Pages
    rights: tuple[str, ...]
    process: str = MAIN
    each_at: At = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Maps(Expect):
    """`expect A maps buf[0:2]`, `expect A does not map buf[2]`: whether its page table has all, or none, of them."""

    device: Device
    pages: Pages
    mapped: bool


@dataclass(frozen=True)
class Saw(Expect):
    """`expect B saw MIGRATE from A over buf[0], obeyed, twice`: events of its log so far.

    `owner`: a device's name, or "" for any. `outcome`: "obeyed", "filtered", or "" for either. `times` None: at least
    once.
    """

    device: Device
    event: str
    owner: str = ""
    over: Pages | None = None
    outcome: str = ""
    times: int | None = None


@dataclass(frozen=True)
class Counts(Expect):
    """`expect A counted 4 pages_to_device`: how far a counter of the driver has gone since the scenario began."""

    device: Device
    counter: str
    number: int


@dataclass(frozen=True)
class Charged(Expect):
    """`expect 4 pages charged`: what memory control has charged since the scenario began."""

    pages: int


@dataclass(frozen=True)
class Forget(Node):
    """`forget events`: `saw` counts from here on."""


Item = Step | Par | Expect | Forget


@dataclass(frozen=True)
class Scenario(Node):
    title: str
    regions: tuple[Region, ...]
    items: tuple[Item, ...]
    contracts: tuple[str, ...] = ()
    needs: tuple[Need | NeedKernel, ...] = ()
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
    contract_at: At = field(default=NOWHERE, compare=False, repr=False)


def walk(items: tuple[Item, ...]) -> Iterator[Item]:
    """Every item, those of blocks and columns too, in the order of the file."""
    for item in items:
        yield item
        if isinstance(item, Step):
            yield from walk(item.block)
        elif isinstance(item, Par):
            for column in item.columns:
                yield from walk(column)


def mirrors(items: Iterable[Item]) -> list[tuple[str, str]]:
    """The mirrors that items speak of, by device and process, in the order of the devices."""
    found = set()
    for item in items:
        held = item.held.by if isinstance(item, Step) and item.held else None
        for device in (held, getattr(item, "device", None)):
            if isinstance(device, Device):
                found.add((device.name, device.process))
    return sorted(found)


def opened_at_fork(items: Sequence[Item], child: str) -> list[str]:
    """The devices that mirror a child from its fork on: all that mirror it ever, but for those that a step opens.

    `items`: all of the scenario's, by walk().
    """
    later = {
        item.device.name
        for item in items
        if isinstance(item, Turn) and item.how == "opens" and item.device.process == child
    }
    return [device for device, process in mirrors(items) if process == child and device not in later]
