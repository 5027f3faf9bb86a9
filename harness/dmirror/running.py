# SPDX-License-Identifier: GPL-2.0
"""The kernel that runs here: its release, and what it was built with."""

from __future__ import annotations

import gzip
import operator
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

_CONFIG = Path("/proc/config.gz")  # CONFIG_IKCONFIG_PROC

_OPERATORS: dict[str, Callable[[list[int], list[int]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def release_matches(release: str, wanted: str) -> bool:
    """Whether `release` (as of uname) satisfies `wanted`, such as ">=6.12" or ">=6.1, <7.2"; at its
    precision: 7.2.5 is not >7.2. Raises ValueError for what is no comparison."""
    for part in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)\s*", part)
        if match is None:
            raise ValueError(f"kernel={wanted!r} is not a comparison such as '>=7.2'")
        bound = [int(number) for number in match.group(2).split(".")]
        numbers = re.match(r"\d+(?:\.\d+)*", release)
        have = [int(number) for number in numbers.group().split(".")] if numbers else []
        have += [0] * (len(bound) - len(have))
        if not _OPERATORS[match.group(1)](have[: len(bound)], bound):
            return False
    return True


def built_with(option: str) -> bool:
    """Whether the running kernel was built with an option; False where it does not say, as where tests are only
    collected."""
    return _CONFIG.exists() and config().get(option) in ("y", "m")


@cache
def config() -> dict[str, str]:
    """The options of the running kernel. FileNotFoundError where it does not say."""
    with gzip.open(_CONFIG, "rt") as file:
        return dict(line.strip().split("=", 1) for line in file if line.startswith("CONFIG_"))
