# SPDX-License-Identifier: GPL-2.0
"""Counts of lines as a guest brings them, and their sum; a program of the host counts in the kernel's stead."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from dmirror import gcov
from dmirror.errors import CannotRun
from dmirror.fuzz import campaign
from dmirror.plugin import cover

SOURCE = """\
int main(int argc, char **argv)
{
	if (argc > 5)
		return 3;
	return 0;
}
"""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A tree with a file that counts, built in its folder `o`."""
    (tmp_path / "tree" / "o").mkdir(parents=True)
    (tmp_path / "tree" / "main.c").write_text(SOURCE)
    command = ["gcc", "--coverage", "-fprofile-abs-path", "-o", "o/main", "main.c"]
    subprocess.run(command, cwd=tmp_path / "tree", check=True)
    return tmp_path / "tree"


def test_what_several_guests_reached_is_summed(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes,) = (built / "o").glob("*.gcno")
    for guest in ("guest-1", "guest-2"):
        subprocess.run([built / "o" / "main"], check=True)
        # In debugfs the notes are links to those of the build.
        counted = tmp_path / guest / "debugfs"
        counted.mkdir(parents=True)
        notes.with_suffix(".gcda").rename(counted / notes.with_suffix(".gcda").name)
        (counted / notes.name).symlink_to(notes)
        monkeypatch.setattr(gcov, "_COUNTS", counted)
        gcov.bring(tmp_path / "run" / guest)
    counts = gcov.summed(tmp_path / "run", built)
    assert counts == {"main.c": {"1": 2, "3": 2, "4": 0, "5": 2}}
    assert gcov.reached(counts["main.c"]) == 3


@pytest.fixture
def brought(built: Path, tmp_path: Path) -> Path:
    """A run's folder with the counts of a guest."""
    (notes,) = (built / "o").glob("*.gcno")
    subprocess.run([built / "o" / "main"], check=True)
    folder = tmp_path / "run" / "guest-1" / "gcov"
    folder.mkdir(parents=True)
    notes.with_suffix(".gcda").rename(folder / "o-main.gcda")
    (folder / "o-main.gcno").write_text(os.fspath(notes))
    return tmp_path / "run"


def _tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name, and no other gcov."""
    real = shutil.which("gcov")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n".replace("REAL", f"{real}"))
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    which = shutil.which
    monkeypatch.setattr(gcov.shutil, "which", lambda command: which(command, path=os.fspath(folder)))


@pytest.mark.parametrize("name", ["gcov", "gcov-{series}"])
def test_counts_that_another_release_reads_are_taken(
    name: str, brought: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    script = 'echo "version mismatch" >&2; REAL "$@"; exit 3'
    _tool(tmp_path / "bin", name.format(series=series), script, monkeypatch)
    assert gcov.summed(brought, built) == {"main.c": {"1": 1, "3": 1, "4": 0, "5": 1}}


def test_the_gcov_of_the_compiler_is_taken_first(
    brought: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notes,) = (built / "o").glob("*.gcno")
    stamped = bytearray(notes.read_bytes())
    stamped[4:8] = b"*24B"  # gcc 14.2
    notes.write_bytes(stamped)
    _tool(tmp_path / "bin", "gcov", "exit 1", monkeypatch)
    (tmp_path / "bin" / "gcov-14").write_text("#!/bin/sh\necho '{\"files\": []}'\n")
    (tmp_path / "bin" / "gcov-14").chmod(0o755)
    assert gcov.summed(brought, built) == {}


class Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines.append(title)

    def line(self, text: str, **markup: bool) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("script", ['echo "no such stamp" >&2; exit 1', 'echo "no such stamp" >&2; exit 3'])
def test_counts_that_cannot_be_read_are_one_line(
    script: str, brought: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tool(tmp_path / "bin", "gcov", script, monkeypatch)
    with pytest.raises(CannotRun, match=r"cannot read the counts of .*: no such stamp; install that of the compiler"):
        gcov.summed(brought, built)
    said = Terminal()
    cover.Table(brought, built).pytest_terminal_summary(said)
    assert len(said.lines) == 1
    assert "no table of the lines that were reached: " in said.lines[0]
    (tmp_path / "bin" / "gcov").unlink()
    with pytest.raises(CannotRun, match=r"no gcov-[0-9]+ and no gcov found"):
        gcov.summed(brought, built)


def test_the_table_says_what_0_is_not(brought: Path, built: Path) -> None:
    said = Terminal()
    cover.Table(brought, built).pytest_terminal_summary(said)
    assert said.lines[1:2] == ["     3 of      4   75%  main.c"]
    assert "0 is not proof" in said.lines[-1]


def test_a_campaign_says_so_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = CannotRun("gcov cannot read", "install")

    def summed(run: Path, source: Path) -> gcov.Counts:
        raise error

    monkeypatch.setattr(campaign, "COVER_S", 0)
    monkeypatch.setattr(gcov, "summed", summed)
    one = campaign.Campaign.__new__(campaign.Campaign)
    one.folder, one._over, one._errors = tmp_path, threading.Event(), []
    one._cover(tmp_path)
    assert one._errors == [error]


def test_a_kernel_that_does_not_count_brings_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcov, "_COUNTS", tmp_path / "gcov")
    gcov.bring(tmp_path / "run")
    assert gcov.summed(tmp_path / "run", tmp_path) == {}
