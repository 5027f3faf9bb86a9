# SPDX-License-Identifier: GPL-2.0
"""What is wrong with a scenario's text, said with the place and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from dmirror.scenario.tree import At


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One of them. `line` and `column` count from 1; `suggestion` is a word that may be meant, or ""."""

    line: int
    column: int
    length: int
    message: str
    suggestion: str = ""

    @classmethod
    def at(cls, at: At, message: str, suggestion: str = "") -> Fault:
        return cls(at.line, at.column, at.length, message, suggestion)


class Faults(Exception):
    """The text is no scenario: all that is wrong with it, by line. `name` is that of its file."""

    def __init__(self, faults: Iterable[Fault], name: str = "<scenario>") -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(f"{name}:{fault.line}:{fault.column}: {fault.message}" for fault in self.faults))

    def render(self, text: str, name: str) -> str:
        """For each its place, its line, a caret under it, and the word that may be meant."""
        lines = text.split("\n")
        return "\n".join(_rendered(fault, lines, name) for fault in self.faults)


def _rendered(fault: Fault, lines: list[str], name: str) -> str:
    source = lines[fault.line - 1] if 0 < fault.line <= len(lines) else ""
    # One character for each, so that the caret stands under its place.
    shown = "".join(letter if letter.isprintable() else " " if letter in "\t\r" else "\ufffd" for letter in source)
    first = max(fault.column - 61, 0)  # a caret that is far to the right would not be seen
    room = max(fault.length, 1) if fault.column > len(source) else min(fault.length, len(source) - fault.column + 1)
    caret = " " * (fault.column - 1 - first) + "^" + "~" * (min(room, 100) - 1)
    said = [f"{name}:{fault.line}:{fault.column}: {fault.message}"]
    said += [f"    {shown[first : first + 160].rstrip()}", f"    {caret}"]
    if fault.suggestion:
        said.append(f"    did you mean {fault.suggestion!r}?")
    return "\n".join(said)


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of these that `word` may be a misspelling of, or ""."""
    known = {known.lower(): known for known in words}
    # A long "word" is no misspelling, and comparing it takes its time.
    close = get_close_matches(word.lower(), known, n=1, cutoff=0.6) if len(word) <= 40 else []
    return known[close[0]] if close else ""


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
