# SPDX-License-Identifier: GPL-2.0
"""The device tests as a step of something larger: a session of pytest, and the verdicts it came to."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from dmirror import journal, session, streams
from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import make, progress
from dmirror.paths import GUEST_TESTS, ROOT
from dmirror.results import FAILED, Verdict

LOG = "pytest.log"

NO_TESTS = 5
"""pytest's status when nothing was selected."""

ALL_SKIPPED = 6
"""With --dmirror-fail-on-empty: pytest's status when every test was skipped."""

_SHARE = re.compile(rb"\[ *(\d+)%\]")


def run(arguments: Sequence[str], folder: Path, *, title: str = "") -> int:
    """A session of the device tests with `folder` as its run's; the status of pytest.

    With a title what it prints goes to LOG in that folder, and a bar shows how far it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"--dmirror-run={folder}", "-p", "no:cacheprovider"]
    command = [*make.bound_to_us(), *session.command(*GUEST_TESTS, *options, *arguments)]
    if not title:
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status == streams.GONE:
            raise streams.Gone
        return status
    with (
        (folder / LOG).open("wb") as sink,
        progress.bar(title, total=100) as bar,
        subprocess.Popen(
            [*command, "-v"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # or the log and the bar get it in portions
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sink.write(line)
            share = _SHARE.search(line)
            if share:
                bar.at(float(share.group(1)))
    return process.returncode


def verdicts(status: int, folder: Path, *, expression: str | None, guest: Callable[[], int]) -> dict[str, Verdict]:
    """By node id, what a session with that status came to. `guest` boots a guest that does nothing.

    Raises CannotRun where it came to nothing: Untestable, when it was the kernel that does not boot.
    """
    if status not in (0, 1, NO_TESTS):
        if guest() != 0:
            raise Untestable("boot", "a guest died under a command that does nothing", "its console is named above")
        raise CannotRun(f"the device tests could not run, pytest's status is {status}", f"their run is {folder}")
    try:
        found = journal.load(folder).tests  # none were left to run where a run goes on that had them all
    except FileNotFoundError:
        found = {}
    if not found:
        raise CannotRun(f"no device test matches {expression!r}", "-k takes an expression of pytest -k")
    if status == 1 and all(verdict.outcome != FAILED for verdict in found.values()):
        raise CannotRun(f"pytest says that a test failed, and the record in {folder} does not say which", "try again")
    failed = {test: verdict for test, verdict in found.items() if verdict.outcome == FAILED}
    if failed and all(verdict.cause == "harness" for verdict in failed.values()):
        (folder / journal.NAME).unlink()  # nor would a run that goes on try them again
        test, verdict = next(iter(failed.items()))
        raise CannotRun(f"{test}: {verdict.text}", "that says nothing of the kernel: try again")
    return found
