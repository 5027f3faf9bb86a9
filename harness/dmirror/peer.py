# SPDX-License-Identifier: GPL-2.0
"""Runs a tree's own hmm-tests where the driver is loaded, and says in one line how it went.

Its TAP is read case by case; a complaint of the kernel in its log counts as a failure of the run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dmirror import splats
from dmirror.plugin import kmsg

_CASE = re.compile(r"^(ok|not ok) \d+\b")
# A case says why it is skipped in a line of its own; the harness of 6.1 then counts it as passed.
_SKIP = re.compile(r"^#\s+SKIP\s+(.*)")
# Why hmm-tests skips every case of its second variant where the driver has no device of that kind.
_NO_COHERENT = "DEVICE_COHERENT not available"


class Tap:
    """Reads TAP line by line and counts verdicts.

    "passed", "failed", "skipped", or "left out": a case for device-coherent memory where there is none.
    """

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self._skipped: str | None = None

    def read(self, line: str) -> None:
        """Take the next line."""
        skip, case = _SKIP.match(line), _CASE.match(line)
        if skip:
            self._skipped = skip[1]
        elif case:
            self.verdicts[self._verdict(case[1] == "ok")] += 1
            self._skipped = None

    def _verdict(self, good: bool) -> str:
        if self._skipped is None:
            return "passed" if good else "failed"
        return "left out" if _NO_COHERENT in self._skipped else "skipped"


def main(argv: list[str]) -> int:
    """`argv` is the hmm-tests binary; exit status 0 when nothing failed and the kernel did not complain."""
    binary = Path(argv[0])
    tap = Tap()
    with kmsg.LogReader() as log:
        log.new()  # what the kernel said before is not of this run
        with subprocess.Popen([binary], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                tap.read(line)
        complaints = splats.complaints(log.new())
    verdicts = tap.verdicts
    for complaint in complaints:
        print(complaint)
    if process.returncode < 0:
        print(f"{binary.name} died of signal {-process.returncode}")
    print(f"complaints of the kernel: {len(complaints)}")
    if verdicts["left out"]:
        print(f"left out: {verdicts['left out']} cases for device-coherent memory: the driver has no such device")
    print(f"{verdicts['passed']} passed, {verdicts['failed']} failed, {verdicts['skipped']} skipped")
    good = verdicts["passed"] and not verdicts["failed"] and not complaints and process.returncode == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
