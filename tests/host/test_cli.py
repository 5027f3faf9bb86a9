# SPDX-License-Identifier: GPL-2.0
"""The command: exit statuses and the one line of what could not run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from dmirror import cli
from dmirror.cli import _sessions, main
from dmirror.errors import Untestable
from dmirror.results import Verdict


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


def test_a_tree_is_where_it_was_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("--kdir", "--kbuild"):
        args = vars(cli._parser().parse_args(["test", option, "here"]))
        assert args[option.removeprefix("--")] == tmp_path / "here"


def test_an_unknown_verb_is_status_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["frobnicate"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--kdir={tree}"], 125, "building 7.3.4 default failed: "),
        (["--kdir={tree}/mm"], 128, "is not a kernel tree"),
        (["--kdir={tree}", "--flavour=nope"], 128, "FLAVOUR=nope"),
        (["--kdir={tree}", "--torturee=1"], 128, "--torturee"),
    ],
)
def test_bisect_skips_what_is_the_trees_fault_and_stops_at_what_is_not(
    arguments: list[str], status: int, says: str, tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tree / "mm/hmm.c").write_text("int hmm")
    try:
        ended = main(["test", "--bisect", *(argument.format(tree=tree) for argument in arguments)])
    except SystemExit as error:
        ended = int(error.code or 0)
    assert ended == status
    assert says in capfd.readouterr().err


def test_bisect_stops_where_the_harness_itself_breaks(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "prepare", lambda **which: 1 / 0)
    assert main(["test", "--bisect", f"--kdir={tree}"]) == 128
    with pytest.raises(ZeroDivisionError):
        main(["test", f"--kdir={tree}"])


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [(["passed", "skipped"], 0), (["passed", "failed"], 1), (["defect"], 0), (["skipped", "skipped"], None)],
)
def test_bisect_goes_by_verdicts(outcomes: list[str], status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = {f"t.py::{number}": Verdict(outcome, [], "no swap") for number, outcome in enumerate(outcomes)}
    monkeypatch.setattr(cli, "_device_tests", lambda *rest: tests)
    if status is None:
        with pytest.raises(Untestable, match="all of them were skipped: no swap"):
            cli._bisect(argparse.Namespace(), None, [])  # type: ignore[arg-type]
    else:
        assert cli._bisect(argparse.Namespace(), None, []) == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base=7.2", "{tree}/none.mbox"], "No such file"),
        (["--base=9.9", "{tree}/mbox"], "KERNEL=9.9"),
        (["--kdir={tree}/mm", "{tree}/mbox"], "is not a kernel tree"),
        (["--kdir={tree}", "--base=7.2", "{tree}/mbox"], "name two kernels"),
    ],
)
def test_a_series_that_cannot_be_tried(
    arguments: list[str], says: str, tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
    (tree / "mbox").write_text(f"From a Mon Sep 17 00:00:00 2001\nFrom: a@b\nSubject: [PATCH] x\n\n---\n{diff}")
    assert main(["series", *(argument.format(tree=tree) for argument in arguments)]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert says in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("expression", "host", "statuses", "says"),
    [
        (None, 0, (0, 1), "host\nguest\n"),
        (None, 2, (2, 2), "host\n"),
        ("part", 1, (1, 1), "guest\nhost\n"),
        ("part", 5, (5, 1), "guest\n"),
    ],
)
def test_of_a_part_the_sessions_run_side_by_side(
    expression: str | None, host: int, statuses: tuple[int, int], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(expression=expression)
    commands = [
        [sys.executable, "-c", f"print({name!r}); exit({status})"] for name, status in (("host", host), ("guest", 1))
    ]
    assert _sessions(args, *commands) == statuses
    assert capfd.readouterr().out == says
