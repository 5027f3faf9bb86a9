# SPDX-License-Identifier: GPL-2.0
"""Verdicts of device tests, kept from run to run: one file for each kernel, flavour and driver."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from dmirror.paths import cache

PASSED, FAILED, DEFECT, SKIPPED = "passed", "failed", "defect", "skipped"
"""`defect`: an expected failure, which says what the kernel does not keep."""


# In the name of a file, which may have 255 bytes.
_LONGEST_FLAVOUR = 100

CAUSES = ("assertion", "kernel", "crash", "hang", "timeout", "harness")
"""Of a failure. The test itself failed; the kernel complained during it; its guest died; its guest said nothing any
more; the test went on for too long; the harness, QEMU or the channel failed."""


@dataclass
class Complaint:
    """Of the kernel, during a test or between it and the next."""

    kind: str  # of dmirror.splats.KINDS
    title: str
    decoded: str  # its text with file:line and the source lines; the raw text where no symbols are at hand
    raw: str
    between: bool = False  # it came when the test was over, before the next


@dataclass
class Verdict:
    """How one test ended: its contracts, and the reason of a skip or of a known defect."""

    outcome: str
    contracts: list[str]
    reason: str = ""
    seconds: float = 0.0
    cause: str = ""  # of CAUSES, where it failed
    text: str = ""  # what pytest said of a failure
    complaints: list[Complaint] = field(default_factory=list)
    console: str = ""  # the guest's console log, relative to the run's folder
    logs: list[dict[str, Any]] = field(default_factory=list)  # event logs, see dmirror.timeline


def title(kernel: str, flavour: str, driver: str) -> str:
    """What was tested, as in a table's head: what is usual goes without saying."""
    extra = [word for word, usual in ((flavour, "default"), (driver, "dmirror")) if word != usual]
    return " ".join([kernel, *extra])


@dataclass
class Results:
    """The last verdict of every test that ran on one kernel with one driver."""

    kernel: str
    flavour: str
    driver: str
    tests: dict[str, Verdict] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in a table's head."""
        return title(self.kernel, self.flavour, self.driver)

    @property
    def _file(self) -> Path:
        flavour = self.flavour
        if len(flavour) > _LONGEST_FLAVOUR or "/" in flavour:  # of many options, or of a compiler's path
            digest = hashlib.sha256(flavour.encode()).hexdigest()[:12]
            flavour = f"{flavour[:_LONGEST_FLAVOUR].replace('/', '_')}-{digest}"
        return _folder() / f"{self.kernel}-{flavour}-{self.driver}.json".replace("/", "_")

    def add(self) -> None:
        """Put these verdicts over what is kept of the same kernel and driver."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            kept = _load(self._file).tests if self._file.exists() else {}
            text = json.dumps(
                {
                    "kernel": self.kernel,
                    "flavour": self.flavour,
                    "driver": self.driver,
                    "tests": {name: _short(verdict) for name, verdict in sorted((kept | self.tests).items())},
                },
                indent=1,
            )
            new = self._file.with_suffix(".new")
            new.write_text(text)
            new.rename(self._file)

    def of_contracts(self) -> dict[str, list[Verdict]]:
        """Verdicts by contract."""
        by_id: dict[str, list[Verdict]] = defaultdict(list)
        for verdict in self.tests.values():
            for contract in verdict.contracts:
                by_id[contract].append(verdict)
        return by_id


def kept() -> list[Results]:
    """Everything that is kept, in the order of kernels."""
    return sorted((_load(file) for file in _folder().glob("*.json")), key=lambda one: (_version(one.kernel), one.name))


def _folder() -> Path:
    return cache() / "results"


def _load(file: Path) -> Results:
    words: dict[str, Any] = json.loads(file.read_text())
    tests = {name: Verdict(**verdict) for name, verdict in words["tests"].items()}
    return Results(words["kernel"], words["flavour"], words["driver"], tests)


def _short(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in ("outcome", "contracts", "reason", "seconds")}


def _version(label: str) -> list[int]:
    return [int(word) for word in label.partition("-")[0].split(".") if word.isdigit()]
