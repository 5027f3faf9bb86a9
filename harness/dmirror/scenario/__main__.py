# SPDX-License-Identifier: GPL-2.0
"""`python -m dmirror.scenario FILE…`: play scenarios by hand, where the driver is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

from dmirror.model.judge import judge
from dmirror.model.told import told
from dmirror.scenario.check import load
from dmirror.scenario.faults import Faults
from dmirror.scenario.needs import surroundings, unmet
from dmirror.scenario.play import Player
from dmirror.scenario.world import Unsupported


def main(files: list[str]) -> int:
    """A line for each, and what was wrong; the exit status."""
    wrong = 0
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
            problems = judge(scenario, record)
            wrong += bool(problems)
            print(f"{'FAILED' if problems else 'passed'}   {file}: {scenario.title}")
            if problems:
                print(told(text, scenario, record, problems))
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
