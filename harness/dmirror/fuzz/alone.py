# SPDX-License-Identifier: GPL-2.0
"""The model against itself: random scenarios, in which the model chooses what it leaves open, and judges that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from dmirror.fuzz import genes, trees
from dmirror.model import invariants, settle
from dmirror.model.judge import judge
from dmirror.model.rules import Rules, known
from dmirror.scenario.text import format

RELEASE = "7.3"
_APART = 1_000_003
_AT_ONCE = 250


@dataclass(frozen=True)
class Wrong:
    """A scenario, as text, that the model contradicts itself in."""

    number: int
    text: str
    why: str


def attempt(seed: int, number: int, release: str = RELEASE) -> Wrong | None:
    """One of them."""
    title = f"model alone, seed {seed}, scenario {number}"
    scenario = trees.scenario(genes.random(Random(seed * _APART + number)), Rules.of(known(release)), title)
    try:
        for machine, so_far in settle.play(scenario, release, Random(number)):
            record = so_far
            for text in invariants.broken(machine.state):
                return Wrong(number, format(scenario), text)
    except (settle.Contradiction, AssertionError) as contradiction:
        return Wrong(number, format(scenario), str(contradiction))
    problems = [problem for problem in judge(scenario, record) if problem.by != "file"]
    return Wrong(number, format(scenario), f"judged: {problems[0].text}") if problems else None


def attempts(seed: int, first: int, count: int) -> list[Wrong]:
    """Several of them."""
    return [wrong for number in range(first, first + count) if (wrong := attempt(seed, number)) is not None]


def found(seed: int, count: int) -> Iterator[Wrong]:
    """What is wrong in so many, on all processors."""
    firsts = range(0, count, _AT_ONCE)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for some in pool.map(attempts, [seed] * len(firsts), firsts, [min(_AT_ONCE, count - f) for f in firsts]):
            yield from some


def run(seed: int, count: int) -> int:
    """Print what is wrong; the exit status."""
    wrong = 0
    for one in found(seed, count):
        wrong += 1
        if wrong <= 5:
            print(f"{one.why}\n{one.text}", file=sys.stderr)
    print(f"{count} scenarios, seed {seed}: {wrong or 'no'} contradictions of the model")
    return int(wrong > 0)
