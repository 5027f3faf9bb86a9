# SPDX-License-Identifier: GPL-2.0
"""An interpreter that is to change no mapping does not."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from pathlib import Path
from dmirror.memory import Data
from dmirror.threads import Task
{quieten}

def deep(frames):
    return deep(frames - 1) if frames else 0

def work():
    deep(500)
    blocks = [Data(16) for _ in range(64)]
    small = [(number, str(number)) for number in range(10_000)]
    return len(blocks) + len(small)

def mappings():
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "[stack]" not in line]

mappings()
before = mappings()
work()
alone = mappings()
with Task(work) as first, Task(work) as second:
    during = mappings()
after = mappings()
print(sum(before != state for state in (alone, during, after)))
"""


def changed(quieten: str) -> int:
    code = SCRIPT.format(quieten=quieten)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_a_quiet_interpreter_maps_nothing_for_ordinary_work() -> None:
    assert changed("from dmirror.quiet import quieten; quieten()") == 0


def test_without_it_the_same_work_does() -> None:
    assert changed("") > 0
