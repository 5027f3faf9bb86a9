# SPDX-License-Identifier: GPL-2.0
"""The command on standard streams that are closed, full, or read by nobody; and on files without end."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from dmirror import cli, inputs, streams, trial
from dmirror.paths import ROOT

RIGHT = 'scenario "x"\nregion buf: anonymous 1 page\nCPU reads buf\n'
WRONG = RIGHT + "A migrates nowhere to devise\n"
VERBS = (
    "check {wrong}",
    "fmt --check {wrong}",
    "run --model {right}",
    "--help",
    "series --help",
    "contracts",
    "completion bash",
)


@contextmanager
def stream(kind: str) -> Iterator[int]:
    if kind == "full":
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        nobody, number = os.pipe()
        os.close(nobody)
    yield number
    os.close(number)


def run(
    arguments: list[str], *, out: str = "read", err: str = "read", module: str = "dmirror", **environment: str
) -> tuple[int, str, str]:
    """The exit status, and what came on the streams that are read."""
    command = [sys.executable, "-m", module, *arguments]
    closed = "".join(f" {number}>&-" for number, kind in ((1, out), (2, err)) if kind == "closed")
    if closed:
        command = ["sh", "-c", f'exec "$@"{closed}', "sh", *command]
    with ExitStack() as stack:
        ends: list[int | IO[bytes]] = [
            stack.enter_context(stream(kind)) if kind in ("full", "gone") else subprocess.PIPE for kind in (out, err)
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=ends[0],
            stderr=ends[1],
            text=True,
            check=False,
        )
    return done.returncode, done.stdout or "", done.stderr or ""


@pytest.fixture
def words(tmp_path: Path) -> dict[str, str]:
    for name, text in (("right", RIGHT), ("wrong", WRONG)):
        (tmp_path / f"{name}.dms").write_text(text)
    return {name: os.fspath(tmp_path / f"{name}.dms") for name in ("right", "wrong")}


@pytest.mark.parametrize("verb", VERBS)
def test_where_nobody_reads_it_ends_without_a_word(verb: str, words: dict[str, str]) -> None:
    assert run(verb.format(**words).split(), out="gone") == (128 + 13, "", "")


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_line_and_status_2(verb: str, words: dict[str, str]) -> None:
    status, _, errors = run(verb.format(**words).split(), out="full")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert errors.startswith("dmirror: standard output cannot be written: No space left on device; free its disk")


@pytest.mark.parametrize(("verb", "status"), [("check {wrong}", 1), ("run --model {right}", 0), ("--help", 0)])
def test_what_is_closed_is_as_dev_null(verb: str, status: int, words: dict[str, str]) -> None:
    assert run(verb.format(**words).split(), out="closed") == (status, "", "")


@pytest.mark.parametrize("err", ["closed", "full", "gone"])
def test_what_standard_error_does_not_take_is_lost(err: str, words: dict[str, str]) -> None:
    assert run(["check", words["right"]], err=err)[:2] == (0, "")
    assert run(["check", "/none/such.dms"], err=err)[:2] == (2, "")
    assert run(["nonesuch"], err=err)[:2] == (2, "")


def test_a_terminal_that_lacks_a_letter_gets_its_number(words: dict[str, str]) -> None:
    Path(words["wrong"]).write_text('scenario "µ"\nregion µ: anonymous 1 page\n')
    status, output, errors = run(["check", words["wrong"]], PYTHONIOENCODING="ascii")
    assert (status, errors) == (1, "")
    assert r"\xb5" in output


@pytest.mark.parametrize(
    ("out", "status", "says"),
    [("gone", 128 + 13, ""), ("full", 2, "standard output cannot be written"), ("closed", 0, "")],
)
def test_a_session_of_pytest_ends_like_the_command(out: str, status: int, says: str) -> None:
    # "-s": what a test prints itself fails as well, and is caught by pytest.
    arguments = ["-q", "-s", "-p", "no:cacheprovider", "tests/host/test_elf.py"]
    ended, _, errors = run(arguments, out=out, module="dmirror.session")
    assert ended == status
    assert says in errors
    assert len(errors.splitlines()) == (says != "")


@pytest.mark.parametrize("statuses", [(streams.GONE, streams.GONE), (0, streams.GONE)])
def test_where_nobody_reads_a_session_that_is_the_status(
    statuses: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "prepare", lambda **which: None)
    monkeypatch.setattr(cli, "driver_module", lambda *which: None)
    monkeypatch.setattr(cli, "_sessions", lambda *given: statuses)
    assert cli.main(["test"]) == streams.GONE


def test_a_step_of_something_larger_ends_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.make, "bound_to_us", lambda: ["sh", "-c", f"exit {streams.GONE}"])
    with pytest.raises(streams.Gone):
        trial.run([], tmp_path)


@pytest.mark.parametrize("verb", ["fmt", "fmt --check", "check", "run --model"])
def test_a_scenario_without_end_is_not_read_to_it(verb: str) -> None:
    limit = 1 << 29
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))  # the command's, which inherits it
    try:
        status, output, errors = run([*verb.split(), "/dev/zero"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert "cannot read /dev/zero: it has more than 256 KiB" in errors


def test_the_largest_scenario_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.dms"
    file.write_text(RIGHT + "#" * (inputs.SCENARIO - len(RIGHT)))
    assert run(["check", os.fspath(file)]) == (0, "", "")
    file.write_text(RIGHT + "#" * (inputs.SCENARIO - len(RIGHT) + 1))
    assert run(["check", os.fspath(file)])[0] == 2
