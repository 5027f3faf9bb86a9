# SPDX-License-Identifier: GPL-2.0
"""From a scenario's text to its tree."""

from __future__ import annotations

import functools

from ply import yacc  # type: ignore[import-untyped]

from dmirror.scenario import tree
from dmirror.scenario.faults import Fault, Faults
from dmirror.scenario.grammar import Grammar
from dmirror.scenario.lexer import Bad, Tokens
from dmirror.scenario.tree import At


def parse(text: str, name: str = "<scenario>") -> tree.Scenario:
    """The tree of a text. Raises Faults, with all that is wrong; `name` is that of the file, for what is said of it.

    Takes one text at a time.
    """
    given = Tokens(text, name)
    grammar = _grammar()
    grammar.begin(given)
    scenario = grammar.parser.parse(lexer=given, tokenfunc=grammar.next, tracking=True)
    faults = _first_of_lines([*grammar.faults, *_misplaced(given.misplaced, {fault.line for fault in grammar.faults})])
    if faults:
        raise Faults(faults, name)
    assert isinstance(scenario, tree.Scenario)
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
    """With its tables: to make them takes less than the imports do, so that they are not kept anywhere."""
    grammar = Grammar()
    grammar.parser = yacc.yacc(module=grammar, debug=False, write_tables=False, errorlog=yacc.NullLogger())
    # A line that could not be read is over with its NEWLINE, whatever comes then: yacc would look at that first, and
    # say nothing of it where it is wrong too.
    for state, actions in grammar.parser.action.items():
        (rule, *others) = set(actions.values())
        if not others and rule < 0 and grammar.parser.productions[-rule].name == "broken_line":
            grammar.parser.defaulted_states[state] = rule
    return grammar
