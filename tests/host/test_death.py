# SPDX-License-Identifier: GPL-2.0
"""Of what a guest died, by its console and by how it ended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dmirror.plugin.death import of_test
from dmirror.plugin.stall import STANDS_HERE
from dmirror.vm.guest import DIED, Outcome

BEFORE = "[    1.0] BUG: soft lockup - CPU#0 stuck for 9s! [before:1]\n[    2.0] dmirror-test: test_x\n"
LOCKUP = "[    9.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [python:80]\n"
OOM = """\
[    9.0] python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0
[    9.1] Out of memory: Killed process 80 (python) total-vm:1kB
"""
PANIC = "[    9.0] Kernel panic - not syncing: sysrq triggered crash\n"


ENDED = {"outcome": None, "ended_after": 60.0, "silent": False, "error": None}


def died(status: int | None = None, failure: str | None = None) -> dict[str, Any]:
    return ENDED | {"outcome": Outcome(status, came_up=True, failure=failure), "ended_after": None}


@pytest.mark.parametrize(
    ("said", "how", "cause", "sentence"),
    [
        (LOCKUP + STANDS_HERE, ENDED, "hang", "soft lockup"),
        ("", ENDED, "hang", "no end within 60 s.*said nothing any more"),
        ("", ENDED | {"silent": True}, "hang", "no sign of life for 60 s"),
        (STANDS_HERE, ENDED, "timeout", "no end within 60 s.*was alive"),
        (PANIC, died(), "crash", "panicked: sysrq triggered crash"),
        (OOM, died(failure="the guest ended before its command"), "crash", "ran out of memory"),
        ("", died(139), "crash", "ended of signal 11"),
        ("", died(3), "crash", "ended with status 3"),
        ("", died(DIED), "crash", "without a panic"),
        ("", died(failure="QEMU was ended by SIGKILL"), "harness", "QEMU was ended by SIGKILL"),
        ("", ENDED | {"ended_after": None}, "harness", "the channel to the guest was lost"),
        ("", ENDED | {"ended_after": None, "error": "File x\nOSError: no\n"}, "harness", "an error: OSError: no$"),
    ],
)
def test_each_death_has_its_class(tmp_path: Path, said: str, how: dict[str, Any], cause: str, sentence: str) -> None:
    log = tmp_path / "console.log"
    log.write_text(BEFORE + said)
    death = of_test(log, **how)
    assert death.cause == cause
    assert re.search(sentence, death.sentence), death.sentence
    assert all("before" not in one.title for one in death.complaints)
