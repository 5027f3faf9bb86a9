# SPDX-License-Identifier: GPL-2.0
"""A series on a copy of a tree: what is tried, what is said of each patch, what stays untouched."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import git

from dmirror import journal, series, trial
from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import base
from dmirror.kernel.source import Source
from dmirror.mails import Patch
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Verdict

_CODE = "int hmm;\n"


def patch(number: int, old: str, new: str) -> Patch:
    """One that turns the line of mm/hmm.c into another."""
    diff = (
        f"diff --git a/mm/hmm.c b/mm/hmm.c\n--- a/mm/hmm.c\n+++ b/mm/hmm.c\n@@ -1 +1 @@\n-{old}\n+{new}\n-- \n2.39.5\n"
    )
    return Patch(number, f"mm: {new}", diff.encode())


def chain(*lines: str) -> list[Patch]:
    """A series that gives the file one of these lines after another."""
    before = [_CODE.strip(), *lines]
    return [patch(number, before[number - 1], line) for number, line in enumerate(lines, 1)]


class Stub:
    """In the place of builds and guests: a test fails where the tree has its name in it."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def __call__(self, tree: Path, name: str, run: Path) -> dict[str, str]:
        code = (tree / "mm/hmm.c").read_text()
        self.tried.append(name)
        for verb in ("build", "boot"):
            if f"no_{verb}" in code:
                raise Untestable(verb, f"mm/hmm.c:1: {verb}: no", "mend it")
        if "no_disk" in code:
            raise CannotRun("the disk is full", "free some space")
        run.mkdir(parents=True)
        (run / "said").write_text(name)
        return {"t.py::skipped": SKIPPED, "t.py::defect": DEFECT} | {
            f"t.py::{test}": FAILED if test in code else PASSED for test in ("one", "two", "three")
        }


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def source(tree: Path) -> Source:
    return base(kdir=tree)


def contents(tree: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file, .git too."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in tree.rglob("*")
        if path.is_file()
    }


def run(source: Source, patches: list[Patch], stub: Stub, **options: bool | str) -> list[series.Row]:
    return list(series.run(source, patches, stub, **{"what": "", "resume": False} | options))  # type: ignore[arg-type]


def test_a_failure_is_told_of_the_patch_that_brings_it(source: Source, stub: Stub) -> None:
    rows = run(source, chain("int one;", "int one, two;", "int two;"), stub)
    assert [row.name for row in rows] == ["base", "1/3", "2/3", "3/3"] == ["base", *stub.tried[1:]]
    assert [row.new for row in rows] == [(), ("t.py::one",), ("t.py::two",), ()]
    assert series.verdict(rows) == 1


def test_what_fails_on_the_base_is_no_patchs_fault(source: Source, stub: Stub) -> None:
    (source.tree / "mm/hmm.c").write_text("int one;\n")
    mended = [patch(1, "int one;", "int mended;"), patch(2, "int mended;", "int one;")]
    rows = run(source, mended, stub)
    assert rows[0].failed() == {"t.py::one"}
    assert [row.new for row in rows[1:]] == [(), ("t.py::one",)]
    assert series.verdict(rows) == 0


@pytest.mark.parametrize("verb", ["build", "boot"])
def test_a_patch_that_does_not_build_or_boot_ends_the_series(source: Source, stub: Stub, verb: str) -> None:
    rows = run(source, chain("int fine;", f"int no_{verb};", "int more;"), stub)
    assert stub.tried == ["base", "1/3", "2/3"]
    assert [row.failing for row in rows] == ["", "", verb, ""]
    assert f"mm/hmm.c:1: {verb}: no" in rows[2].said[0]
    assert len(list((series.folder_of(source) / "runs").iterdir())) == 2
    assert series.verdict(rows) == 1
    *_, failed, said, not_tried = series.text(rows).splitlines()
    assert failed.split()[:6] == ["2/3", "yes", "no" if verb == "build" else "yes", "-", "-", "-"]
    assert said.strip() == f"does not {verb}: mm/hmm.c:1: {verb}: no; mend it"
    assert not_tried.endswith("mm: int more; (not tried)")


def test_a_patch_that_does_not_apply_ends_the_series_in_gits_words(source: Source, stub: Stub) -> None:
    rows = run(source, [patch(1, "int other;", "int x;"), patch(2, "int hmm;", "int x;")], stub)
    assert stub.tried == ["base"]
    assert rows[1].said == ("patch failed: mm/hmm.c:1", "mm/hmm.c: patch does not apply")
    assert rows[2].failing == "" and rows[2].tests is None
    assert series.verdict(rows) == 1


def test_a_base_that_does_not_build_and_a_full_disk_are_no_patchs_fault(source: Source, stub: Stub) -> None:
    rows = series.run(source, chain("int no_disk;"), stub, what="", resume=False)
    assert next(rows).name == "base"
    with pytest.raises(CannotRun, match="disk"):
        next(rows)
    (source.tree / "mm/hmm.c").write_text("int no_build;\n")
    with pytest.raises(CannotRun, match="build: no"):
        run(source, chain("int x;"), stub)


def test_the_users_tree_stays_as_it_is(git_tree: Path, stub: Stub) -> None:
    (git_tree / "mm/hmm.c").write_text("int edited;\n")
    (git_tree / "new").write_text("not in git\n")
    before = contents(git_tree)
    source = base(kdir=git_tree)
    rows = run(source, [patch(1, "int edited;", "int one;")], stub)
    assert contents(git_tree) == before
    assert not (series.folder_of(source) / "tree/.git").exists()
    assert rows[1].new == ("t.py::one",)


