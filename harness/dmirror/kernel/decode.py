# SPDX-License-Identifier: GPL-2.0
"""Puts file:line and the source lines below the lines of a kernel log that name code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dmirror.kernel.dwarf import Symbols

# As %pS and %pB print it; the kernel marks what merely lies on a stack with a question mark.
_SYMBOL = re.compile(
    r"(?P<guess>\? )?\b(?P<function>[A-Za-z_][\w.]*)\+0x(?P<offset>[0-9a-f]{1,8})\b(?:/0x(?P<size>[0-9a-f]{1,8})\b)?"
    r"(?: \[(?P<module>\w+)(?: [0-9a-f]+)?\])?"
)
_EXACT = re.compile(r"\b(?:RIP|WARNING|pc ?):")  # before the address of an instruction; any other one is returned to


def annotate(lines: list[str], kernel: Symbols, modules: dict[str, Symbols]) -> list[str]:
    """The lines of a complaint, and below each that names code where that is, the innermost inlined function first.

    `modules` by name as the kernel prints it. What is not known stays as it is; why not is said once.
    """
    done = []
    said = set()
    for line in lines:
        done.append(line)
        for match in _SYMBOL.finditer(line):
            symbols = modules.get(match["module"]) if match["module"] else kernel
            if symbols is None:
                continue
            done += _below(match, symbols, returns=not _EXACT.search(line, 0, match.start()))
            if symbols.trouble and symbols.trouble not in said:
                said.add(symbols.trouble)
                done.append(f"    ({symbols.trouble})")
    return done


def _below(match: re.Match[str], symbols: Symbols, *, returns: bool) -> Iterator[str]:
    size = int(match["size"], 16) if match["size"] else None
    places = symbols.places(match["function"], int(match["offset"], 16), size, returns=returns)
    for place in places:
        inlined = " (inlined)" if place is not places[-1] else ""
        yield f"    {match['guess'] or ''}{place.file}:{place.line}  in {place.function}{inlined}"
        if code := symbols.code(place):
            yield f"      {place.line}: {code}"
