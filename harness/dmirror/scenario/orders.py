# SPDX-License-Identifier: GPL-2.0
"""What a step is made of: orders for agents and calls of devices, to be given one by one or many at once."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmirror.memory import HUGE_PAGES, MREMAP_FIXED, MREMAP_MAYMOVE, Span
from dmirror.scenario import tree, words
from dmirror.scenario.record import address
from dmirror.scenario.seen import Mirrored
from dmirror.uapi import lib

ByAgent = tree.Load | tree.Store | tree.Add | tree.Call
ByDevice = tree.DeviceRead | tree.DeviceWrite | tree.Peek | tree.Migrate | tree.Exclusive | tree.Snapshot

Order = tuple[int, ...]
"""AGENT_* and its arguments (uapi/agent.h)."""

Places = dict[str, Span]
"""Of whole regions."""

# asm/unistd_64.h
MPROTECT, MUNMAP, MADVISE = 10, 11, 28
_MREMAP, _MLOCK, _MUNLOCK, _EXIT_GROUP = 25, 149, 150, 231

REGISTER = (1 << 64) - 1
"""What one holds; -1 is that, too."""

SYSTEM_CALLS = ("unmaps", "protects", "moves", "advises", "collapses", "locks", "unlocks")
"""The verbs of tree.Call that are one system call, which an agent makes by itself."""

_STEP = struct.Struct("=IIII8Q")  # struct dm_step of uapi/play.h
_PADDING = [(0,) * (8 - given) for given in range(9)]  # behind so much of an order
_CALLS = {
    tree.DeviceRead: lib.STEP_READ,
    tree.DeviceWrite: lib.STEP_WRITE,
    tree.Peek: lib.STEP_PEEK,
    tree.Exclusive: lib.STEP_EXCLUSIVE,
    tree.Snapshot: lib.STEP_SNAPSHOT,
}
_MIGRATES = {"device": lib.STEP_TO_DEVICE, "system": lib.STEP_TO_SYSTEM}


class Packed(NamedTuple):
    """Steps in a row, as struct dm_step; who makes them: agents and mirrors; the most pages that a device does."""

    steps: bytes
    who: tuple[str | Mirrored, ...]
    pages: int


def places(regions: Sequence[tree.Region]) -> Places:
    """Where they are."""
    sizes = (region.count * (HUGE_PAGES if region.huge else 1) for region in regions)
    return {region.name: Span(address(n), size) for n, (region, size) in enumerate(zip(regions, sizes, strict=True))}


def within(places: Places, pages: tree.Pages) -> Span:
    """Where pages of a region are."""
    whole = places[pages.region]
    return whole if pages.stop is None and not pages.first else whole[pages.first : pages.stop]


def of_agent(step: ByAgent | tree.Leave, places: Places) -> list[Order]:
    """The orders that make the step, most are one."""
    if isinstance(step, tree.Leave):
        return [(lib.AGENT_CALL, _EXIT_GROUP, 0)]
    span = within(places, step.pages)
    if isinstance(step, tree.Load):
        return [(lib.AGENT_LOAD, span.addr, span.npages)]
    if isinstance(step, tree.Add):
        return [(lib.AGENT_ADD, span.addr, span.npages, step.amount & REGISTER, 0)]
    if isinstance(step, tree.Store):
        return stores(span, step.value)
    return [(lib.AGENT_CALL, *_system_call(step, span, places))]


def stores(span: Span, value: tree.Value) -> list[Order]:
    """The orders that store a value."""
    number = _one(value)
    if number is not None:
        return [(lib.AGENT_STORE, span.addr, span.npages, *number)]
    each = enumerate(value.of(span.npages))
    return [(lib.AGENT_STORE, span[page].addr, 1, number & REGISTER, 0) for page, number in each]


def _one(value: tree.Value) -> tuple[int, int] | None:
    """The number of the first page and what it grows by, where that is all."""
    if value.numbered or len(set(value.numbers)) == 1:
        return value.numbers[0] & REGISTER, int(value.numbered)
    return None


def _system_call(step: tree.Call, span: Span, places: Places) -> tuple[int, ...]:
    if step.verb == "moves":
        assert step.to is not None
        target = within(places, step.to)
        return _MREMAP, span.addr, span.bytes, target.bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target.addr
    if step.verb == "protects":
        assert step.rights is not None
        return MPROTECT, span.addr, span.bytes, words.RIGHTS[step.rights]
    if step.verb in ("advises", "collapses"):
        return MADVISE, span.addr, span.bytes, words.ADVICES[step.advice or "collapse"]
    number = {"unmaps": MUNMAP, "locks": _MLOCK, "unlocks": _MUNLOCK}[step.verb]
    return number, span.addr, span.bytes


def straight(item: tree.Item) -> bool:
    """Whether agents or devices make it by themselves, with nobody else to do anything meanwhile."""
    if not isinstance(item, tree.Step) or item.held is not None:
        return False
    if isinstance(item, tree.Call):
        return item.verb in SYSTEM_CALLS
    if isinstance(item, tree.DeviceWrite):
        return _one(item.value) is not None
    return isinstance(item, ByAgent | ByDevice)


def packed(steps: Iterable[tree.Item], places: Places) -> Packed:
    """Steps that are straight, each of them whole."""
    who: dict[str | Mirrored, int] = {}
    data, most = [], 0
    for step in steps:
        if isinstance(step, ByAgent):
            what = lib.STEP_CALL if isinstance(step, tree.Call) else lib.STEP_ACCESS
            number = who.setdefault(step.actor.name, len(who))
            orders = of_agent(step, places)
        else:
            assert isinstance(step, ByDevice)
            what = _MIGRATES[step.to] if isinstance(step, tree.Migrate) else _CALLS[type(step)]
            number = who.setdefault((step.device.name, step.device.process), len(who))
            span = within(places, step.pages)
            most = max(most, span.npages)
            value = _one(step.value) if isinstance(step, tree.DeviceWrite) else None
            orders = [(0, span.addr, span.npages, *(value or ()))]
        for left, order in zip(range(len(orders) - 1, -1, -1), orders, strict=True):
            data.append(_STEP.pack(what, number, bool(left), 0, *order, *_PADDING[len(order)]))
    return Packed(b"".join(data), tuple(who), most)
