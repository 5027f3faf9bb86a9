# SPDX-License-Identifier: GPL-2.0
"""What a benchmark measured, as figures and as a table: medians over rounds, with the smallest and the largest."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dmirror.errors import CannotRun

OURS, TREES = "dmirror", "test_hmm"
_LIMIT = "memcpy"  # the operation that is no driver's
_PAGE = 4096
# Columns of text: what the table needs at least, and what it can use.
_NARROWEST, _WIDEST = 92, 140


def report(measured: Path, target: Path, *, kernel: str, flavour: str, accelerator: str) -> None:
    """Print the table of what dmirror.bench left in `measured`, and write its figures to `target`.

    Raises CannotRun when `target` cannot be written.
    """
    figures = {"kernel": kernel, "flavour": flavour, "accelerator": accelerator}
    figures |= summary(json.loads(measured.read_text()))
    console = Console()
    console.width = max(console.width, _NARROWEST) if console.is_terminal else _WIDEST
    show(figures, console)
    try:
        target.write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as error:
        raise CannotRun(f"{target} cannot be written: {error.strerror}", f"the times are in {measured}") from error
    _say(console, f"also in {target}")


def summary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of bench.json, from what dmirror.bench wrote.

    A cell is one operation on so many `pages` of 4 KiB in memory of `page_kib`. For each driver it has the `ns` of
    every round, `gb_per_s` (10^9 bytes) and `us_per_page`, and `errors` that cost a round; beside them `ratio`, ours to
    the tree's in throughput, and `memcpy_gb_per_s` of the same bytes. What could not be measured is null.
    """
    limits = {
        _memory(cell): _gb_per_s(cell["pages"], [ns for driver in cell["drivers"].values() for ns in driver["ns"]])
        for cell in raw["cells"]
        if cell["operation"] == _LIMIT
    }
    cells = [_figures(cell, limits.get(_memory(cell))) for cell in raw["cells"] if cell["operation"] != _LIMIT]
    return {**raw, "cells": cells}


def _memory(cell: Mapping[str, Any]) -> tuple[int, int]:
    return cell["page_kib"], cell["pages"]


def _figures(cell: Mapping[str, Any], limit: dict[str, float] | None) -> dict[str, Any]:
    drivers = {}
    for name in (OURS, TREES):
        # A driver that the first round did not come to, because the guest died.
        measured = cell["drivers"].get(name, {"ns": [], "errors": ["not measured"]})
        times = measured["ns"]
        per_page = statistics.median(times) / cell["pages"] / 1000 if times else None
        drivers[name] = {**measured, "gb_per_s": _gb_per_s(cell["pages"], times), "us_per_page": per_page}
    ours, trees = (drivers[name]["gb_per_s"] for name in (OURS, TREES))
    ratio = ours["median"] / trees["median"] if ours and trees else None
    return {**cell, "drivers": drivers, "ratio": ratio, "memcpy_gb_per_s": limit and limit["median"]}


def _gb_per_s(pages: int, times: Sequence[int]) -> dict[str, float] | None:
    if not times:
        return None
    nbytes = pages * _PAGE
    return {
        "median": nbytes / statistics.median(times),
        "min": nbytes / max(times),
        "max": nbytes / min(times),
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print a summary, with a note on everything that could not be measured or that the kernel complained of."""
    notes: list[str] = []
    title = f"Linux {figures['kernel']} {figures['flavour']} under {figures['accelerator']}, {figures['rounds']} rounds"
    table = Table(box=box.SIMPLE_HEAD, title=title, collapse_padding=True)
    table.add_column("operation", no_wrap=True)
    for heading in ("memory", "pages", f"{OURS} GB/s", "µs/page", f"{TREES} GB/s", "µs/page", "memcpy GB/s", "ratio"):
        # What a narrow terminal breaks is the spread.
        wraps = "GB/s" in heading
        table.add_column(heading, justify="right", no_wrap=not wraps, min_width=8 if wraps else None)
    before = None
    for cell in figures["cells"]:
        if before not in (None, cell["operation"]):
            table.add_section()
        before = cell["operation"]
        memory = f"{cell['page_kib']} KiB" if cell["page_kib"] < 1024 else f"{cell['page_kib'] // 1024} MiB"
        drivers = [text for name in (OURS, TREES) for text in _driver(name, cell["drivers"][name], notes)]
        table.add_row(
            before, memory, str(cell["pages"]), *drivers, *map(_number, (cell["memcpy_gb_per_s"], cell["ratio"]))
        )
    console.print(table)
    for driver, complaints in figures["complaints"].items():
        notes += [f"the kernel complained with {driver} loaded: {title}" for title in dict.fromkeys(complaints)]
    for number, note in enumerate(notes, 1):
        _say(console, f"({number}) {note}")
    _say(console, f"GB/s: median of the rounds (smallest to largest). ratio: {OURS} to {TREES}, above 1 is faster.")


def _driver(name: str, measured: Mapping[str, Any], notes: list[str]) -> tuple[str, str]:
    """GB/s and µs a page, as the table has them; adds a note where a round failed."""
    speed, errors, mark = measured["gb_per_s"], measured["errors"], ""
    if errors:
        notes.append(f"{name}: {errors[0]}" + (f", in {len(errors)} rounds" if speed else ""))
        mark = f" ({len(notes)})"
    if not speed:
        return f"-{mark}", "-"
    decimals = _decimals(speed["median"])
    median, slowest, fastest = (f"{speed[name]:.{decimals}f}" for name in ("median", "min", "max"))
    return f"{median} ({slowest} to {fastest}){mark}", _number(measured["us_per_page"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """For three digits that count."""
    return max(0, 2 - math.floor(math.log10(value)))


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