def test_the_copy_has_new_times_only_where_something_differs(source: Source, stub: Stub) -> None:
    run(source, chain("int one;"), stub)
    copy = series.folder_of(source) / "tree"
    first = contents(copy)
    (source.tree / "mm/Kconfig").write_text("config EDITED\n")
    (source.tree / "Kbuild").touch()
    (source.tree / "refused").unlink()
    run(source, [], stub)
    second = contents(copy)
    changed = {Path(path).name for path in first if first[path] != second.get(path)}
    assert changed == {"hmm.c", "Kconfig", "refused"}
    assert (copy / "mm/hmm.c").read_text() == _CODE
    assert not (copy / "refused").exists()


def test_a_cache_inside_a_repository_is_no_matter(source: Source, stub: Stub, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    rows = run(source, chain("int one;"), stub)
    assert rows[1].new == ("t.py::one",)


def test_a_patch_may_add_remove_and_rename(git_tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    series.copy(git_tree, copy)
    (git_tree / "mm/hmm.c").rename(git_tree / "mm/mirror.c")
    (git_tree / "refused").unlink()
    (git_tree / "mm/new.c").write_text("")
    git(git_tree, "add", "--all")
    made = subprocess.run(["git", "-C", git_tree, "diff", "--cached", "-M"], check=True, capture_output=True)
    assert b"rename to mm/mirror.c" in made.stdout
    assert series.apply(copy, made.stdout) == ()
    assert {path.name for path in copy.glob("mm/*")} == {"Kconfig", "mirror.c", "new.c"}
    assert not (copy / "refused").exists()


def test_resume_takes_verdicts_of_the_same_and_nothing_else(source: Source, stub: Stub) -> None:
    patches = chain("int one;", "int two;")
    run(source, patches[:1], stub)
    rows = run(source, patches, stub, resume=True)
    assert stub.tried == ["base", "1/1", "2/2"]
    assert [row.new for row in rows] == [(), ("t.py::one",), ("t.py::two",)]
    run(source, patches, stub, resume=True, what="-k other")
    assert stub.tried[3:] == ["base", "1/2", "2/2"]
    run(source, patches, stub)
    assert stub.tried[6:] == ["base", "1/2", "2/2"]
    runs = sorted((series.folder_of(source) / "runs").iterdir())
    assert [(run / "said").read_text() for run in runs] == ["base", "1/2", "2/2"]
    other = replace(patches[1], diff=patches[1].diff.replace(b"+int two;", b"+int three;"))
    run(source, [patches[0], other], stub, resume=True)
    assert stub.tried[9:] == ["2/2"]
    runs = sorted((series.folder_of(source) / "runs").iterdir())
    assert [(run / "said").read_text() for run in runs] == ["base", "1/2", "2/2"]


def test_the_table(source: Source, stub: Stub) -> None:
    rows = run(source, chain("int one;"), stub)
    head, base_row, first, new = series.text(rows).splitlines()
    assert head.split() == ["patch", "applies", "builds", "passed", "failed", "defect", "skipped", "new", "subject"]
    assert base_row.split() == ["base", "-", "yes", "3", "0", "1", "1", "-", "7.3.4"]
    assert first.split() == ["1/1", "yes", "yes", "2", "1", "1", "1", "1", "mm:", "int", "one;"]
    assert new.strip() == "new: t.py::one"


# -- verdicts of a session

_SUBJECT = journal.Subject("7.3.4", "7.3.4", "", "", "default", "dmirror", "unknown", "tcg")


def up() -> int:
    return 0


def died() -> int:
    return 255


def recorded(folder: Path, **tests: Verdict) -> Path:
    """The folder of a run that came to these verdicts."""
    written = journal.Journal(folder, _SUBJECT)
    for name, verdict in tests.items():
        written.add(name, verdict)
    written.close()
    return folder


def test_verdicts_are_those_of_the_journal(tmp_path: Path) -> None:
    tests = {"one": Verdict(PASSED, []), "two": Verdict(FAILED, [], cause="crash")}
    for status in (1, 5):  # 5: a run that went on had them all
        assert trial.verdicts(status, recorded(tmp_path, **tests), expression=None, guest=died) == tests


@pytest.mark.parametrize(
    ("status", "guest", "kind", "says"),
    [(5, up, CannotRun, "'Z-99'"), (2, up, CannotRun, "status is 2"), (2, died, Untestable, "a guest died")],
)
def test_a_session_without_verdicts(
    status: int, guest: Callable[[], int], kind: type[CannotRun], says: str, tmp_path: Path
) -> None:
    folder = recorded(tmp_path)
    with pytest.raises(CannotRun, match=says) as caught:
        trial.verdicts(status, folder, expression="Z-99", guest=guest)
    assert type(caught.value) is kind


def test_a_failure_of_the_harness_alone_is_no_verdict(tmp_path: Path) -> None:
    broken = Verdict(FAILED, [], cause="harness", text="QEMU was ended by SIGKILL")
    with pytest.raises(CannotRun, match="two: QEMU was ended"):
        trial.verdicts(1, recorded(tmp_path, one=Verdict(PASSED, []), two=broken), expression=None, guest=up)
    again = recorded(tmp_path, one=Verdict(FAILED, []), two=broken)
    assert trial.verdicts(1, again, expression=None, guest=up)["two"] == broken


def test_a_session_says_what_it_says_to_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests/device").mkdir(parents=True)
    (tmp_path / "tests/scenarios").mkdir()
    (tmp_path / "tests/device/test_x.py").write_text("def test_passes(): pass\ndef test_fails(): assert not 1\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(trial, "ROOT", tmp_path)
    assert trial.run([], tmp_path / "run", title="testing 1/1") == 1
    assert "1 failed, 1 passed" in (tmp_path / "run" / trial.LOG).read_text()
    assert capfd.readouterr() == ("", "dmirror: testing 1/1\n")
