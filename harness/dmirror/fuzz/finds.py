# SPDX-License-Identifier: GPL-2.0
"""The folder of something that was found: all that somebody needs who has never heard of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dmirror.fuzz import cprogram
from dmirror.fuzz.findings import Finding
from dmirror.kernel import Kernel
from dmirror.model.judge import judge
from dmirror.model.told import told
from dmirror.scenario import parser, tree
from dmirror.scenario.record import Done, Record
from dmirror.scenario.text import format

_TEST = '''# SPDX-License-Identifier: GPL-2.0
"""{title}: {signature}"""

from __future__ import annotations

from dmirror.model.judge import judge
from dmirror.scenario.parser import parse
from dmirror.scenario.play import Player

TEXT = """\\
{text}"""


def test_{name}() -> None:
    scenario = parse(TEXT)
    with Player() as player:
        record = player.play(scenario)
    assert [problem.text for problem in judge(scenario, record)] == []
'''


@dataclass(frozen=True)
class Found:
    """A finding, shrunk: it came `again` times of `tries`."""

    finding: Finding
    scenario: tree.Scenario
    record: Record | None
    again: int
    tries: int
    seed: int
    round: int
    index: int


def write(folder: Path, found: Found, kernel: Kernel | None, decode: Callable[[list[str]], list[str]]) -> Path:
    """Make the folder. `decode` puts file and line below the lines of a complaint."""
    finding = found.finding
    if found.record is not None:
        found = replace(found, scenario=_with_failures(found.scenario, found.record))
    name = re.sub(r"\W+", "_", f"{finding.by} {finding.step or finding.text}".lower())[:48].strip("_")
    place = folder / f"{name}_{found.round}_{found.index}"
    place.mkdir(parents=True, exist_ok=True)
    text = format(found.scenario)
    (place / f"{name}.dms").write_text(text)
    (place / f"test_{name}.py").write_text(
        _TEST.format(title=found.scenario.title, signature=finding.signature, text=text, name=name)
    )
    (place / f"{name}.c").write_text(cprogram.program(found.scenario))
    (place / "problem.txt").write_text(_problem(found, text))
    for number, splat in enumerate(finding.complaints):
        lines = list(map(str, splat.lines))
        (place / f"splat-{number}.txt").write_text("\n".join(decode(lines)) + "\n")
    said = {
        "signature": finding.signature,
        "seed": found.seed,
        "round": found.round,
        "scenario": found.index,
        "came again": f"{found.again} of {found.tries} times",
    }
    if kernel is not None:
        said |= {"release": kernel.release, "label": kernel.label, "flavour": kernel.flavour}
        said |= {"source": kernel.identity, "config": kernel.config}
    (place / "found.json").write_text(json.dumps(said, indent=1) + "\n")
    return place


def _with_failures(scenario: tree.Scenario, record: Record) -> tree.Scenario:
    """With the failures that there were, so that nothing but the finding is wrong with it."""
    items = list(scenario.items)
    for number, (item, entry) in enumerate(zip(items, record.entries, strict=False)):
        if isinstance(item, tree.Step) and isinstance(entry, Done):
            failed = entry.outcome.failed
            items[number] = replace(item, outcome=tree.Fails(failed) if failed else None)
    return replace(scenario, items=tuple(items))


def _problem(found: Found, text: str) -> str:
    head = [found.finding.text, "", f"It came again {found.again} of {found.tries} times."]
    if found.again < found.tries:
        head[-1] += " It is flaky: what is below need not be the cause."
    if found.record is None:
        return "\n".join([*head, "", text])
    # Parsed, its items know their lines.
    scenario = replace(parser.parse(text), title=found.scenario.title)
    problems = judge(scenario, found.record)
    return "\n".join([*head, "", told(text, scenario, found.record, problems)]) + "\n"
