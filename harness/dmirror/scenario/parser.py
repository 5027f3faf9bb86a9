# SPDX-License-Identifier: GPL-2.0
"""From a scenario's text to its tree."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import ply  # type: ignore[import-untyped]
from ply import yacc

from dmirror.paths import cache
from dmirror.scenario import tree
from dmirror.scenario.faults import Fault, Faults
from dmirror.scenario.grammar import Grammar
from dmirror.scenario.lexer import Bad, Tokens
from dmirror.scenario.tree import At


def parse(text: str, name: str = "<scenario>") -> tree.Scenario:
    """The tree of a text. Raises Faults, with all that is wrong; `name` is that of the file, for what is said of it.

    Takes one text at a time.
    """
    given = Tokens(text)
    grammar = _grammar()
    grammar.begin(given)
    scenario = grammar.parser.parse(lexer=given, tracking=True)
    faults = _first_of_lines([*grammar.faults, *_misplaced(given.misplaced, {fault.line for fault in grammar.faults})])
    if faults:
        raise Faults(faults)
    assert isinstance(scenario, tree.Scenario), name
    return scenario


def _misplaced(found: list[tuple[int, At, Bad]], wrong: set[int]) -> list[Fault]:
    """Wrong indentation, unless it only follows from a line that is wrong."""
    return [Fault.at(at, bad.message, bad.suggestion) for hung_on, at, bad in found if hung_on not in wrong]


def _first_of_lines(faults: list[Fault]) -> list[Fault]:
    first: dict[int, Fault] = {}
    for fault in sorted(faults):
        first.setdefault(fault.line, fault)
    return list(first.values())


@functools.cache
def _grammar() -> Grammar:
    """With its tables. To make them takes a second, and many under emulation: they are kept in the cache."""
    grammar = Grammar()
    source = b"".join(Path(__file__).with_name(f"{part}.py").read_bytes() for part in ("grammar", "lexer"))
    digest = hashlib.sha256(source + ply.__version__.encode()).hexdigest()[:16]
    kept = cache() / "scenario" / f"grammar-{digest}.pickle"
    try:
        grammar.parser = _built(grammar, kept) if kept.exists() else None
    except (EOFError, ValueError, pickle.UnpicklingError):  # it was cut off
        grammar.parser = None
    if grammar.parser is None:
        fresh = kept.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a guest's root is read-only
            kept.parent.mkdir(parents=True, exist_ok=True)
        grammar.parser = _built(grammar, fresh)
        if fresh.exists():
            fresh.replace(kept)
    return grammar


def _built(grammar: Grammar, kept: Path) -> Any:
    return yacc.yacc(module=grammar, debug=False, picklefile=str(kept), errorlog=yacc.NullLogger())
