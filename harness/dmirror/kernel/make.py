# SPDX-License-Identifier: GPL-2.0
"""Runs make: its output goes to a log, its steps move a bar, its errors are told in its own words."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import disk, progress, tools

_STEP = re.compile(r"  [A-Z][A-Z0-9_]* +(?:\[[A-Z]\] +)?(\S+)")
_ERROR = re.compile(
    r"\berror\b|\bError\b|\*\*\*|undefined|not found|No such file|No space left|Disk quota|cannot|Killed"
)
_SHOWN = 20


def run(
    arguments: Sequence[str],
    *,
    what: str,
    log: Path,
    append: bool = False,
    bar: progress.Bar | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run make, all output to `log`; the number of kbuild steps it took is returned.

    Make runs in a process group of its own: Ctrl-C ends it and all it started, and it removes the file it was
    writing, so the next run goes on from there. Raises CannotRun with make's own first error; its last error
    lines go to standard error.
    """
    steps = 0
    with log.open("ab" if append else "wb") as sink:
        process = subprocess.Popen(
            [*bound_to_us(), "make", *arguments],
            env={**tools.environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            with disk.watched(log.parent):
                for line in process.stdout:
                    sink.write(line)
                    step = _STEP.match(line.decode(errors="replace"))
                    if step:
                        steps += 1
                        if bar:
                            bar.at(steps, step.group(1))
            status = process.wait()
        except BaseException:
            _end(process)
            raise
    if status != 0:
        raise _failure(what, log)
    return steps


def jobs() -> str:
    """As many jobs as processors we may use."""
    return f"-j{len(os.sched_getaffinity(0))}"


def errors(text: str) -> list[str]:
    """The last lines of a log that tell of errors, or its last lines when none does."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _ERROR.search(line)]
    return (telling or lines)[-_SHOWN:]


def _failure(what: str, log: Path) -> CannotRun:
    text = log.read_text(errors="replace")
    found = errors(text)
    if any("No space left" in line or "Disk quota" in line for line in found):
        return disk.full(log.parent)
    for line in found:
        progress.say(line)
    first = next(
        (line for line in found if re.search(r"\berror\b", line)),
        found[0] if found else "make gave no reason",
    )
    failed, where = f"{what} failed: {first.strip()}", f"the full log is {log}"
    if any("Killed signal" in line for line in found):  # by the host's kernel, which had no memory left
        return CannotRun(failed, where)
    return Untestable("build", failed, where)


def bound_to_us() -> list[str]:
    """What a command begins with that is to end should we be killed outright: make would go on in a folder that
    nobody locks, a session of tests with its guests."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
