# SPDX-License-Identifier: GPL-2.0
"""What is wrong with what came of a scenario, and whether that is known already."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dmirror import splats
from dmirror.fuzz.link import Died
from dmirror.fuzz.serve import Played
from dmirror.model.judge import judge
from dmirror.scenario import tree
from dmirror.scenario.text import format_item
from dmirror.splats import Splat

# What differs between two scenarios that show the same: numbers, regions, processes, devices.
_PARTICULAR = (
    (re.compile(r"0x[0-9a-f]+|\d+"), "#"),
    (re.compile(r"\b(?:buf|two)\b"), "region"),
    (re.compile(r"\b(?:CPU|kid|boy)\b"), "process"),
    (re.compile(r"\b[AB]\b"), "device"),
)


@dataclass(frozen=True)
class Finding:
    """`by`: "model", "kernel" for what the kernel said or did not do, "devices" for what is left there, "harness"."""

    by: str
    step: str
    text: str
    complaints: tuple[Splat, ...] = ()
    died: bool = False

    @property
    def signature(self) -> str:
        """What all that are the same have."""
        text = f"{self.by}: {self.step}: {self.text.partition(chr(10))[0]}"
        for pattern, word in _PARTICULAR:
            text = pattern.sub(word, text)
        return text

    @property
    def spoilt(self) -> bool:
        """Whether the guest is not what it was before."""
        return self.died or self.by in ("devices", "harness") or bool(self.complaints)


def of(scenario: tree.Scenario, played: Played) -> Finding | None:  # noqa: PLR0911
    """The gravest thing that is wrong."""
    complaints = tuple(splats.complaints(played.said))
    if complaints:
        return Finding("kernel", "", str(complaints[0].title), complaints)
    if played.taints:
        return Finding("kernel", "", f"the kernel became tainted: {played.taints:#x}")
    if played.record is None:
        return Finding("harness", "", played.trouble.strip().splitlines()[-1])
    # A random scenario expects nothing, so what its file says of a failure is nothing, too.
    try:
        problems = [problem for problem in judge(scenario, played.record) if problem.by != "file"]
    except AssertionError as error:
        return Finding("model", "", f"the model contradicts itself: {error}")
    if problems:
        first = problems[0]
        step = _step(first.item)
        return Finding(first.by, step, "\n".join(problem.text for problem in problems))
    if played.left is not None:
        before, after = played.left
        return Finding("devices", "", f"pages in use and contexts are {after}, before it {before}")
    return None


def of_death(scenario: tree.Scenario, died: Died) -> Finding:
    """A guest that died of it."""
    return Finding("kernel", "", str(died), tuple(died.complaints), died=True)


def _step(item: tree.Item | None) -> str:
    """The kind of a step: its line without what is particular to it."""
    if item is None:
        return "before the first step"
    line = format_item(item)[0]
    line = re.sub(r"\[[^]]*\]", "", line)
    return re.sub(r" = .*", " =", line)
