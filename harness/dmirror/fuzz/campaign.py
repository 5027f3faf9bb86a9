# SPDX-License-Identifier: GPL-2.0
"""A campaign: rounds one after another, what they found, and how far they are, in a folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dmirror import gcov
from dmirror.errors import CannotRun
from dmirror.fuzz import findings, finds, rounds, shapes, trees
from dmirror.fuzz.findings import Finding
from dmirror.fuzz.finds import Found
from dmirror.fuzz.genes import Genes
from dmirror.fuzz.link import Died, Plays
from dmirror.fuzz.serve import COVER_S
from dmirror.kernel import Kernel
from dmirror.model.rules import Rules, known
from dmirror.scenario import tree
from dmirror.scenario.record import Record
from dmirror.scenario.text import format

STATE = "campaign.json"
CORPUS, FOUND = "corpus", "found"
_TRIES = 5  # how often something that was found is played again
_SHRINK_S = 90.0
_RATE_S = 20.0  # over which steps are counted for a second's
_SAVE_S = 30.0  # between two times that it writes how far it is: there are hundreds of thousands of states

Made = list[tuple[int, tuple[Genes, tree.Scenario]]]
"""What rounds.scenarios() makes of a round."""


@dataclass
class Progress:
    """How far it is; what a screen shows."""

    seed: int
    release: str
    rounds: int = 0
    trees: int = 0
    steps: int = 0
    seconds: float = 0.0  # of earlier sessions
    states: set[int] = field(default_factory=set)
    changes: set[int] = field(default_factory=set)
    known: dict[str, int] = field(default_factory=dict)  # how often each signature came
    folders: dict[str, str] = field(default_factory=dict)
    kernel_said: int = 0  # complaints in the kernel's log
    reached: dict[str, tuple[int, int]] = field(default_factory=dict)  # lines of the kernel, and all, by file
    doing: str = ""
    since: float = field(default_factory=time.monotonic)
    lately: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many steps

    def taken_s(self) -> float:
        return self.seconds + time.monotonic() - self.since

    def rate(self) -> float:
        """Steps a second, lately."""
        now = time.monotonic()
        while self.lately and now - self.lately[0][0] > _RATE_S:
            self.lately.popleft()
        return sum(count for _, count in self.lately) / min(_RATE_S, max(now - self.since, 1.0))

    def to_json(self) -> str:
        kept = {
            name: getattr(self, name) for name in ("seed", "release", "rounds", "trees", "steps", "known", "folders")
        }
        kept |= {"seconds": self.taken_s(), "states": sorted(self.states), "changes": sorted(self.changes)}
        return json.dumps(kept | {"kernel_said": self.kernel_said})

    @classmethod
    def load(cls, folder: Path) -> Progress:
        """That of a folder. Raises CannotRun where there is none."""
        try:
            fields = json.loads((folder / STATE).read_text())
        except (OSError, ValueError) as error:
            raise CannotRun(f"{folder} has no campaign: {error}", "start one: dmirror fuzz --seed=1") from error
        sets = {name: set(fields[name]) for name in ("states", "changes")}
        return cls(**fields | sets)


class Campaign:
    """`plays` makes somebody who plays for each of `guests`; `show` is called after each scenario."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        kernel: Kernel | None,
        *,
        decode: Callable[[list[str]], list[str]] = lambda lines: lines,
        show: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self._kernel = kernel
        self._decode = decode
        self._show = show
        self._rules = Rules.of(known(progress.release))  # of what is made; it is judged by what the guest says
        self._lock = threading.RLock()
        self._next = progress.rounds
        # A round takes a while to be made; until then its guest would wait.
        self._pool = ThreadPoolExecutor(1)
        self._made: dict[int, Future[Made]] = {}
        self._done: set[int] = set()
        self._until = float("inf")
        self._over = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, players: list[Plays], *, seconds: float | None = None, most: int | None = None) -> None:
        """Rounds until the time is over, or so many are done. Ctrl-C ends it with what is done so far."""
        self._until = time.monotonic() + seconds if seconds is not None else float("inf")
        last = self._next + most if most is not None else None
        threads = [threading.Thread(target=self._work, args=(plays, last), daemon=True) for plays in players]
        for thread in threads:
            thread.start()
        if self._kernel is not None:
            threading.Thread(target=self._cover, args=(self._kernel.source,), daemon=True).start()
        saved = time.monotonic()
        try:
            while alive := [thread for thread in threads if thread.is_alive()]:
                alive[0].join(0.2)
                with self._lock:
                    self._show(self.progress)
                if time.monotonic() - saved > _SAVE_S:
                    self._save()
                    saved = time.monotonic()
        finally:
            self._over.set()
            for plays in players:
                plays.close()
            for thread in threads:
                thread.join(30)
            self._pool.shutdown(cancel_futures=True)
            self._save()
        if self._errors:
            raise self._errors[0]

    def _work(self, plays: Plays, last: int | None) -> None:
        try:
            while not self._ends():
                with self._lock:
                    number = self._next
                    if number == last:
                        return
                    self._next += 1
                    made = self._ahead(number)
                self._round(plays, number, made.result())
                if not self._ends():
                    self._ended(number)
        except BaseException as error:
            if not self._over.is_set():
                self._errors.append(error)
        finally:
            plays.close()

    def _ahead(self, number: int) -> Future[Made]:
        """A round; the one after it is begun, too."""
        for one in (number, number + 1):
            if one not in self._made:
                self._made[one] = self._pool.submit(self._make, one)
        return self._made.pop(number)

    def _make(self, number: int) -> Made:
        seed = self.progress.seed
        return list(rounds.scenarios(rounds.drawn(seed, number), seed, number, self._rules))

    def _cover(self, source: Path) -> None:
        """Now and then, how much of the kernel was reached; nothing, where it does not count that."""
        while not self._over.wait(COVER_S):
            try:
                counts = gcov.summed(self.folder, source)
            except CannotRun as error:
                self._errors.append(error)  # said when all is done: what is found stays what it is
                return
            self.progress.reached = {name: (gcov.reached(lines), len(lines)) for name, lines in counts.items()}

    def _ends(self) -> bool:
        return self._over.is_set() or time.monotonic() > self._until

    def _ended(self, number: int) -> None:
        """A round is done; where one before it is not, that is where a later session goes on."""
        with self._lock:
            self._done.add(number)
            while self.progress.rounds in self._done:
                self._done.remove(self.progress.rounds)
                self.progress.rounds += 1

    def _save(self) -> None:
        with self._lock:
            fresh = self.folder / f"{STATE}.{os.getpid()}"
            fresh.write_text(self.progress.to_json())
            fresh.replace(self.folder / STATE)

    # A round

    def _round(self, plays: Plays, number: int, waiting: Made) -> None:
        while waiting and not self._ends():
            by_index = dict(waiting)
            try:
                for played in plays.play((index, scenario) for index, (_, scenario) in waiting):
                    genes, scenario = by_index.pop(played.number)
                    finding = findings.of(scenario, played)
                    self._count(scenario, played.record, wrong=finding is not None)
                    if finding is not None:
                        waiting = list(by_index.items())
                        if self._found(plays, finding, genes, number, played.number):
                            break  # what was under way then is played again
                    if self._ends():
                        return
                else:
                    return
            except Died as died:
                if self._over.is_set():
                    return
                genes, scenario = by_index.pop(died.number)
                waiting = list(by_index.items())
                self._found(plays, findings.of_death(scenario, died), genes, number, died.number)

    def _count(self, scenario: tree.Scenario, record: Record | None, *, wrong: bool) -> None:
        progress = self.progress
        states, changes = shapes.of(scenario, record) if record is not None else (set(), set())
        steps = sum(isinstance(item, tree.Step) for item in tree.walk(scenario.items))
        with self._lock:
            progress.trees += 1
            progress.steps += steps
            progress.lately.append((time.monotonic(), steps))
            progress.states |= states
            new = changes - progress.changes
            progress.changes |= changes
        if new and not wrong:
            self._keep(scenario, changes)

    def _keep(self, scenario: tree.Scenario, changes: set[int]) -> None:
        """In the corpus; those that it makes superfluous go."""
        folder = self.folder / CORPUS
        folder.mkdir(exist_ok=True)
        name = scenario.title.replace(",", "").replace(" ", "-")
        (folder / f"{name}.dms").write_text(format(scenario))
        (folder / f"{name}.json").write_text(json.dumps(sorted(changes)))

    # Findings

    def _found(self, plays: Plays, finding: Finding, genes: Genes, number: int, index: int) -> bool:
        """Shrink it and write it down, unless it is known; whether what was under way is lost."""
        with self._lock:
            progress = self.progress
            new = finding.signature not in progress.known
            progress.known[finding.signature] = progress.known.get(finding.signature, 0) + 1
            progress.kernel_said += len(finding.complaints)
        if finding.spoilt:
            plays.close()
        if new:
            self._report(plays, finding, genes, number, index)
        return new or finding.spoilt

    def _report(self, plays: Plays, finding: Finding, genes: Genes, number: int, index: int) -> None:
        title = rounds.titled(self.progress.seed, number, index)
        self.progress.doing = f"playing {title} again"

        def scenario(one: Genes) -> tree.Scenario:
            return trees.scenario(one, self._rules, title)

        again = sum(self._comes(plays, scenario(genes), finding) for _ in range(_TRIES))
        least = genes
        if again and not self._over.is_set():
            self.progress.doing = f"shrinking {title}"
            until = time.monotonic() + _SHRINK_S * (5 if finding.spoilt else 1)
            attempts = 1 if again == _TRIES else 3

            def fails(one: Genes) -> bool:
                if time.monotonic() > until or self._over.is_set():
                    return False
                return any(self._comes(plays, scenario(one), finding) for _ in range(attempts))

            least = rounds.shrunk(self.progress.seed, number, genes, fails)
        record = None
        for _ in range(_TRIES):
            came, record = self._again(plays, scenario(least), log=True)
            if came is not None and came.signature == finding.signature:
                finding = came
                break
        found = Found(finding, scenario(least), record, again, _TRIES, self.progress.seed, number, index)
        place = finds.write(self.folder / FOUND, found, self._kernel, self._decode)
        with self._lock:
            self.progress.folders[finding.signature] = str(place)
            self.progress.doing = ""
            self._save()

    def _comes(self, plays: Plays, scenario: tree.Scenario, finding: Finding) -> bool:
        came, _ = self._again(plays, scenario)
        return came is not None and came.signature == finding.signature

    def _again(
        self, plays: Plays, scenario: tree.Scenario, *, log: bool = False
    ) -> tuple[Finding | None, Record | None]:
        if self._over.is_set():
            return None, None
        try:
            played = next(iter(plays.play([(0, scenario)], log=log)))
        except Died as died:
            return findings.of_death(scenario, died), None
        finding = findings.of(scenario, played)
        if finding is not None and finding.spoilt:
            plays.close()
        return finding, played.record


def minimise(folder: Path) -> int:
    """Forget scenarios of the corpus that show nothing which others do not show; how many are left."""
    shown = {file: set(json.loads(file.read_text())) for file in folder.glob("*.json")}
    missing = set().union(*shown.values()) if shown else set()
    kept = set()
    while missing:
        best = max(shown, key=lambda file: len(shown[file] & missing))
        kept.add(best)
        missing -= shown[best]
    for file in shown.keys() - kept:
        file.unlink()
        file.with_suffix(".dms").unlink(missing_ok=True)
    return len(kept)
