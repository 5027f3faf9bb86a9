# SPDX-License-Identifier: GPL-2.0
"""How a step may end, as the model has it."""

from __future__ import annotations

from dataclasses import dataclass

from dmirror.model.state import Numbers


@dataclass(frozen=True)
class Allowed:
    """How a step may end: `failed` the errnos and signals, "" for none; `values` what each page may read as.

    `pages` None: any number. `page`: number in the span of the page whose access raises the signal.
    """

    failed: frozenset[str] = frozenset([""])
    values: tuple[Numbers, ...] | None = None
    pages: int | None = None

    def __str__(self) -> str:
        names = " or ".join(sorted(name or "success" for name in self.failed))
        if self.values is None:
            return names
        return f"{names}, {' '.join('|'.join(map(str, sorted(numbers))) for numbers in self.values)}"
