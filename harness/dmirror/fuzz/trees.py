# SPDX-License-Identifier: GPL-2.0
"""From genes to a scenario, valid by construction: the model goes along, and what makes no sense is left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from dmirror.fuzz import weights
from dmirror.fuzz.genes import Gene, Genes, RegionGene
from dmirror.model import faults, held, races
from dmirror.model.faults import Refused
from dmirror.model.machine import Machine
from dmirror.model.rules import Rules
from dmirror.model.state import RAM, Pte, Space
from dmirror.scenario import tree

_REGIONS = ("buf", "two")
_CHILDREN = ("kid", "boy")
_ADVICES = tuple(advice for advice, weight in weights.ADVICES.items() for _ in range(weight))
_RIGHTS = tuple(rights for rights, weight in weights.RIGHTS.items() for _ in range(weight))
_POINTS = tuple(point for point, weight in weights.POINTS.items() for _ in range(weight))


def scenario(genes: Genes, rules: Rules, title: str = "fuzz") -> tree.Scenario:
    """The scenario of these genes, as a kernel of these rules would let it go on."""
    regions = tuple(_region(gene, name) for gene, name in zip(genes[0], _REGIONS, strict=False))
    return _Builder(title, regions, rules).build(genes[1])


def _region(gene: RegionGene, name: str) -> tree.Region:
    kind: tree.RegionKind = gene.kind  # type: ignore[assignment]
    return tree.Region(
        name,
        kind,
        gene.pages,
        rights="read-only" if gene.read_only else "read-write",
        written=tree.Value((256,), numbered=True) if gene.beginning == "written" else None,
        read=gene.beginning == "read",
    )


# One object for what is the same: a scenario goes to its guest as a pickle, which has each object once.
_actor = functools.cache(tree.Actor)
_device = functools.cache(tree.Device)
_span = functools.cache(tree.Pages)


class _Builder:
    def __init__(self, title: str, regions: tuple[tree.Region, ...], rules: Rules) -> None:
        self._title = title
        self._regions = regions
        # The model opens the mirrors that a scenario speaks of: here, all that it may come to speak of.
        whole = tree.Pages(regions[0].name)
        everybody = tuple(
            tree.Snapshot(_device(device, process), whole)
            for device in weights.DEVICES
            for process in (tree.MAIN, *_CHILDREN)
        )
        self._machine = Machine(tree.Scenario(title, regions, everybody), rules)
        self._closed: set[tree.Device] = set()
        self._items: list[tree.Item] = []
        self._last: tree.Step | None = None
        self._children = 0
        self._cut = any(region.rights != "read-write" for region in regions)

    def build(self, genes: Sequence[Gene]) -> tree.Scenario:
        for gene in genes:
            try:
                item = self._item(gene)
            except AssertionError:
                # Here nobody settles what the model leaves open, so it may not fit together; where the model is wrong,
                # whoever judges the scenario comes to the same.
                self._items += [self._last] if self._last is not None else []
                break
            if item is not None:
                self._items.append(item)
        return tree.Scenario(self._title, self._regions, tuple(self._items))

    def _item(self, gene: Gene) -> tree.Item | None:
        """What to do, done in the model; None where it makes no sense."""
        self._last = None
        if gene.kind == "nothing":
            return None
        if gene.kind == "held":
            return self._held(gene)
        if gene.kind == "par":
            return self._par(gene)
        step = self._last = self._step(gene)
        if step is not None:
            self._machine.do(step)
            self._cut |= isinstance(step, tree.Call) and step.verb != "advises"
        return step

    # What a gene speaks of

    @property
    def _spaces(self) -> dict[str, Space]:
        return self._machine.state.spaces

    def _actor(self, gene: Gene) -> tree.Actor:
        alive = [name for name in (tree.MAIN, *_CHILDREN) if name in self._spaces]
        return _actor(alive[gene.actor % len(alive)])

    def _device(self, gene: Gene) -> tree.Device | None:
        device = _device(gene.device, self._actor(gene).name)
        return None if device in self._closed else device

    def _pages(self, gene: Gene, most: int = weights.MOST_PAGES) -> tree.Pages:
        region = self._regions[gene.region % len(self._regions)]
        first = gene.first % region.count
        stop = min(first + min(gene.pages, most), region.count)
        return _span(region.name, first, None if (first, stop) == (0, region.count) else stop)

    def _value(self, gene: Gene) -> tree.Value:
        return tree.Value((gene.value + 1,), numbered=gene.choice % 2 == 1)

    def _pte(self, process: str, place: tuple[str, int]) -> Pte | None:
        return self._spaces[process].ptes.get(place)

    # Steps

    def _step(self, gene: Gene) -> tree.Step | None:
        if gene.kind in _CPU:
            return _CPU[gene.kind](self, gene)
        device = self._device(gene)
        return _DEVICE[gene.kind](self, gene, device) if device is not None else None

    def _load(self, gene: Gene) -> tree.Step | None:
        return tree.Load(self._actor(gene), self._pages(gene))

    def _store(self, gene: Gene) -> tree.Step | None:
        return tree.Store(self._actor(gene), self._pages(gene), self._value(gene))

    def _add(self, gene: Gene) -> tree.Step | None:
        return tree.Add(self._actor(gene), self._pages(gene), gene.value + 1)

    def _fork(self, gene: Gene) -> tree.Step | None:
        # A pipe that holds a page is inherited, and would go on holding it.
        if self._children == weights.MOST_CHILDREN or any(space.pins for space in self._spaces.values()):
            return None
        child = _actor(_CHILDREN[self._children])
        self._children += 1
        return tree.Fork(self._actor(gene), child)

    def _exit(self, gene: Gene) -> tree.Step | None:
        children = [name for name in _CHILDREN if name in self._spaces]
        if not children:
            return None
        return tree.Leave(_actor(children[gene.actor % len(children)]), "dies" if gene.choice % 2 else "exits")

    def _call(self, gene: Gene, verb: str) -> tree.Call:
        return tree.Call(self._actor(gene), verb, self._pages(gene))

    def _protect(self, gene: Gene) -> tree.Step | None:
        rights = _RIGHTS[gene.value % len(_RIGHTS)]
        return tree.Call(self._actor(gene), "protects", self._pages(gene), rights=rights)

    def _advise(self, gene: Gene) -> tree.Step | None:
        advice = _ADVICES[gene.value % len(_ADVICES)]
        return tree.Call(self._actor(gene), "advises", self._pages(gene), advice=advice)

    def _unmap(self, gene: Gene) -> tree.Step | None:
        return self._call(gene, "unmaps")

    def _map(self, gene: Gene) -> tree.Step | None:
        actor = self._actor(gene)
        vmas = self._spaces[actor.name].vmas
        free = [(one.name, page) for one in self._regions for page in range(one.count) if (one.name, page) not in vmas]
        if not free:
            return None
        region, first = free[gene.first % len(free)]
        stop = first + 1
        while stop < first + gene.pages and (region, stop) in free:
            stop += 1
        return tree.Call(actor, "maps", _span(region, first, stop))

    def _move(self, gene: Gene) -> tree.Step | None:
        # Elsewhere several mappings in one call are refused, and no model knows what the kernel made one of.
        whole = self._machine.rules.moves_several or not self._cut
        actor, source = self._actor(gene), self._pages(gene, 4 if whole else 1)
        places, vmas = self._machine.places(source), self._spaces[actor.name].vmas
        # The pages of a file keep their number in it, which is not that of the region any more.
        if any(place not in vmas or vmas[place].file is not None for place in places):
            return None
        region = self._regions[gene.choice % len(self._regions)]
        first, stop = gene.value % region.count, gene.value % region.count + len(places)
        within = region.name == source.region and first < places[-1][1] + 1 and stop > places[0][1]
        if stop > region.count or within:
            return None
        return tree.Call(actor, "moves", source, to=_span(region.name, first, stop))

    def _lock(self, gene: Gene) -> tree.Step | None:
        return self._call(gene, "locks")

    def _unlock(self, gene: Gene) -> tree.Step | None:
        return self._call(gene, "unlocks")

    def _pin(self, gene: Gene) -> tree.Step | None:
        actor, pages = self._actor(gene), self._pages(gene, 1)
        pinned = sum(len(found) for space in self._spaces.values() for found in space.pins.values())
        return tree.Call(actor, "pins", pages) if pinned < weights.MOST_PINS else None

    def _unpin(self, gene: Gene) -> tree.Step | None:
        actor = self._actor(gene)
        pins = sorted(self._spaces[actor.name].pins)
        if not pins:
            return None
        region, number = pins[gene.first % len(pins)]
        return tree.Call(actor, "unpins", _span(region, number, number + 1))

    def _device_read(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.DeviceRead(device, self._pages(gene))

    def _device_write(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.DeviceWrite(device, self._pages(gene), self._value(gene))

    def _peek(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Peek(device, self._pages(gene))

    def _snapshot(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Snapshot(device, self._pages(gene))

    def _to_device(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Migrate(device, self._pages(gene), "device")

    def _to_system(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Migrate(device, self._pages(gene), "system")

    def _exclusive(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Exclusive(device, self._pages(gene))

    def _evict(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        return tree.Evict(device)

    def _close(self, gene: Gene, device: tree.Device) -> tree.Step | None:
        self._closed.add(device)
        return tree.Turn(device, "closes")

    def _open(self, gene: Gene) -> tree.Step | None:
        # Of another process it would say that the device was not open from the fork on.
        closed = sorted(device.name for device in self._closed if device.process == tree.MAIN)
        if not closed:
            return None
        device = _device(closed[0])
        self._closed.discard(device)
        return tree.Turn(device, "opens")

    # Held

    def _held(self, gene: Gene) -> tree.Step | None:
        """A migration, and meanwhile what does not wait for it."""
        device = self._device(gene)
        if device is None:
            return None
        # The driver migrates each mapping by itself, and is held in the first.
        pages = self._pages(gene, 1 if self._cut else weights.MOST_PAGES)
        if not any(self._surely_moves(device, place) for place in self._machine.places(pages)):
            return None
        step = tree.Migrate(device, pages, "device", held=tree.Hold(_POINTS[gene.value % len(_POINTS)]))
        try:
            end = held.begin(self._machine, step)
        except Refused:
            return None
        block: list[tree.Step] = []
        for inner in gene.inner[0]:
            item = self._meanwhile(inner, step)
            if item is not None:
                self._machine.do(item)
                block.append(item)
        if not block:
            block.append(tree.Call(_actor(device.process), "advises", pages, advice="dontneed"))
            self._machine.do(block[0])
        end()
        return tree.Migrate(device, pages, "device", held=step.held, block=tuple(block))

    def _surely_moves(self, device: tree.Device, place: tuple[str, int]) -> bool:
        space = self._spaces[device.process]
        vma, pte = space.vmas.get(place), space.ptes.get(place)
        if vma is None or vma.rights == "none" or vma.file is not None:
            return False
        if pte is None:
            return True
        return (
            not pte.maybe
            and pte.page is not None
            and pte.page.at == RAM
            and faults.may_migrate(self._machine.state, space, place)
        )

    def _meanwhile(self, gene: Gene, step: tree.Migrate) -> tree.Step | None:  # noqa: PLR0911
        """By the same process, of pages that nobody has to wait for: holes that are filled, or the other region."""
        actor = _actor(step.device.process)
        pages = self._pages(gene)
        if gene.kind == "advise":
            return tree.Call(actor, "advises", pages, advice="dontneed")
        device = _device("B" if step.device.name == "A" else "A", actor.name)
        if gene.kind == "peek":
            return tree.Peek(device, pages) if device not in self._closed else None
        free = self._free(actor.name, step, holes=gene.choice % 3 > 0)
        if not free:
            return None
        region, number = free[gene.first % len(free)]
        pages = _span(region, number, number + 1)
        match gene.kind:
            case "load":
                return tree.Load(actor, pages)
            case "store":
                return tree.Store(actor, pages, self._value(gene))
            case "add":
                return tree.Add(actor, pages, gene.value + 1)
        return tree.DeviceRead(device, pages) if device not in self._closed else None

    def _free(self, process: str, step: tree.Migrate, *, holes: bool) -> list[tuple[str, int]]:
        """Places that a migration that is held keeps nobody from; `holes`: those in its range, if there are some."""
        ptes, within = self._spaces[process].ptes, self._machine.places(step.pages)
        inside = [place for place in within if (pte := ptes.get(place)) is None or pte.page is None]
        outside = [
            (region.name, number)
            for region in self._regions
            for number in range(region.count)
            if (region.name, number) not in within
        ]
        if holes and inside:
            return inside
        return inside + [place for place in outside if (pte := ptes.get(place)) is None or not pte.moving]

    # Columns

    def _par(self, gene: Gene) -> tree.Item | None:
        columns = []
        for inner in gene.inner:
            steps = []
            for one in inner:
                small = Gene(one.kind, gene.actor, one.device, gene.region, one.first, min(one.pages, 2), one.value, 0)
                step = self._step(small)
                if step is not None:
                    steps.append(step)
            columns.append(tuple(steps))
        if not all(columns):
            return None
        par = tree.Par(tuple(columns), times=2)
        for _ in range(par.times):
            split = races.parts(self._machine, par)
            races.run(self._machine, [part for column in split for part in column])
        return par


_CPU: dict[str, Callable[[_Builder, Gene], tree.Step | None]] = {
    "load": _Builder._load,
    "store": _Builder._store,
    "add": _Builder._add,
    "fork": _Builder._fork,
    "exit": _Builder._exit,
    "protect": _Builder._protect,
    "advise": _Builder._advise,
    "unmap": _Builder._unmap,
    "map": _Builder._map,
    "move": _Builder._move,
    "lock": _Builder._lock,
    "unlock": _Builder._unlock,
    "pin": _Builder._pin,
    "unpin": _Builder._unpin,
    "open": _Builder._open,
}
_DEVICE: dict[str, Callable[[_Builder, Gene, tree.Device], tree.Step | None]] = {
    "device read": _Builder._device_read,
    "device write": _Builder._device_write,
    "peek": _Builder._peek,
    "snapshot": _Builder._snapshot,
    "to device": _Builder._to_device,
    "to system": _Builder._to_system,
    "exclusive": _Builder._exclusive,
    "evict": _Builder._evict,
    "close": _Builder._close,
}
