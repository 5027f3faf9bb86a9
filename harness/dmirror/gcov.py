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

_COUNTS = Path("/sys/kernel/debug/gcov")
_FOLDER = "gcov"

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
    """On the host: what all guests of a run brought; only C files, since headers are compiled many times."""
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
        command = ["gcov", "--json-format", "--stdout", os.fspath(Path(folder, notes.name))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(file["file"], file["lines"]) for file in json.loads(said)["files"]]
