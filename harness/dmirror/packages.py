# SPDX-License-Identifier: GPL-2.0
"""How a missing package is installed here: the distribution's own command, with the names that it has for packages."""

from __future__ import annotations

import shutil

from dmirror.paths import ROOT

_TABLE = ROOT / "scripts" / "packages.txt"

# In the order of the table's columns.
_COMMANDS = {
    "apt-get": "apt-get install --no-install-recommends",
    "dnf": "dnf install --setopt=install_weak_deps=False",
    "pacman": "pacman -S --needed",
    "zypper": "zypper install --no-recommends",
}


def install(*packages: str) -> str:
    """The command that installs packages, which are given by their names in Debian."""
    manager = next(filter(shutil.which, _COMMANDS), "apt-get")
    column = list(_COMMANDS).index(manager)
    rows = (line.split() for line in _TABLE.read_text().splitlines() if not line.startswith("#"))
    names = {row[0]: row[column] for row in rows}
    return f"{_COMMANDS[manager]} {' '.join(names.get(package, package) for package in packages)}"
