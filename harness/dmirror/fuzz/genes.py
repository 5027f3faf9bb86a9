# SPDX-License-Identifier: GPL-2.0
"""What a random scenario is drawn as: small numbers that mean something wherever they stand.

One can be left out and the others still make a valid scenario, so hypothesis shrinks them well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random
from typing import TypeVar

from hypothesis import strategies

from dmirror.fuzz import weights

Integer = Callable[[int, int], int]
"""Draws a number from the first to the second, both included."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegionGene:
    kind: str
    pages: int
    beginning: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Gene:
    """A step. Whoever makes one of it takes `actor`, `first` and so on modulo what there is."""

    kind: str
    actor: int
    device: str
    region: int
    first: int
    pages: int
    value: int
    choice: int
    inner: tuple[tuple[Gene, ...], ...] = ()


_NOTHING = Gene("nothing", 0, "A", 0, 0, 1, 0, 0)

Genes = tuple[tuple[RegionGene, ...], tuple[Gene, ...]]


def _of(integer: Integer, table: Mapping[T, int]) -> T:
    words = list(chain.from_iterable(repeat(word, weight) for word, weight in table.items()))
    return words[integer(0, len(words) - 1)]


def _region(integer: Integer) -> RegionGene:
    kind = _of(integer, weights.REGIONS)
    pages = integer(2, weights.MOST_PAGES)
    return RegionGene(kind, pages, _of(integer, weights.BEGINNINGS), integer(0, 15) == 15)


def _gene(integer: Integer, table: Mapping[str, int]) -> Gene:
    kind = _of(integer, table)
    if kind == "nothing":
        return _NOTHING
    inner: tuple[tuple[Gene, ...], ...] = ()
    if kind == "held":
        inner = (tuple(_gene(integer, weights.HELD) for _ in range(integer(1, 2))),)
    elif kind == "par":
        inner = tuple(tuple(_gene(integer, weights.RACING) for _ in range(integer(1, 2))) for _ in range(2))
    most = weights.MOST_PAGES
    return Gene(
        kind,
        integer(0, 2),
        _of(integer, weights.DEVICES),
        integer(0, 1),
        integer(0, most - 1),
        integer(1, most),
        integer(0, 15),
        integer(0, 11),
        inner,
    )


def random(source: Random) -> Genes:
    """One scenario, of a generator."""
    integer = source.randint
    regions = tuple(_region(integer) for _ in range(integer(1, 2)))
    count = integer(weights.LEAST_STEPS, weights.MOST_STEPS)
    return regions, tuple(_gene(integer, weights.STEPS) for _ in range(count))


_AT_ONCE = 8  # numbers: those of a gene


def _drawn(draw: strategies.DrawFn) -> Integer:
    """By hypothesis, which takes as long for one number as for some bytes. They shrink one by one."""
    left: list[int] = []

    def integer(low: int, high: int) -> int:
        if not left:
            data = draw(strategies.binary(min_size=2 * _AT_ONCE, max_size=2 * _AT_ONCE))
            left.extend(reversed(struct.unpack(f">{_AT_ONCE}H", data)))
        return low + left.pop() % (high - low + 1)

    return integer


@strategies.composite
def _region_strategy(draw: strategies.DrawFn) -> RegionGene:
    return _region(_drawn(draw))


@strategies.composite
def _gene_strategy(draw: strategies.DrawFn) -> Gene:
    return _gene(_drawn(draw), weights.STEPS)


def strategy() -> strategies.SearchStrategy[Genes]:
    """One scenario, by hypothesis."""
    regions = strategies.lists(_region_strategy(), min_size=1, max_size=2).map(tuple)
    steps = strategies.lists(_gene_strategy(), min_size=weights.LEAST_STEPS, max_size=weights.MOST_STEPS).map(tuple)
    return strategies.tuples(regions, steps)
