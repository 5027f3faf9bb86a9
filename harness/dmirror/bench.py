# SPDX-License-Identifier: GPL-2.0
"""The benchmark, run in a guest without a driver: loads each in turn and times the same calls on both.

Drivers alternate from round to round, so that a drift of the machine hits both. After every round everything measured
so far is written as JSON to the file named, of which `dmirror.figures` makes bench.json and a table.
"""

from __future__ import annotations

import json
import mmap
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmirror import splats
from dmirror.memory import HUGE_PAGES, PAGE, Region, Span
from dmirror.mirror import Mirror
from dmirror.plugin import kmsg
from dmirror.uapi import lib

ROUNDS = 7
# Pages of a call, and how often it is repeated in a round: the median of many, where a timer tick is a large part.
REPEATS = {1: 21, 64: 11, 512: 5, 16384: 1}
Cells = dict[tuple[str, bool, int], dict[str, dict[str, list[Any]]]]
"""By operation, huge or not, and pages: for each driver the times, and why there is none."""

_BEFORE, _WRITTEN = 1, 2
_MEMCPY = "memcpy"  # the limit that the others stand beside


@dataclass(frozen=True)
class Operation:
    """What is timed, after what preparation, and what is so when it is done."""

    name: str
    prepare: str | None
    timed: str
    where: str = "ram"  # the pages are, as PageState.where has it
    gives: bool = False  # the data to the caller
    stores: bool = False  # the caller's data


# Always on memory that the CPU has filled and no device has seen: what both drivers do.
OPERATIONS = (
    Operation("MIGRATE_TO_DEV", None, "MIGRATE_TO_DEV", where="local", gives=True),
    Operation("MIGRATE_TO_SYS", "MIGRATE_TO_DEV", "MIGRATE_TO_SYS"),
    Operation("CPU fault", "MIGRATE_TO_DEV", "touch"),
    Operation("READ cold", None, "READ", gives=True),
    Operation("READ mapped", "READ", "READ", gives=True),
    Operation("WRITE cold", None, "WRITE", stores=True),
    Operation("WRITE mapped", "WRITE", "WRITE", stores=True),
    Operation("SNAPSHOT", None, "SNAPSHOT"),
    Operation(_MEMCPY, None, _MEMCPY, gives=True),
)


@contextmanager
def _memory(npages: int, *, huge: bool) -> Iterator[Span]:
    """Filled memory under as few page tables as can be, of huge pages or without any."""
    nhuge = -(-npages // HUGE_PAGES)
    with Region.huge(nhuge) if huge else Region.anonymous(npages, align=HUGE_PAGES * PAGE) as region:
        if not huge:
            region.advise(mmap.MADV_NOHUGEPAGE)
        yield region[:npages].fill(_BEFORE)


def _act(name: str, mirror: Mirror, span: Span, buffer: Span) -> None:
    if name == "touch":
        span.touch()
    elif name == _MEMCPY:
        lib.dm_copy(buffer.addr, span.addr, span.bytes)
    else:
        mirror.call(name, span.addr, span.npages, buffer.addr)


def _check(operation: Operation, mirror: Mirror, span: Span, buffer: Span) -> None:
    """Raise ValueError when it did not do what is timed."""
    places = [mirror.snapshot(span[end])[0].where for end in (0, -1)]
    if places != [operation.where] * 2:
        raise ValueError(f"the first and last page are at {places}, not {operation.where}")
    if operation.gives and not buffer.matches(_BEFORE):
        raise ValueError("it gave other data than the memory's")
    # Looking at pages that are on the device would bring them back.
    if operation.where == "ram" and not span.matches(_WRITTEN if operation.stores else _BEFORE):
        raise ValueError("the memory holds other data than it should")


def once(operation: Operation, mirror: Mirror, npages: int, buffer: Span, *, huge: bool) -> int:
    """Nanoseconds of one call on memory of its own, with `buffer` for the caller's data, which is as long.

    Raises OSError when a call failed, ValueError when it did something else than what is timed.
    """
    with _memory(npages, huge=huge) as span:
        if huge and any(mirror.snapshot(span[page])[0].order != "pmd" for page in range(0, npages, HUGE_PAGES)):
            raise ValueError("the kernel had no huge page to give")
        if operation.prepare:
            _act(operation.prepare, mirror, span, buffer)
        buffer.fill(_WRITTEN)
        _act(operation.timed, mirror, span, buffer)
        elapsed = int(lib.dm_elapsed())
        _check(operation, mirror, span, buffer)
        return elapsed


def _measure(operation: Operation, npages: int, buffer: Span, *, huge: bool) -> int:
    """The median of a round's repetitions. The file is closed when nothing is on the device any more."""
    with Mirror(0) as mirror:
        times = [once(operation, mirror, npages, buffer[:npages], huge=huge) for _ in range(REPEATS[npages])]
    return statistics.median_low(times)


def _turn(driver: str, buffer: Span, cells: Cells) -> None:
    """One round on one driver, which is loaded: adds a time, or a reason why there is none, to every cell."""
    for huge in (False, True):
        # The first migration of each kind may have the driver add memory. What is wrong with it the cells will say.
        with suppress(OSError, ValueError), Mirror(0) as mirror:
            once(OPERATIONS[0], mirror, HUGE_PAGES, buffer[:HUGE_PAGES], huge=huge)
    for operation in OPERATIONS:
        for huge in (False, True):
            for npages in REPEATS:
                cell = cells[operation.name, huge, npages].setdefault(driver, {"ns": [], "errors": []})
                try:
                    cell["ns"].append(_measure(operation, npages, buffer, huge=huge))
                except (OSError, ValueError) as error:
                    cell["errors"].append(str(error))


@contextmanager
def _loaded(module: Path) -> Iterator[None]:
    subprocess.run(["/bin/busybox", "insmod", module], check=True)
    try:
        yield
    finally:
        subprocess.run(["/bin/busybox", "rmmod", module.stem], check=True)


def _listed(cells: Cells) -> list[dict[str, Any]]:
    return [
        {"operation": name, "page_kib": (HUGE_PAGES if huge else 1) * PAGE // 1024, "pages": npages, "drivers": drivers}
        for (name, huge, npages), drivers in cells.items()
    ]


def main(argv: list[str]) -> None:
    """`argv` is the file to write, then the modules, each named as its driver."""
    target, *modules = map(Path, argv)
    cells: Cells = defaultdict(dict)
    complaints: dict[str, list[str]] = {module.stem: [] for module in modules}
    with kmsg.LogReader() as log, Region.anonymous(max(REPEATS) + 1, align=HUGE_PAGES * PAGE) as region:
        region.advise(mmap.MADV_NOHUGEPAGE)
        # A page off what it is copied to and from: QEMU's TLB is direct mapped, and would miss at every byte.
        buffer = Span(region.addr + PAGE, max(REPEATS))
        log.new()
        for number in range(1, ROUNDS + 1):
            for module in modules:
                print(f"round {number} of {ROUNDS}: {module.stem}", file=sys.stderr, flush=True)
                with _loaded(module):
                    _turn(module.stem, buffer, cells)
                complaints[module.stem] += [found.title for found in splats.complaints(log.new())]
            target.write_text(json.dumps({"rounds": number, "complaints": complaints, "cells": _listed(cells)}))


if __name__ == "__main__":
    main(sys.argv[1:])
