# SPDX-License-Identifier: GPL-2.0
"""Counts of lines as a guest brings them, and their sum; a program of the host counts in the kernel's stead."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dmirror import gcov

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


def test_a_kernel_that_does_not_count_brings_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcov, "_COUNTS", tmp_path / "gcov")
    gcov.bring(tmp_path / "run")
    assert gcov.summed(tmp_path / "run", tmp_path) == {}
