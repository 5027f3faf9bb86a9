# SPDX-License-Identifier: GPL-2.0
"""Which lines of the kernel were reached, where the kernel counts that (Documentation/dev-tools/gcov.rst)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from dmirror.errors import CannotRun

_COUNTS = Path("/sys/kernel/debug/gcov")
_FOLDER = "gcov"
_MEND = "install that of the compiler that built the kernel: it comes with gcc"

Counts = dict[str, dict[str, int]]
"""How often each line was reached, by file, relative to the tree, and number."""


def bring(folder: Path) -> None:
    """In a guest: put what it has counted since it booted into a folder of the host, if it counts."""
    for counts in _COUNTS.rglob("*.gcda"):
        # The names below debugfs are those of the build, from its root on.
        target = Path(folder, _FOLDER, "-".join(counts.relative_to(_COUNTS).parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".gcno").write_text(os.fspath(counts.with_suffix(".gcno").readlink()))
        # The host may be reading it.
        fresh = target.with_suffix(".new")
        fresh.write_bytes(counts.read_bytes())
        fresh.replace(target)


def summed(run: Path, source: Path) -> Counts:
    """On the host: what all guests of a run brought; only C files, since headers are compiled many times.

    Kernels are built with -O2: a function that ran can have count 0, inlined before the counters were placed.
    Raises CannotRun where gcov cannot read the counts.
    """
    total: Counts = defaultdict(lambda: defaultdict(int))
    for file in sorted(run.rglob(f"{_FOLDER}/*.gcda")):
        for name, lines in _read(file):
            path = Path(os.path.normpath(source / name))
            if path.suffix == ".c" and path.is_relative_to(source):
                for line in lines:
                    total[os.fspath(path.relative_to(source))][str(line["line_number"])] += line["count"]
    return total


def reached(lines: dict[str, int]) -> int:
    """How many lines of a file were."""
    return sum(count > 0 for count in lines.values())


def _read(counts: Path) -> list[tuple[str, list[dict[str, int]]]]:
    notes = Path(counts.with_suffix(".gcno").read_text())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(counts, Path(folder, notes.name).with_suffix(".gcda"))
        Path(folder, notes.name).symlink_to(notes)
        command = [_command(notes), "--json-format", "--stdout", os.fspath(Path(folder, notes.name))]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    # Of another release than the compiler it reads the counts all the same, and ends with 3.
    try:
        if ended.returncode not in (0, 3):
            raise ValueError
        return [(file["file"], file["lines"]) for file in json.loads(ended.stdout)["files"]]
    except (ValueError, KeyError):
        reason = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
        raise CannotRun(f"{command[0]} cannot read the counts of {notes}: {reason}", _MEND) from None


def _command(notes: Path) -> str:
    """The gcov of the compiler that wrote these notes, if it is there, or any. Raises CannotRun."""
    with notes.open("rb") as file:
        stamp = file.read(8)[:3:-1]  # such as B22*, of 12.2
    series = f"gcov-{10 * (stamp[0] - ord('A')) + stamp[1] - ord('0')}" if len(stamp) == 4 else "gcov"
    found = shutil.which(series) or shutil.which("gcov")
    if found is None:
        raise CannotRun(f"no {series} and no gcov found", _MEND)
    return found
