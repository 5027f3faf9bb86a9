# SPDX-License-Identifier: GPL-2.0
"""Why a guest died under a test, or had to be ended: the class of the failure and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmirror import splats
from dmirror.plugin.stall import STANDS_HERE
from dmirror.vm import console
from dmirror.vm.guest import DIED, STUCK, Outcome, panic

_SHELL_SIGNAL = 128  # a shell's status for a command that a signal ended, less the signal


@dataclass(frozen=True)
class Death:
    """`cause` is one of results.CAUSES; `complaints` are those of the kernel since the test began."""

    cause: str
    sentence: str
    complaints: list[splats.Splat]


def of_test(log: Path, outcome: Outcome | None, *, ended_after: float | None, silent: bool, error: str | None) -> Death:
    """The death of a guest in a test. `log` is its console.

    `ended_after`: it was ended after so many seconds, as it was `silent` or the test had had its time; else it ended
    by itself, and `outcome` says how, if its interpreter lived to see it. `error`: that of pytest or of a hook in the
    guest, which ended its session.
    """
    said = splats.messages(console.since_test(log))
    complaints = splats.parse(said)
    if ended_after is not None:
        cause, sentence = _ended(complaints, any(STANDS_HERE in line for line in said), ended_after, silent)
    elif error is not None:
        cause, sentence = "harness", f"pytest in the guest ended by an error: {_last_line(error)}"
    else:
        cause, sentence = _died(log, complaints, outcome)
    # Running out of memory is no complaint, but where the guest died of it.
    said_of_it = [one for one in complaints if not splats.harmless(one) or (one.kind == "OOM" and cause == "crash")]
    return Death(cause, sentence, said_of_it)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it has no words")


def _ended(complaints: list[splats.Splat], python_lives: bool, seconds: float, silent: bool) -> tuple[str, str]:
    what = f"no sign of life for {seconds:g} s" if silent else f"no end within {seconds:g} s"
    stuck = [one for one in complaints if one.kind in STUCK]
    if stuck:
        return "hang", f"{what}, so its guest was ended; {stuck[0].title}"
    if silent or not python_lives:
        return "hang", f"{what}, so its guest was ended; it said nothing any more"
    return "timeout", f"a hang: {what}, so its guest was ended, which was alive"


def _died(log: Path, complaints: list[splats.Splat], outcome: Outcome | None) -> tuple[str, str]:
    panicked = panic(log)
    if panicked:
        return "crash", panicked
    if outcome is None:
        return "harness", "the channel to the guest was lost, and its QEMU was ended"
    killed = [one for one in complaints if one.kind == "OOM"]
    if killed:
        return "crash", f"the guest ran out of memory: {killed[-1].title}"
    if outcome.status is not None and outcome.status != DIED:
        number = outcome.status - _SHELL_SIGNAL
        how = f"of signal {number}" if number > 0 else f"with status {outcome.status}"
        return "crash", f"the interpreter in the guest ended {how}"
    if outcome.failure and outcome.failure.startswith("QEMU"):
        return "harness", outcome.failure
    return "crash", outcome.failure or "the guest ended without a panic on its console"
