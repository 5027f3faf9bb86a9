# SPDX-License-Identifier: GPL-2.0
"""What is known to end the guest is not run where it does, and is a known defect."""

import os
import tomllib
from pathlib import Path

import pytest

from dmirror.running import built_with, release_matches

CRASHES = Path(__file__).with_name("crashes.toml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = tomllib.loads(CRASHES.read_text())["crash"]
    here = [one for one in known if release_matches(os.uname().release, one["kernel"]) and built_with(one["config"])]
    for item in items:
        name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        for one in here:
            if any(name.startswith(test[:-1]) if test.endswith("*") else name == test for test in one["tests"]):
                item.add_marker(pytest.mark.xfail(reason=one["reason"], run=False))
