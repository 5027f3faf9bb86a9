# SPDX-License-Identifier: GPL-2.0
"""The command: exit statuses and the one line of what could not run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dmirror.cli import _chosen, main


@pytest.mark.parametrize("verb", ["demo", "test", "peer", "bench", "shell", "build"])
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--kernel=9.9"], ["KERNEL=9.9", "7.3"]),
        (["--kdir={empty}"], ["KDIR={empty}", "Makefile"]),
        (["--kbuild={empty}"], ["KBUILD={empty}", ".config"]),
        (["--kernel=7.3", "--kdir={empty}"], ["KERNEL=7.3", "KDIR={empty}"]),
        (["--flavour=nope"], ["FLAVOUR=nope", "default"]),
    ],
)
def test_what_cannot_run_is_one_line_and_status_2(
    verb: str, arguments: list[str], names: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *(argument.format(empty=tmp_path) for argument in arguments)]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert all(name.format(empty=tmp_path) in errors for name in names)


def test_an_unknown_verb_is_status_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["frobnicate"])
    assert caught.value.code == 2


def test_what_is_repeated_is_chosen_by_file_and_function() -> None:
    chosen = _chosen(argparse.Namespace(expression="Z-02 and hole"))
    assert chosen
    assert all(test.startswith("tests/device/") and "::test_" in test and "[" not in test for test in chosen)
    assert _chosen(argparse.Namespace(expression="no_such_test")) == ["tests/device"]
