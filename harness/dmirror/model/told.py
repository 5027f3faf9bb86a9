# SPDX-License-Identifier: GPL-2.0
"""A scenario that went wrong, for people: its text with what was wrong at its lines, what was there, and the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmirror.model.judge import Problem
from dmirror.scenario import seen, tree
from dmirror.scenario.expectations import runs
from dmirror.scenario.record import Done, Entry, Record, Rounds
from dmirror.scenario.seen import Memory, Raw, decode

_BY = {"file": "", "model": "the model: ", "kernel": "it went no further: "}


def told(text: str, scenario: tree.Scenario, record: Record, problems: Sequence[Problem]) -> str:
    """All of it."""
    marks: dict[int, list[str]] = {}
    for problem in problems:
        line = problem.item.at.line if problem.item else 0
        marks.setdefault(line, []).append(_BY[problem.by] + problem.text)
    parts = [_marked(text.splitlines(), marks)]
    first = next((problem.item for problem in problems if problem.item is not None), None)
    raw = _seen_at(scenario.items, record.entries, first) or record.start
    parts += ["memory then:", *_memory(decode(raw)), "", "what the mirrors were told and did:", record.log]
    return "\n".join(parts)


def _marked(lines: list[str], marks: dict[int, list[str]]) -> str:
    shown = [f"before the first step: {text}" for text in marks.get(0, [])]
    for number, line in enumerate(lines, 1):
        wrong = number in marks
        shown.append(f"{'>' if wrong else ' '}{number:>4}  {line}".rstrip())
        shown += [f"{'E':<7}{text}" for text in marks.get(number, [])]
    return "\n".join([*shown, ""])


def _seen_at(items: Iterable[tree.Item], entries: Iterable[Entry], wanted: tree.Item | None) -> Raw | None:
    """What was to be seen after an item, or after the last one before it that was looked at."""
    last: Raw | None = None
    for item, entry in zip(items, entries, strict=False):
        if isinstance(entry, Done):
            inside = _seen_at(item.block, entry.block, wanted) if isinstance(item, tree.Step) else None
            last = entry.seen or inside or last
        elif isinstance(entry, Rounds) and entry.seen:
            last = entry.seen[-1]
        if item is wanted:
            return last
    return last


def _memory(memory: Memory) -> Iterable[str]:
    for process, regions in memory.items():
        for region, pages in regions.items():
            yield f"  {region} of {process}: {runs([page.place for page in pages])}"
            yield f"    rights {runs([page.rights for page in pages])}"
            for device in sorted({device for page in pages for device in page.entries}):
                words = [_entry(page.entries.get(device)) for page in pages]
                yield f"    {device} maps {runs(words)}"


def _entry(entry: seen.Entry | None) -> str:
    if entry is None:
        return "-"
    return "exclusive" if entry.exclusive else "rw" if entry.write else "r"
