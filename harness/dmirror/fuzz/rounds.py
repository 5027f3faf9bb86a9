# SPDX-License-Identifier: GPL-2.0
"""Rounds of random scenarios: the seed and a round's number say which, and shrinking takes one up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.internal.conjecture import providers

from dmirror.fuzz import genes, trees
from dmirror.fuzz.genes import Genes
from dmirror.model.rules import Rules
from dmirror.scenario import tree

TREES = 40
"""Scenarios of a round."""

# Hypothesis mixes in constants of whatever modules happen to be loaded, so a seed would not say what is drawn.
providers.HypothesisProvider._maybe_draw_constant = lambda *_, **__: None  # type: ignore[method-assign]

_APART = 1_000_003  # between the first rounds of two seeds


class _Fails(Exception):
    pass


def drawn(seed: int, number: int) -> list[Genes]:
    """All of a round."""
    found: list[Genes] = []
    _run(seed, number, found.append, (Phase.generate,))
    return found


def titled(seed: int, number: int, index: int) -> str:
    """The title of a scenario, by which it can be made again."""
    return f"seed {seed}, round {number}, scenario {index}"


def scenarios(
    drawn: list[Genes], seed: int, number: int, rules: Rules
) -> Iterator[tuple[int, tuple[Genes, tree.Scenario]]]:
    """A round's genes and the scenarios that they make on a kernel, with their places in it.

    Those of no steps are left out, and are many: hypothesis likes what is simplest.
    """
    for index, one in enumerate(drawn):
        scenario = trees.scenario(one, rules, titled(seed, number, index))
        if scenario.items:
            yield index, (one, scenario)


def shrunk(seed: int, number: int, wanted: Genes, fails: Callable[[Genes], bool]) -> Genes:
    """The least that still fails of what failed in a round."""
    least, met = wanted, False

    def attempt(one: Genes) -> None:
        nonlocal least, met
        # Until then all went well, so the same ones are drawn again.
        if not met and one != wanted:
            return
        if not met or fails(one):
            met, least = True, one
            raise _Fails

    with suppress(_Fails, hypothesis.errors.HypothesisException):
        _run(seed, number, attempt, (Phase.generate, Phase.shrink))
    return least


def _run(seed: int, number: int, body: Callable[[Genes], object], phases: tuple[Phase, ...]) -> None:
    @hypothesis.seed(seed * _APART + number)
    @hypothesis.settings(
        max_examples=TREES,
        phases=phases,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(genes.strategy())
    def each(one: Genes) -> None:
        body(one)

    each()
