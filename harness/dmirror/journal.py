# SPDX-License-Identifier: GPL-2.0
"""The record of one run on one kernel, in its folder: written verdict by verdict, so that nothing that happens later
takes one away."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dmirror.results import Complaint, Verdict, title

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Subject:
    """What was tested, and by what."""

    kernel: str  # its label, such as 7.3.4
    release: str  # uname -r
    source: str  # identity of the tree, hex
    config: str  # digest of its .config, hex
    flavour: str
    driver: str
    harness: str  # git commit of this checkout, with + behind it where files differ; or "unknown"
    accelerator: str

    @property
    def name(self) -> str:
        """As in a table's head."""
        return title(self.kernel, self.flavour, self.driver)


@dataclass
class Run:
    """One session of pytest on one kernel."""

    folder: Path
    subject: Subject
    started: float  # seconds since 1970
    ended: float | None = None  # None: it was cut off
    planned: int | None = None  # tests it was to run; None: it did not come to that
    booted_again: list[str] = field(default_factory=list)  # why, for each guest
    tests: dict[str, Verdict] = field(default_factory=dict)  # by node id, in the order of their verdicts


class Journal:
    """Writes the record, or goes on with one; every line is in the file when the call returns."""

    def __init__(self, folder: Path, subject: Subject) -> None:
        file = folder / NAME
        cut_off = file.exists() and not file.read_bytes().endswith(b"\n")
        self._file = file.open("a", encoding="utf-8", buffering=1)
        if cut_off:
            self._file.write("\n")
        self._line(subject=asdict(subject), started=time.time())

    def plan(self, count: int) -> None:
        """How many tests there will be."""
        self._line(planned=count)

    def add(self, nodeid: str, verdict: Verdict) -> None:
        """A verdict; one that comes later for the same test takes its place."""
        self._line(test=nodeid, verdict=asdict(verdict))

    def booted_again(self, why: str) -> None:
        """A guest was, whose QEMU died before it was up."""
        self._line(booted_again=why)

    def end(self) -> None:
        """Every test has its verdict."""
        self._line(ended=time.time())

    def close(self) -> None:
        """Close the file; without end() before, the run counts as cut off."""
        self._file.close()

    def _line(self, **words: Any) -> None:
        self._file.write(json.dumps(words) + "\n")


def load(folder: Path) -> Run:
    """The record of a run. FileNotFoundError if it has none; a line that was cut off is not one."""
    run: Run | None = None
    for line in (folder / NAME).read_text(encoding="utf-8").splitlines():
        try:
            words = json.loads(line)
        except ValueError:
            continue
        if "subject" in words:
            run = run or Run(folder, Subject(**words["subject"]), words["started"])
            run.ended = None
        elif run is not None and "test" in words:
            verdict = words["verdict"]
            verdict["complaints"] = [Complaint(**one) for one in verdict["complaints"]]
            run.tests[words["test"]] = Verdict(**verdict)
        elif run is not None:
            run.planned = words.get("planned", run.planned)
            run.booted_again += [words["booted_again"]] if "booted_again" in words else []
            run.ended = words.get("ended", run.ended)
    if run is None:
        raise FileNotFoundError(f"{folder / NAME} has no beginning")
    return run
