# SPDX-License-Identifier: GPL-2.0
"""What the rules of the grammar have in common."""

from __future__ import annotations

import errno
import signal
from collections.abc import Collection
from typing import Any

from dmirror.scenario.expected import Expected
from dmirror.scenario.faults import Fault, nearest
from dmirror.scenario.lexer import Tokens
from dmirror.scenario.tree import At

ERRNOS = frozenset(name for name in vars(errno) if name.startswith("E"))
SIGNALS = frozenset(number.name for number in signal.Signals)


class Rules(Expected):
    """`faults` are what was wrong with the text that was parsed last. One text at a time."""

    def begin(self, given: Tokens) -> None:
        self.given = given
        self.faults: list[Fault] = []
        self.said: set[tuple[str, int]] = set()
        self.stack: list[int] = []

    def _at(self, p: Any, first: int = 1, last: int = 0) -> At:
        """From the beginning of a symbol to the end of the last that stands in its line."""
        begin = p.slice[first]
        of_line = [symbol for symbol in p.slice[first : (last or len(p) - 1) + 1] if symbol.lineno == begin.lineno]
        end = max(getattr(symbol, "endlexpos", symbol.lexpos) for symbol in of_line)
        return At(begin.lineno, begin.lexpos, max(end - begin.lexpos, 1))

    def _wrong(self, at: At, message: str, suggestion: str = "") -> None:
        self.faults.append(Fault.at(at, message, suggestion))

    def _known(self, p: Any, what: str, known: Collection[str], such_as: str = "") -> str:
        """A word that the grammar leaves open, of a vocabulary; of a large one `such_as` is shown."""
        word = str(p[1])
        if word not in known:
            there = f", such as {such_as}" if such_as else f"; there are {', '.join(known)}"
            self._wrong(self._at(p), f"{word!r} is no {what}{there}", nearest(word, known))
        return word

    @staticmethod
    def _append(made: list[Any], more: Any) -> list[Any]:
        made.append(more)
        return made
