# SPDX-License-Identifier: GPL-2.0
"""A guest's console with file and line behind each symbol."""

from __future__ import annotations

import shlex
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import source_of
from dmirror.kernel.decode import annotate
from dmirror.kernel.dwarf import Symbols
from dmirror.paths import cache
from dmirror.vm import console
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
    file = folder / console.LOG if folder else _newest()
    if not file.exists():
        raise CannotRun(f"no {file}", "name the folder of a guest, which has a console.log")
    spec = GuestSpec.from_json((file.parent / DESCRIPTION).read_text())
    return annotate(console.read(file).splitlines(), *of(spec))


def _newest() -> Path:
    logs = list((cache() / "runs").glob(f"**/{console.LOG}"))
    if not logs:
        raise CannotRun("no guest has run yet", "boot one: make")
    return max(logs, key=lambda path: path.stat().st_mtime)
