# SPDX-License-Identifier: GPL-2.0
"""docs/ci.md: every command that it tells a CI to type is one that the parser takes."""

from __future__ import annotations

import shlex

import pytest

from dmirror.cli import _parser
from dmirror.paths import ROOT

_PAGE = (ROOT / "docs/ci.md").read_text()


def _dmirror(line: str) -> list[str] | None:
    words = line.partition(".venv/bin/dmirror ")[2]
    return shlex.split(words) if words else None


COMMANDS = [words for words in map(_dmirror, _PAGE.splitlines()) if words]


def test_there_are_commands() -> None:
    assert {words[0] for words in COMMANDS} == {"test", "series", "report"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_is_one(words: list[str]) -> None:
    _parser().parse_args(words)
