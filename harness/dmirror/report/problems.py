# SPDX-License-Identifier: GPL-2.0
"""What broke: failures of all runs, those together that look like one problem."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from dmirror.report.summary import Summary, headline
from dmirror.results import FAILED, Verdict

# What says most of the kernel comes first.
_ORDER = ("kernel", "crash", "hang", "timeout", "assertion", "harness")

# The same problem has other addresses, processes and lines on the next kernel.
_VARIES = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


@dataclass(frozen=True)
class Failure:
    """One test in one run; `number` is its own in the report, from 1."""

    number: int
    nodeid: str
    run: Summary
    verdict: Verdict


@dataclass
class Problem:
    """Failures of one cause and of one test function, or with the same words of the kernel."""

    cause: str
    title: str
    failures: list[Failure] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """The test function, where it is a problem of one."""
        functions = {nodeid.rpartition("::")[2].partition("[")[0] for nodeid in self.tests}
        return functions.pop() if len(functions) == 1 else ""

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(failure.run.name for failure in self.failures))

    @property
    def tests(self) -> list[str]:
        return list(dict.fromkeys(failure.nodeid for failure in self.failures))


def problems(runs: Iterable[Summary]) -> list[Problem]:
    """All failures of the runs, the worst cause first, then what concerns most of them."""
    found: dict[tuple[str, str], Problem] = {}
    number = 0
    for run in runs:
        for nodeid, verdict in run.run.tests.items():
            if verdict.outcome == FAILED:
                number += 1
                title = headline(verdict)
                problem = found.setdefault(_key(nodeid, verdict, title), Problem(verdict.cause, title))
                problem.failures.append(Failure(number, nodeid, run, verdict))
    return sorted(found.values(), key=lambda one: (_rank(one.cause), -len(one.failures)))


def _key(nodeid: str, verdict: Verdict, title: str) -> tuple[str, str]:
    if verdict.cause in ("kernel", "crash", "harness"):
        return verdict.cause, _VARIES.sub("#", title)
    return verdict.cause, nodeid.partition("[")[0]


def _rank(cause: str) -> int:
    return _ORDER.index(cause) if cause in _ORDER else len(_ORDER)
