# SPDX-License-Identifier: GPL-2.0
"""The grammar as EBNF, from the rules that yacc has, and the words that it leaves open.

`python -m dmirror.scenario.ebnf` puts both into docs/scenarios.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dmirror.paths import ROOT
from dmirror.scenario import words
from dmirror.scenario.grammar import Grammar
from dmirror.scenario.lexer import KEYWORDS, PATTERNS, SIGNS
from dmirror.scenario.tree import MAIN

PAGE = ROOT / "docs" / "scenarios.md"

_WIDTH = 110


@dataclass(frozen=True)
class _Rule:
    name: str
    ways: list[list[str]]

    @property
    def optional(self) -> bool:
        return ["empty"] in self.ways


def ebnf() -> str:
    """One rule a line, or more where it is long; then what the names in capitals look like."""
    rules = _rules()
    # What only says that another rule may be left out is put where it is used, in brackets.
    inline = {
        rule.name: _choice([way for way in rule.ways if way != ["empty"]], {})
        for rule in rules
        if rule.optional and not any(rule.name in way for way in rule.ways)
    }
    said = [_line(rule, inline) for rule in rules if rule.name not in inline and rule.name != "empty"]
    said += ["", *(f"{name:<8} = /{pattern}/" for name, pattern in PATTERNS.items())]
    said.append('NEWLINE  = the end of a line, after "#" and whatever follows it')
    said.append("INDENT   = the lines that follow are indented deeper, DEDENT = as deep as before")
    return "\n".join(said) + "\n"


def _rules() -> list[_Rule]:
    """In the order of the file, without those that take in what is wrong."""
    rules: dict[str, _Rule] = {}
    for name, function in [item for kind in Grammar.__mro__ for item in vars(kind).items()]:
        if not name.startswith("p_") or name.startswith(("p_stray", "p_error")):
            continue
        head, _, body = function.__doc__.partition(":")
        ways = [[part for part in way.split() if part != "START"] for way in body.split("|")]
        rule = rules.setdefault(head.strip(), _Rule(head.strip(), []))
        rule.ways.extend(way or ["empty"] for way in ways)
    return list(rules.values())


def _line(rule: _Rule, inline: dict[str, str]) -> str:
    repeated = [way[1:] for way in rule.ways if way[0] == rule.name]
    once = [way for way in rule.ways if way[0] != rule.name and way != ["empty"]]
    if repeated and once in ([way] for way in repeated):
        body = f"{_choice(once, inline)}, {{ {_choice(repeated, inline)} }}"
    elif repeated:
        body = ", ".join([_choice(once, inline)] * bool(once) + [f"{{ {_choice(repeated, inline)} }}"])
    else:
        body = _choice(once, inline)
    head = f"{rule.name} = "
    if len(head + body) > _WIDTH:
        body = _choice(once, inline, f"\n{' ' * (len(rule.name) + 1)}| ") if not repeated else body
    return f"{head}{body} ;"


def _choice(ways: list[list[str]], inline: dict[str, str], between: str = " | ") -> str:
    return between.join(", ".join(_part(part, inline) for part in way) for way in ways)


def _part(part: str, inline: dict[str, str]) -> str:
    if part in inline:
        return f"[ {inline[part]} ]"
    if part in SIGNS:
        return f'"{SIGNS[part]}"'
    if part == MAIN:
        return f'"{MAIN}"'
    words = [f'"{word}"' for word, token in KEYWORDS.items() if token == part]
    return f"( {' | '.join(words)} )" if len(words) > 1 else words[0] if words else part


def vocabulary() -> str:
    """A table of the words that can stand for a NAME or CAPITALS."""
    known = {
        "resource, of `needs`": [word for word in words.NEEDS if word not in ("config", "capability")],
        "capability": words.CAPABILITIES,
        "advice": words.ADVICES,
        "where": words.PLACES,
        "allowed, of `rights`": words.ALLOWED,
        "event": words.EVENTS,
        "counter": words.COUNTERS,
    }
    rows = [f"| {name} | {', '.join(f'`{word}`' for word in listed)} |" for name, listed in known.items()]
    return "\n".join(["| rule | words |", "|---|---|", *rows]) + "\n"


def current(page: str) -> str:
    """The page with what is made between its markers made anew."""
    indented = "".join(f"    {line}".rstrip() + "\n" for line in ebnf().splitlines())
    for name, made in (("words", vocabulary()), ("grammar", indented)):
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page = marked.sub(lambda found, made=made: f"{found[1]}\n{made}\n{found[2]}", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text()))
