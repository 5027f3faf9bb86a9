# SPDX-License-Identifier: GPL-2.0
"""What a kernel's flavour means beside its options: how slow it is, and variables for make (qemu/flavours.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

from dmirror.paths import QEMU


def slowdown(config: Mapping[str, str]) -> float:
    """By what time limits are multiplied for a kernel of that .config."""
    return prod(float(factor) for option, factor in _content()["slower"].items() if option in config)


def variables(flavour: str) -> tuple[str, ...]:
    """What make is told beside the config."""
    return tuple(_content()["make"].get(flavour, ()))


@cache
def _content() -> dict[str, Any]:
    return tomllib.loads((QEMU / "flavours.toml").read_text())
