# SPDX-License-Identifier: GPL-2.0
"""What is written about the language: every example is one, every word is there, the grammar is the parser's."""

import json
import re
import textwrap
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from ply import yacc

from dmirror.counters import Counters
from dmirror.mirror import CAPABILITIES
from dmirror.model.predict import Prediction
from dmirror.paths import ROOT
from dmirror.scenario import ebnf, words
from dmirror.scenario.check import check
from dmirror.scenario.faults import Faults
from dmirror.scenario.grammar import Grammar
from dmirror.scenario.lexer import KEYWORDS
from dmirror.scenario.parser import parse
from dmirror.scenario.text import format

TEXT = ebnf.PAGE.read_text()
PROSE, _, GRAMMAR = TEXT.partition("## The grammar")
EXAMPLES = [
    textwrap.dedent(block) for block in re.findall(r'(?:^    scenario ".*\n)(?:^(?:    .*)?\n)+', PROSE, re.MULTILINE)
]
LINES = re.findall(r"^\| `([^`…]+)` \| ", PROSE, re.MULTILINE)
LINES = [line for line in LINES if re.match(r"(?:contract|needs|region|expect|forget|CPU|kid|[A-D]) ", line)]
HIGHLIGHTS = json.loads((ROOT / "docs" / "scenarios.tmLanguage.json").read_text())["repository"]


def test_the_page_is_what_the_grammar_says():
    """It is made by python -m dmirror.scenario.ebnf."""
    assert ebnf.current(TEXT) == TEXT
    assert ebnf.ebnf().count(";\n") > 40


def test_the_grammar_is_unambiguous():
    """yacc warns of what it has to choose between; only BAD stands in no rule."""
    said = []
    log = SimpleNamespace(**dict.fromkeys(["info", "warning", "error"], lambda text, *parts: said.append(text % parts)))
    yacc.yacc(module=Grammar(), debug=False, write_tables=False, errorlog=log)
    assert said == ["Token 'BAD' defined, but not used", "There is 1 unused token"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split('"')[1])
def test_an_example_is_a_scenario(example):
    scenario = parse(example)
    assert check(scenario) == ()
    assert parse(format(scenario)) == scenario


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_table_is_one_of_the_language(line):
    block = "\n    CPU reads buf\nCPU resumes" if ", held " in line else ""
    parse(f'scenario "x"\n{line}{block}\n')


def test_the_examples_are_there():
    assert len(EXAMPLES) == 5 and len(LINES) > 45


def test_the_fault_on_the_page_is_what_is_said():
    wrong = EXAMPLES[0].replace("to device", "to devise", 1)
    with pytest.raises(Faults) as raised:
        parse(wrong)
    assert textwrap.indent(raised.value.render(wrong, "first.dms"), "    ") in TEXT


def test_the_prediction_on_the_page_is_what_is_printed():
    assert textwrap.indent("\n".join(Prediction(parse(EXAMPLES[0]), "7.3").lines[1:]), "    ") in TEXT


def test_the_page_has_every_word():
    said = set(re.findall(r"[a-z]+(?:-[a-z]+)*", " ".join(re.findall(r"`[^`]*`|^    .*$", PROSE, re.MULTILINE))))
    assert set(KEYWORDS) - said == {"time"}


def highlighted(word):
    """The name of the first pattern that takes all of it."""
    for name, rule in HIGHLIGHTS.items():
        if (found := re.match(rule.get("match", "(?!)"), word)) and found.end() == len(word):
            return name
    return None


def test_every_word_has_its_colour():
    kinds = ("declaration", "region", "flow", "expectation", "verb")
    assert [word for word in KEYWORDS if highlighted(word) not in kinds] == []
    open_words = {*words.ADVICES, *words.PLACES, *words.ALLOWED, *words.COUNTERS, *words.CAPABILITIES}
    open_words |= {part for need in words.NEEDS for part in need.split()}
    assert [word for word in open_words if highlighted(word) not in (*kinds, "vocabulary")] == []
    assert {word: highlighted(word) for word in ("CPU", "A", "MIGRATE", "Z-02", "0xab", "6.12", "x3", "buf")} == {
        **{"CPU": "actor", "A": "actor", "MIGRATE": "name-of-the-kernel", "Z-02": "contract", "buf": None},
        **{"0xab": "number", "6.12": "number", "x3": "number"},
    }


def test_no_colour_is_for_a_word_that_is_none():
    known = {*KEYWORDS, *words.ADVICES, *words.PLACES, *words.ALLOWED, *words.COUNTERS, *words.CAPABILITIES}
    known |= {part for need in words.NEEDS for part in need.split()}
    for name in ("declaration", "region", "flow", "expectation", "verb", "vocabulary"):
        listed = re.search(r"\(\?:(.*?)\)", HIGHLIGHTS[name]["match"])[1].split("|")
        assert set(listed) - known == set()


def test_the_words_are_those_of_the_driver():
    numbers = {name for name, kind in get_type_hints(Counters).items() if kind is int}
    assert set(words.COUNTERS) - {"dev_pages_allocated", "dev_pages_freed"} == numbers
    assert hasattr(Counters, "dev_pages_allocated") and hasattr(Counters, "dev_pages_freed")
    assert set(words.CAPABILITIES) == set(CAPABILITIES)
