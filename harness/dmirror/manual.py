# SPDX-License-Identifier: GPL-2.0
"""What other tools are told of the command line, made from its parser: a shell's completion, and a manual page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab
from argparse_manpage.manpage import Manpage  # type: ignore[import-untyped]

_FOLDERS = ("TREE", "BUILD", "DIR", "FOLDER", "RUN")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for that shell, which completes verbs, options and the names of files."""
    for action in _actions(parser):
        if action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.type is Path:
            action.complete = shtab.FILE
    return shtab.complete(parser, shell)


def page(parser: argparse.ArgumentParser, version: str) -> str:
    """The manual page, for man(1)."""
    made = Manpage(parser)
    made.description = (parser.description or "").rstrip(".")
    made.source = f"{parser.prog} {version}"
    made.manual = "User Commands"
    return str(made)


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Its own, and those of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
        else:
            yield action
