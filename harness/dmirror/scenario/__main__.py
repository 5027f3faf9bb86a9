# SPDX-License-Identifier: GPL-2.0
"""`python -m dmirror.scenario FILE…`: play scenarios by hand, where the driver is loaded."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dmirror.model.judge import judge
from dmirror.model.told import told
from dmirror.scenario.check import load
from dmirror.scenario.faults import Faults
from dmirror.scenario.needs import surroundings, unmet
from dmirror.scenario.play import Player
from dmirror.scenario.world import Unsupported

_EVERY = 5.0  # s between two lines of progress
_LIMIT = 300.0  # s that one file is judged


class TooLong(Exception):
    """Judging came to its limit; how far it came."""


class Progress:
    """Says on stderr how far the judge is with a file. Called by it; raises TooLong."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        now = time.monotonic()
        if now - self._began > _LIMIT:
            raise TooLong(f"{done} of {count} steps and repetitions in {_LIMIT:.0f} s")
        if now - self._said > _EVERY:
            self._said = now
            print(f"judging  {self._file}: {done} of {count}, {now - self._began:.0f} s", file=sys.stderr, flush=True)


def main(files: list[str]) -> int:
    """A line for each, and what was wrong; the exit status."""
    wrong = unjudged = 0
    with Player() as player:
        for file in files:
            text = Path(file).read_text()
            try:
                scenario = load(Path(file))
            except Faults as faults:
                print(faults.render(text, file))
                return 2
            reason = unmet(scenario)
            if reason is None:
                try:
                    with surroundings(scenario):
                        record = player.play(scenario)
                except Unsupported as error:
                    reason = str(error)
            if reason is not None:
                print(f"skipped  {file}: {reason}")
                continue
            try:
                problems = judge(scenario, record, Progress(file))
            except TooLong as far:
                unjudged += 1
                print(f"unjudged {file}: played to its end, judged {far}; give it fewer repetitions or smaller regions")
                continue
            wrong += bool(problems)
            print(f"{'FAILED' if problems else 'passed'}   {file}: {scenario.title}")
            if problems:
                print(told(text, scenario, record, problems))
    return 1 if wrong else 2 if unjudged else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
