# SPDX-License-Identifier: GPL-2.0
"""Which runs a report is of, and the report in a terminal: a line for each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.journal import NAME, Run, load
from dmirror.paths import cache
from dmirror.report.summary import OUTCOMES, duration, one_line, summaries

_HEAD = ("kernel", "flavour", "driver", *OUTCOMES, "time", "folder")
_NUMBERS = (*OUTCOMES, "time")


def chosen(folders: Iterable[Path]) -> list[Run]:
    """The records in these folders; of none, of each kernel, flavour and driver the last in the cache.

    Raises CannotRun where there is no record.
    """
    runs = [_given(folder) for folder in folders] or _last()
    if not runs:
        raise CannotRun(f"no run in {cache() / 'runs'} has a record", "make test leaves one")
    return runs


def _given(folder: Path) -> Run:
    try:
        return load(folder)
    except OSError as error:
        raise CannotRun(f"{folder} has no record of a run", f"name a folder with a {NAME}") from error


def _last() -> list[Run]:
    last: dict[tuple[str, str, str], Run] = {}
    for file in (cache() / "runs").glob(f"*/{NAME}"):
        try:
            run = load(file.parent)
        except OSError:  # forgotten meanwhile, or without a beginning yet
            continue
        subject = run.subject
        what = (subject.kernel, subject.flavour, subject.driver)
        if what not in last or last[what].started < run.started:
            last[what] = run
    return [last[what] for what in sorted(last, key=lambda what: (_version(what[0]), what))]


def _version(label: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", label)]


def text(runs: Iterable[Run]) -> str:
    """The table, and a line for each run that did not come to its end."""
    of = summaries(runs)
    rows = [list(_HEAD)]
    for one in of:
        subject = one.run.subject
        counts = [str(one.counts[outcome]) for outcome in OUTCOMES]
        rows.append(
            [subject.kernel, subject.flavour, subject.driver, *counts, duration(one.seconds), str(one.run.folder)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(_HEAD, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    lines += [f"{one_line(one.name)}: {one.cut_off}" for one in of if one.cut_off]
    lines += [f"{one_line(one.name)}: {why}: booted once more" for one in of for why in one.run.booted_again]
    return "\n".join(lines)
