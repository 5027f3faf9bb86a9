# SPDX-License-Identifier: GPL-2.0
"""The device tests as a step of something larger: a session of pytest, and the verdicts it came to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import progress
from dmirror.paths import ROOT
from dmirror.results import CAUSES, DEFECT, FAILED, PASSED, SKIPPED, Verdict

_NO_TESTS = 5  # pytest's status when nothing was selected
_SHARE = re.compile(rb"\[ *(\d+)%\]")


def run(arguments: Sequence[str], *, junit: Path, title: str = "", log: Path | None = None) -> int:
    """A session of the device tests, its verdicts left in `junit`; the status of pytest.

    What it prints goes to `log`, while a bar called `title` shows how far it is; without one, to standard output.
    """
    junit.unlink(missing_ok=True)
    options = [f"--junitxml={junit}", "-p", "no:cacheprovider"]
    command = [*_bound_to_us(), sys.executable, "-m", "pytest", "tests/device", *options, *arguments]
    if log is None:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    with (
        log.open("wb") as sink,
        progress.bar(title, total=100) as bar,
        subprocess.Popen([*command, "-v"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as session,
    ):
        assert session.stdout is not None
        for line in session.stdout:
            sink.write(line)
            share = _SHARE.search(line)
            if share:
                bar.at(float(share.group(1)))
    return session.returncode


def verdicts(status: int, junit: Path, *, expression: str | None, guest: Callable[[], int]) -> dict[str, Verdict]:
    """By node id, what a session with that status came to. `guest` boots a guest that does nothing.

    Raises CannotRun where it came to nothing: Untestable, when it was the kernel that does not boot.
    """
    if status == _NO_TESTS:
        raise CannotRun(f"no device test matches {expression!r}", "-k takes an expression of pytest -k")
    if status in (0, 1) and junit.exists():
        found = read(junit)
        failed = {test: verdict for test, verdict in found.items() if verdict.outcome == FAILED}
        if failed and all(verdict.cause == "harness" for verdict in failed.values()):
            test, verdict = next(iter(failed.items()))
            raise CannotRun(f"{test}: {verdict.reason}", "that says nothing of the kernel: try again")
        return found
    if guest() != 0:
        raise Untestable("boot", "a guest died under a command that does nothing", "its console is named above")
    raise CannotRun(f"the device tests could not run, pytest's status is {status}", "it said why")


def read(junit: Path) -> dict[str, Verdict]:
    """Verdicts by node id, from pytest's XML."""
    found = {}
    for case in ET.parse(junit).getroot().iter("testcase"):
        file = case.get("classname", "").replace(".", "/")
        found[f"{file}.py::{case.get('name')}"] = _verdict(case)
    return found


def _verdict(case: ET.Element) -> Verdict:
    outcome, reason, cause = PASSED, "", ""
    for part in case:
        if part.tag == "skipped":
            outcome = DEFECT if part.get("type") == "pytest.xfail" else SKIPPED
            reason = part.get("message", "")
        elif part.tag in ("failure", "error"):
            outcome, reason = FAILED, part.get("message", "")
            word = reason.partition(":")[0]
            cause = word if word in CAUSES else "assertion"
            break
    return Verdict(outcome, [], reason, float(case.get("time", 0)), cause)


def _bound_to_us() -> list[str]:
    """Should this process be killed outright, the session and its guests end, too."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
