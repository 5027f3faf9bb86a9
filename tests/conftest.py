# SPDX-License-Identifier: GPL-2.0
"""On a build of a kernel with a defect that ends guests a whole family is skipped; what silences lockdep runs last."""

import fnmatch
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dmirror.running import built_with, release_matches

DEFECTS = Path(__file__).with_name("defects.toml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = tomllib.loads(DEFECTS.read_text())
    skips, silences = (list(filter(_here, known[kind])) for kind in ("skip", "silence"))
    for item in items:
        for one in skips:
            if _is_of(item, one):
                item.add_marker(pytest.mark.skip(reason=one["reason"]))
    items.sort(key=lambda item: any(_is_of(item, one) for one in silences))


def _here(defect: dict[str, Any]) -> bool:
    return release_matches(os.uname().release, defect["kernel"]) and built_with(defect["config"])


def _is_of(item: pytest.Item, defect: dict[str, Any]) -> bool:
    name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in defect["tests"])
