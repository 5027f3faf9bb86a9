# SPDX-License-Identifier: GPL-2.0
"""States of memory that scenarios come to, without what is only particular: frames and values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from dmirror.scenario import tree
from dmirror.scenario.record import Done, Record
from dmirror.scenario.seen import Memory, Page, decode


def of(scenario: tree.Scenario, record: Record) -> tuple[set[int], set[int]]:
    """Hashes of all states that were seen, and of all transitions of a single page: from what, by what, to what."""
    states: set[int] = set()
    changes: set[int] = set()
    before = decode(record.start)
    for item, entry in zip(scenario.items, record.entries, strict=False):
        if not isinstance(entry, Done) or entry.seen is None:
            continue
        after = decode(entry.seen)
        states.add(_hash(tuple(_state(after))))
        how = type(item).__name__ + getattr(item, "verb", "") + (item.to if isinstance(item, tree.Migrate) else "")
        changes.update(_hash((how, *change)) for change in _changes(before, after))
        before = after
    return states, changes


def _hash(shape: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(shape).encode(), digest_size=8).digest())


def _page(page: Page) -> tuple[object, ...]:
    entries = tuple(sorted((device, entry.write, entry.exclusive) for device, entry in page.entries.items()))
    return page.place, page.rights, entries


def _state(memory: Memory) -> Iterator[object]:
    frames: dict[int, int] = {}
    for process, regions in memory.items():
        for region, pages in regions.items():
            for page in pages:
                yield process, region, _page(page), frames.setdefault(page.frame, len(frames)) if page.frame else None


def _changes(before: Memory, after: Memory) -> Iterator[tuple[object, object]]:
    for process, regions in after.items():
        for region, pages in regions.items():
            old = before.get(process, {}).get(region)
            for number, page in enumerate(pages):
                was = _page(old[number]) if old else None
                if was != _page(page):
                    yield was, _page(page)
