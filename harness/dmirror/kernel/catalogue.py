# SPDX-License-Identifier: GPL-2.0
"""The kernels that KERNEL= knows, read from qemu/kernels.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.paths import QEMU


@dataclass(frozen=True)
class KnownKernel:
    """One stable series and where its source package is looked for."""

    series: str
    package: str
    suites: tuple[str, ...]
    candidate: bool = False  # release candidates count as well


@dataclass(frozen=True)
class Catalogue:
    """All known kernels, in the order of the file."""

    default: str
    kernels: tuple[KnownKernel, ...]

    def series(self) -> tuple[str, ...]:
        return tuple(known.series for known in self.kernels)

    def find(self, series: str | None) -> KnownKernel:
        """The kernel of that series, or the default one. Raises CannotRun naming the known ones."""
        wanted = series or self.default
        for known in self.kernels:
            if known.series == wanted:
                return known
        raise CannotRun(
            f"KERNEL={wanted} is not a known kernel",
            f"known are {', '.join(self.series())}; KDIR=<a kernel tree> builds any other",
        )


def load(path: Path = QEMU / "kernels.toml") -> Catalogue:
    """Read the catalogue. Raises CannotRun when the file is not what it should be."""
    try:
        content = tomllib.loads(path.read_text())
        kernels = tuple(
            KnownKernel(
                series=series,
                package=entry["package"],
                suites=tuple(entry["suites"]),
                candidate=entry.get("candidate", False),
            )
            for series, entry in content["kernel"].items()
        )
        catalogue = Catalogue(default=content["default"], kernels=kernels)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise CannotRun(f"{path}: {error!r}", "each kernel needs a package and its suites") from error
    catalogue.find(catalogue.default)
    return catalogue
