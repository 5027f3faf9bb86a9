# SPDX-License-Identifier: GPL-2.0
"""A run in one line: how many tests ended how, in which time, and whether it came to its end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dmirror.journal import Run
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Complaint, Verdict

OUTCOMES = (PASSED, FAILED, DEFECT, SKIPPED)

# What XML 1.0 cannot hold (section 2.2), UTF-8 neither, and no reader can see.
_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A line of pytest-xdist's above the text of each failure.
_WORKER = re.compile(r"^\[gw\d+\] \S+ -- Python .*\n?", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\n)")


@dataclass(frozen=True)
class Summary:
    """`name` tells the run from the others of the report; `counts` has every one of OUTCOMES."""

    run: Run
    name: str
    counts: dict[str, int]
    seconds: float  # from its start to its end; where it has none, those of its tests

    @property
    def cut_off(self) -> str:
        """How far it came, where it did not come to its end; empty where it did."""
        done, planned = len(self.run.tests), self.run.planned
        if not done:
            return "ended before its first test"
        if self.run.ended is not None and done >= (planned or 0):
            return ""
        return f"cut off after {done} of {planned or 'unknown'} tests"

    @property
    def failed(self) -> bool:
        """Whether somebody has to look: a test failed, or tests have no verdict."""
        return bool(self.counts[FAILED] or self.cut_off)


def summaries(runs: Iterable[Run]) -> list[Summary]:
    """One for each, in their order."""
    runs = list(runs)
    same = Counter(run.subject.name for run in runs)
    found = []
    for run in runs:
        name = run.subject.name
        outcomes = Counter(verdict.outcome for verdict in run.tests.values())
        spent = sum(verdict.seconds for verdict in run.tests.values())
        found.append(
            Summary(
                run,
                name if same[name] == 1 else f"{name} ({run.folder.name})",
                {outcome: outcomes[outcome] for outcome in OUTCOMES},
                spent if run.ended is None else run.ended - run.started,
            )
        )
    return found


def by_file(run: Run) -> dict[str, dict[str, Verdict]]:
    """Verdicts by file, then by what stands behind it in the node id."""
    files: dict[str, dict[str, Verdict]] = {}
    for nodeid, verdict in run.tests.items():
        file, _, test = nodeid.partition("::")
        files.setdefault(file, {})[test or file] = verdict
    return files


def headline(verdict: Verdict) -> str:
    """Why a test failed, in one line: the kernel's words where it is the cause, else the first of pytest's marked."""
    if verdict.complaints and verdict.cause in ("kernel", "crash", "hang"):
        return one_line(verdict.complaints[0].title)
    lines = [line.strip() for line in words(verdict).splitlines() if line.strip()]
    marked = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    first = next(iter(marked or lines), verdict.reason)
    return one_line(first.removeprefix(f"{verdict.cause}: "))


def words(verdict: Verdict) -> str:
    """What pytest said of a failure, without the complaints, which are there by themselves."""
    text = verdict.text
    for complaint in verdict.complaints:
        text = text.replace(complaint.decoded.strip() or complaint.title, "")
    return re.sub(r"\n{3,}", "\n\n", _WORKER.sub("", printable(text))).strip("\n")


def said(complaint: Complaint) -> str:
    """A complaint's title, and whether it came too late to be this test's for certain."""
    title = one_line(complaint.title)
    return f"{title} (after the test, before the next)" if complaint.between else title


def printable(text: str) -> str:
    """Without terminal escapes; other characters that cannot be written stand there by number."""
    return _UNPRINTABLE.sub(lambda found: f"#x{ord(found.group()):02X}", _ESCAPES.sub("", text))


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


def duration(seconds: float) -> str:
    """For people: 0.4 s, 41 s, 12 min, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
