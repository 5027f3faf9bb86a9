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

from dmirror.plugin import kmsg, splat

_CASE = re.compile(r"^(ok|not ok) \d+\b.*?(?:# (SKIP)\b *(.*))?$")
# Why hmm-tests skips every case of its second variant where the driver has no device of that kind.
_NO_COHERENT = "DEVICE_COHERENT not available"


def classify(line: str) -> str | None:
    """The verdict that a line of TAP gives; None for other lines.

    "passed", "failed", "skipped", or "left out": a case for device-coherent memory where there is none.
    """
    match = _CASE.match(line)
    if match is None:
        return None
    verdict, skip, reason = match.groups()
    if skip:
        return "left out" if _NO_COHERENT in reason else "skipped"
    return "passed" if verdict == "ok" else "failed"


def main(argv: list[str]) -> int:
    """`argv` is the hmm-tests binary; exit status 0 when nothing failed and the kernel did not complain."""
    binary = Path(argv[0])
    verdicts: Counter[str] = Counter()
    with kmsg.LogReader() as log:
        log.new()  # what the kernel said before is not of this run
        with subprocess.Popen([binary], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                verdict = classify(line.rstrip())
                if verdict is not None:
                    verdicts[verdict] += 1
        complaints = splat.parse(log.new())
    for complaint in complaints:
        print(complaint)
    if process.returncode < 0:
        print(f"{binary.name} died of signal {-process.returncode}")
    print(f"complaints of the kernel: {len(complaints)}")
    if verdicts["left out"]:
        print(f"left out: {verdicts['left out']} cases for device-coherent memory, which this driver does not have")
    print(f"{verdicts['passed']} passed, {verdicts['failed']} failed, {verdicts['skipped']} skipped")
    good = verdicts["passed"] and not verdicts["failed"] and not complaints and process.returncode == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
