# SPDX-License-Identifier: GPL-2.0
"""A patch series on a kernel tree, patch by patch: does it apply, does it build, which tests fail that did not before.

The tree is copied; the copy stays where it is, with the build folder that belongs to it, so that from patch to patch,
and from one run to the next, only what differs is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import disk, locks, progress, tools
from dmirror.kernel.source import Source
from dmirror.mails import Patch, environment
from dmirror.paths import cache
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED

_TREE_MIB = 2200
_COLUMNS = (PASSED, FAILED, DEFECT, SKIPPED)

Attempt = Callable[[Path, str, Path], dict[str, str]]
"""Builds the tree and runs the tests on it, with a title for people and a folder to make for the run; outcomes by node
id. Raises Untestable when the tree does not build or boot."""


@dataclass(frozen=True)
class Row:
    """The base, or one patch on top of those before it."""

    name: str  # "base", "2/3"
    subject: str
    failing: str = ""  # "apply", "build" or "boot", where it does not
    said: tuple[str, ...] = ()  # the words in which that was said
    tests: dict[str, str] | None = None  # outcomes by node id; None where none ran
    new: tuple[str, ...] = ()  # tests that fail and did not on the row before

    def failed(self) -> set[str]:
        return {test for test, outcome in (self.tests or {}).items() if outcome == FAILED}


def folder_of(base: Source) -> Path:
    """Where the series on that base are tried: `tree` is the copy, `runs` has the run of each patch of the last one."""
    return cache() / "series" / f"{base.series}-{_digest(base.place)[:12]}"


def run(base: Source, patches: Sequence[Patch], attempt: Attempt, *, what: str, resume: bool) -> Iterator[Row]:
    """The rows of a series, each as soon as it is known. `what` names all that verdicts depend on beside the source.

    With `resume` those that an earlier run came to are taken from it. After a patch that does not apply, build or
    boot there is nothing to try the others on. Raises CannotRun, also where it is the base that cannot be tested.
    """
    folder = folder_of(base)
    with locks.exclusive(folder, f"trying a series on {base.label}"), disk.watched(folder):
        runs = _runs(folder / "runs", _digest(base.identity, what), patches)
        for old in (folder / "runs").glob("*"):
            if not resume or old not in runs:
                shutil.rmtree(old)
        tree = folder / "tree"
        with progress.step(f"copying {base.label}"):
            copy(base.tree, tree)
        before = Row("base", base.label, tests=_tested(tree, "base", runs[0], attempt))
        yield before
        stopped = False
        for patch, run in zip(patches, runs[1:], strict=True):
            row = Row(f"{patch.number}/{len(patches)}", patch.subject)
            if not stopped:
                row = _row(row, patch, tree, before, partial(_tested, tree, row.name, run, attempt))
                stopped, before = bool(row.failing), row
            yield row


def _runs(folder: Path, state: str, patches: Sequence[Patch]) -> list[Path]:
    """A folder for the run of the base and of each patch, with the name of all that it depends on."""
    states = [state]
    for patch in patches:
        states.append(_digest(states[-1], patch.diff.hex()))
    return [folder / f"{number:02}-{state[:12]}" for number, state in enumerate(states)]


def _row(row: Row, patch: Patch, tree: Path, before: Row, tested: Callable[[], dict[str, str]]) -> Row:
    """The row of a patch, on a tree that has those before it."""
    refused = apply(tree, patch.diff)
    if refused:
        return replace(row, failing="apply", said=refused)
    try:
        now = replace(row, tests=tested())
    except Untestable as error:
        return replace(row, failing=error.verb, said=(str(error),))
    return replace(now, new=tuple(sorted(now.failed() - before.failed())))


def _tested(tree: Path, name: str, run: Path, attempt: Attempt) -> dict[str, str]:
    """Outcomes by node id, of the tree as it is; an earlier run's, where that came to its end."""
    kept = run / "outcomes.json"
    if kept.exists():
        tests: dict[str, str] = json.loads(kept.read_text())
        return tests
    tests = attempt(tree, name, run)
    fresh = kept.with_suffix(".tmp")
    fresh.write_text(json.dumps(tests, indent=1))
    fresh.replace(kept)
    return tests


def copy(base: Path, tree: Path) -> None:
    """Make `tree` hold what `base` holds; files that do so already keep their times, so that make leaves them alone.

    Version control is no part of it. Raises CannotRun.
    """
    tools.refuse({"rsync": "rsync"} if shutil.which("rsync") is None else {})
    if not tree.exists():
        disk.need(tree, _TREE_MIB, f"a copy of {base}")
    tree.parent.mkdir(parents=True, exist_ok=True)
    options = ["--recursive", "--links", "--perms", "--delete", "--checksum", "--exclude=/.git"]
    done = subprocess.run(
        ["rsync", *options, f"{base}/", f"{tree}/"],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise disk.full(tree)
        reason = (done.stderr.splitlines() or ["rsync gave no reason"])[0]
        raise CannotRun(f"cannot copy {base}: {reason}", "every file of the tree has to be readable")


def apply(tree: Path, diff: bytes) -> tuple[str, ...]:
    """Apply a patch, whole or not at all; what git says of one that does not apply."""
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],
        cwd=tree,
        input=diff,
        # In a repository further up git would silently leave out everything.
        env={**environment(), "GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        return ()
    lines = done.stderr.decode(errors="replace").splitlines()
    return tuple(line.removeprefix("error: ") for line in lines if line.startswith("error: ")) or tuple(lines[:1])


def verdict(rows: Iterable[Row]) -> int:
    """0, or 1 where a patch has a failure that the base has not, or does not apply, build or boot."""
    base, *patches = rows
    return int(any(row.failing or row.failed() - base.failed() for row in patches))


def text(rows: Iterable[Row]) -> str:
    """The table, with what failed below each row."""
    lines = ["patch  applies  builds  passed  failed  defect  skipped  new  subject"]
    for row in rows:
        counts = Counter((row.tests or {}).values())
        cells = [str(counts[outcome]) if row.tests is not None else "-" for outcome in _COLUMNS]
        new = str(len(row.new)) if row.tests is not None and row.name != "base" else "-"
        applies, builds = _steps(row)
        lines.append(
            f"{row.name:<5}  {applies:>7}  {builds:>6}  {cells[0]:>6}  {cells[1]:>6}  {cells[2]:>6}  {cells[3]:>7}"
            f"  {new:>3}  {row.subject}"
        )
        lines += [f"       new: {test}" for test in row.new]
        if row.failing:
            lines.append(f"       does not {row.failing}: {row.said[0]}")
            lines += [f"       {line}" for line in row.said[1:]]
        elif row.tests is None:
            lines[-1] += " (not tried)"
    return "\n".join(lines)


def _steps(row: Row) -> tuple[str, str]:
    """Whether it applies and builds."""
    if row.name == "base":
        return "-", "yes"
    if row.failing in ("apply", "build"):
        return {"apply": ("no", "-"), "build": ("yes", "no")}[row.failing]
    return ("yes", "yes") if row.failing or row.tests is not None else ("-", "-")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
