# SPDX-License-Identifier: GPL-2.0
"""The words, numbers and blocks of a scenario's text: what the grammar is about."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any

from ply import lex  # type: ignore[import-untyped]

from dmirror.scenario.faults import Fault, Faults, nearest
from dmirror.scenario.tree import DEVICES, MAIN, At, Comment

DEPTH = 20
"""Blocks in blocks, at most."""

INDENT = 4
"""Spaces that the formatter puts before a step of a block."""

_FIXED = """
    scenario contract needs kernel or newer before to config capability region
    anonymous private file shared memfd hugetlb pages huge written read once numbered from with none
    read-only read-write
    of reads writes adds peeks raises fails
    forks starts thread exits execs dies
    maps unmaps protects moves node advises locks unlocks pins unpins swaps out collapses splits
    limits memory lifts the limit
    migrates device system takes exclusively snapshots evicts everything closes opens its next allocation copy
    held waits resumes by at after before begin setup finalize check install when exclusive in invalidation
    par column times twice never always sometimes
    expect where rights does not map saw over obeyed filtered counted charged forget events
"""
KEYWORDS = {word: word.upper().replace("-", "_") for word in _FIXED.split()} | {"page": "PAGES", "time": "TIMES"}
"""The words of the grammar, and the token that each is. None of them can be a name."""

SIGNS = {"COLON": ":", "COMMA": ",", "LIST": ",", "OPEN": "[", "CLOSE": "]", "EQUALS": "=", "IS": "=="}
"""A comma before a digit is LIST: it goes on with numbers, not with the line."""

PATTERNS = {
    "NAME": r"[a-z][a-z0-9_]*",
    "CAPITALS": r"[A-Z][A-Z0-9_]*",
    "MIRROR": "|".join(DEVICES),
    "NUMBER": r"0x[0-9a-f]+|[0-9]+",
    "RELEASE": r"[0-9]+\.[0-9]+",
    "COUNT": r"x[0-9]+",
    "ID": r"[A-Z]+-[0-9]+",
    "STRING": r'"([^"\\]|\\["\\])*"',
}
"""What the tokens look like that stand for something else each time."""

# Of this module for ply: START is before everything, BAD is what is no token, NOTHING a block that is missing.
tokens = tuple(
    dict.fromkeys(
        (*KEYWORDS.values(), MAIN, *SIGNS, *PATTERNS, "NEWLINE", "INDENT", "DEDENT", "START", "BAD", "NOTHING")
    )
)

_QUOTES = "\u201c\u201d\u201e\u00ab\u00bb"
_LARGEST = 2**64 - 1

t_ignore = " "
t_COLON = ":"
t_OPEN = r"\["
t_CLOSE = r"\]"
t_EQUALS = "="
t_IS = "=="


@dataclass(frozen=True, slots=True)
class Bad:
    """What is wrong with a token that is none."""

    message: str
    suggestion: str = ""


class Hexadecimal(int):
    """A number that is written so."""


def _bad(t: Any, message: str, suggestion: str = "") -> Any:
    t.type, t.value = "BAD", Bad(message, suggestion)
    return t


def t_COMMENT(t: Any) -> None:
    r"\#.*"
    t.lexer.comment = (t.lexpos, t.value[1:].strip())


def t_STRING(t: Any) -> Any:
    r'"([^"\\]|\\.)*"?'
    text = t.value
    if not re.fullmatch(r'"([^"\\]|\\.)*"', text):
        return _bad(t, 'the string has no end: its second " is missing')
    if "\\" in re.sub(r'\\["\\]', "", text):
        return _bad(t, r'in a string \ stands before " and \ only')
    if not text.isprintable():
        return _bad(t, "a string has printable characters only")
    t.value = re.sub(r"\\(.)", r"\1", text[1:-1])
    return t


def t_LIST(t: Any) -> Any:
    r",(?=\ *[0-9])"
    return t


def t_COMMA(t: Any) -> Any:
    r","
    return t


def t_ID(t: Any) -> Any:
    r"[A-Z]+-[0-9]+(?![A-Za-z0-9_])"
    return t


def t_NUMBER(t: Any) -> Any:
    r"[0-9][A-Za-z0-9_]*(\.[A-Za-z0-9_.]*)?"
    text = t.value
    if re.fullmatch(PATTERNS["RELEASE"], text) and len(text) < 10:
        t.type = "RELEASE"
        major, minor = text.split(".")
        t.value = (int(major), int(minor))
    elif "." in text:
        return _bad(t, "this is neither a number nor a kernel's series such as 6.12")
    elif not re.fullmatch(PATTERNS["NUMBER"], text.lower()):
        return _bad(t, "this is no number: 12, or 0xab")
    elif len(text) > 20 or (number := _number(text.lower())) > _LARGEST:
        return _bad(t, "a number has 64 bits at most")
    else:
        t.value = number
    return t


def _number(text: str) -> int:
    return Hexadecimal(text, 16) if text.startswith("0x") else int(text)


def t_WORD(t: Any) -> Any:
    r"[A-Za-z_][A-Za-z0-9_]*(-[a-z]+)*"
    text = t.value
    if text in KEYWORDS:
        t.type = KEYWORDS[text]
    elif text == MAIN:
        t.type = MAIN
    elif re.fullmatch(PATTERNS["COUNT"], text):
        t.type = "COUNT"
        if len(text) > 6:
            return _bad(t, "so many pages no region has")
        t.value = int(text[1:])
    else:
        for kind in ("MIRROR", "NAME", "CAPITALS"):
            if re.fullmatch(PATTERNS[kind], text):
                t.type = kind
                return t
        lower = text.lower()
        known = lower if re.fullmatch(PATTERNS["NAME"], lower) else lower.replace("-", "_").strip("_")
        return _bad(t, "this is no word of the language, and names are lower case", nearest(text, KEYWORDS) or known)
    return t


def t_error(t: Any) -> Any:
    letter = t.value[0]
    t.lexer.skip(1)
    t.value = letter
    if letter == "\t":
        return _bad(t, "a tab, where there are spaces only", " " * INDENT)
    if letter in _QUOTES:
        return _bad(t, 'a title stands in quotation marks like these: "', '"')
    if letter == "-":
        return _bad(t, "a minus: numbers are 0 or more, and only words of the language have a hyphen")
    shown = f"{letter!r}" if letter.isprintable() else f"U+{ord(letter):04X}"
    return _bad(t, f"{shown} means nothing here")


@functools.cache
def _lexer() -> Any:
    return lex.lex(module=__import__(__name__, fromlist=["tokens"]), reflags=0)


def _of_line(line: str, number: int, comments: list[Comment]) -> list[Any]:
    """The tokens of one line, with `lexpos` and `endlexpos` as columns from 1."""
    lexer = _lexer()
    lexer.comment = None
    lexer.input(line)
    found = []
    while (token := lexer.token()) is not None:
        token.lineno = number
        token.endlexpos = lexer.lexpos + 1
        token.lexpos += 1
        found.append(token)
    if lexer.comment is not None:
        place, text = lexer.comment
        comments.append(Comment(text, not found, At(number, place + 1, len(line) - place)))
    return found


def _made(kind: str, number: int, column: int, value: Any = "") -> Any:
    token = lex.LexToken()
    token.type, token.value, token.lineno, token.lexpos, token.endlexpos = kind, value, number, column, column + 1
    token.after_broken = False
    return token


@dataclass
class Tokens:
    """The tokens of a text, with NEWLINE, INDENT and DEDENT, as ply's parser takes them.

    A line that is indented deeper opens a block where the line before can have one: that is held, a par or a column.
    Otherwise, and where the block is missing, the fault is in `misplaced`, by the line that it hangs on, and the lines
    count as if they were not indented: `after_broken` is then true of their tokens, and of those of the line after.
    Raises Faults where blocks go too deep.
    """

    text: str
    name: str
    comments: list[Comment] = field(default_factory=list)
    misplaced: list[tuple[int, At, Bad]] = field(default_factory=list)
    all: list[Any] = field(default_factory=list)
    lineno: int = 0
    lexpos: int = 0

    def __post_init__(self) -> None:
        self.all.append(_made("START", 1, 1))
        levels = [(0, True)]  # width, and whether it is a block
        opener: Any = None  # the last token of a line that has to have a block
        last = 0
        for number, full in enumerate(self.text.split("\n"), 1):
            line = full.removesuffix("\r")
            bare = line.lstrip(" \t")
            blank = line[: len(line) - len(bare)]
            found = _of_line(" " * len(blank) + bare, number, self.comments)
            if not found:
                continue
            width = len(blank.expandtabs(INDENT))
            after_broken = self._place(levels, width, opener, found[0], last)
            if "\t" in blank:
                said = Bad("a tab, where there are spaces only", " " * INDENT)
                found.insert(0, _made("BAD", number, blank.index("\t") + 1, said))
            for token in found:
                token.after_broken = after_broken or not all(real for _, real in levels[-2:])
            kinds = [token.type for token in found]
            opener = found[-1] if kinds[0] in ("PAR", "COLUMN") or "HELD" in kinds else None
            last = number
            self.all += [*found, _made("NEWLINE", number, found[-1].endlexpos)]
        end = _made("NEWLINE", last, self.all[-1].lexpos)
        self._place(levels, 0, opener, end, last)
        self._next = iter(self.all)
        self._again: list[Any] = []

    def _place(self, levels: list[tuple[int, bool]], width: int, opener: Any, first: Any, last: int) -> bool:
        """Go to that indentation. Whether the lines before it hang on a broken one."""
        here = At(first.lineno, first.lexpos, first.endlexpos - first.lexpos)
        if width > levels[-1][0]:
            real = opener is not None
            if real and sum(block for _, block in levels) > DEPTH:
                raise Faults([Fault.at(here, f"blocks stand in blocks {DEPTH} deep at most")], self.name)
            if real:
                self.all.append(_made("INDENT", first.lineno, first.lexpos))
            elif all(block for _, block in levels):
                what = "indented, but no block begins here: the line before is neither held, nor a par, nor a column"
                self.misplaced.append((last, here, Bad(what)))
            levels.append((width, real))
            return False
        if opener is not None:
            place = At(opener.lineno, opener.endlexpos)
            self.misplaced.append((last, place, Bad("the block of this line is missing: indent what is in it")))
            for kind in ("INDENT", "NOTHING", "DEDENT"):
                self.all.append(_made(kind, opener.lineno, opener.endlexpos))
        left_broken = False
        while width < levels[-1][0]:
            if width > levels[-2][0]:
                known = " or ".join(str(level) for level, _ in levels)
                said = Bad(f"indented by {width} spaces: the lines that this could stand under are by {known}")
                self.misplaced.append((0, here, said))
                levels[-1] = (width, levels[-1][1])  # the lines after it are likely to stand under it
                break
            _, real = levels.pop()
            left_broken = not real
            if real:
                self.all.append(_made("DEDENT", first.lineno, first.lexpos))
        return left_broken

    @functools.cached_property
    def lines(self) -> list[str]:
        """The text's."""
        return self.text.split("\n")

    @functools.cached_property
    def of_line(self) -> dict[int, list[Any]]:
        """The tokens by the number of their line."""
        found: dict[int, list[Any]] = {}
        for token in self.all:
            found.setdefault(token.lineno, []).append(token)
        return found

    def token(self) -> Any:
        """The next one, None at the end."""
        return self._again.pop() if self._again else next(self._next, None)

    def again(self, token: Any) -> None:
        """Give a token once more."""
        self._again.append(token)
