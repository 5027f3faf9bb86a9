# SPDX-License-Identifier: GPL-2.0
"""A guest's console with file and line behind each symbol."""

from __future__ import annotations

import shlex
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import source_of
from dmirror.kernel.decode import annotate
from dmirror.kernel.dwarf import Symbols
from dmirror.vm import console, runs
from dmirror.vm.spec import DESCRIPTION, GuestSpec


def of(spec: GuestSpec) -> tuple[Symbols, dict[str, Symbols]]:
    """Of a guest's kernel, and of its modules by name. Raises CannotRun when the kernel's tree has gone."""
    build = spec.image.parents[3]
    source = source_of(build)
    modules = (Path(shlex.split(line)[0]) for line in spec.modules)
    # A module's name has no dashes where its file's may.
    by_name = {path.stem.replace("-", "_"): Symbols(path, source, build) for path in modules}
    return Symbols(build / "vmlinux", source), by_name


def log(folder: Path | None) -> list[str]:
    """The lines of the console of the guest of that folder, or of the last one. Raises CannotRun without one."""
    folder = folder or runs.newest(console.LOG)
    if folder is None:
        raise CannotRun("no guest has run yet", "boot one: make")
    if not (folder / console.LOG).exists():
        raise CannotRun(f"no {folder / console.LOG}", "name the folder of a guest, which has one")
    spec = GuestSpec.from_json((folder / DESCRIPTION).read_text())
    return annotate(console.read(folder / console.LOG).splitlines(), *of(spec))
