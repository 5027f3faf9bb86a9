# SPDX-License-Identifier: GPL-2.0
"""The fuzzer without a guest: what it makes up, how it shrinks and what it writes down. The model plays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from dmirror.errors import CannotRun
from dmirror.fuzz import alone, cprogram, finds, genes, rounds, shapes, trees, weights
from dmirror.fuzz.campaign import CORPUS, FOUND, STATE, Campaign, Progress, minimise
from dmirror.fuzz.findings import Finding
from dmirror.fuzz.serve import Played
from dmirror.fuzz.show import line, picture
from dmirror.model import invariants, settle
from dmirror.model.machine import Machine
from dmirror.model.rules import NEWEST
from dmirror.model.state import Page
from dmirror.scenario import tree
from dmirror.scenario.check import check
from dmirror.scenario.parser import parse
from dmirror.scenario.record import Done, Outcome, Record
from dmirror.scenario.text import format

RELEASE = "7.3"


def some(count: int, seed: int = 1) -> list[tree.Scenario]:
    return [trees.scenario(genes.random(Random(seed * 1000 + n)), NEWEST) for n in range(count)]


def played(scenario: tree.Scenario, seed: int = 0) -> Record:
    *_, (_, record) = settle.play(scenario, RELEASE, Random(seed))
    return record


# What is made up


def test_scenarios_are_valid_and_come_back_from_their_text() -> None:
    for scenario in some(150):
        text = format(scenario)
        assert parse(text) == scenario
        assert check(parse(text)) == ()


def test_every_step_of_the_table_occurs() -> None:
    said = "\n".join(format(scenario) for scenario in some(600))
    words = ("reads", "writes", "peeks", "snapshots", "adds", "forks", "exits", "protects", "unmaps", "maps", "moves")
    words += ("exclusively", "locks", "unlocks", "pins", "unpins", "closes", "opens", "held", "par", "evicts")
    words += (*weights.ADVICES, "to device", "to system", *weights.POINTS, "memfd", "private file", "shared")
    assert [word for word in words if word not in said] == []


def test_a_round_is_the_same_each_time() -> None:
    drawn = rounds.drawn(7, 3)
    assert drawn == rounds.drawn(7, 3) != rounds.drawn(7, 4)
    # In another process, whatever is loaded there.
    program = "from dmirror.fuzz import rounds; print(rounds.drawn(7, 3))"
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == str(drawn)


def test_scenarios_have_steps_and_are_called_by_their_place_in_the_round() -> None:
    drawn = rounds.drawn(7, 3)
    made = dict(rounds.scenarios(drawn, 7, 3, NEWEST))
    assert made == dict(rounds.scenarios(drawn, 7, 3, NEWEST))
    assert 0 < len(made) < len(drawn)
    for index, (gene, scenario) in made.items():
        assert gene == drawn[index]
        assert scenario.items
        assert scenario.title == f"seed 7, round 3, scenario {index}"


def test_what_fails_is_shrunk_to_what_makes_it_fail() -> None:
    def fails(one: genes.Genes) -> bool:
        items = trees.scenario(one, NEWEST).items
        return any(isinstance(item, tree.Fork) for item in items) and any(
            isinstance(item, tree.Exclusive) for item in items
        )

    wanted = next(one for one in rounds.drawn(1, 2) if fails(one))
    least = trees.scenario(rounds.shrunk(1, 2, wanted, fails), NEWEST)
    assert len(least.items) == 2
    assert {type(item) for item in least.items} == {tree.Fork, tree.Exclusive}


# The model alone


def test_the_model_does_not_contradict_itself() -> None:
    assert alone.attempts(4, 0, 500) == []


def break_(change: Callable[[Machine], object]) -> list[str]:
    """What the invariants say of a state that was changed, a page of which A has and B reads."""
    text = 'scenario "x"\nregion buf: anonymous 2 pages, written 1\nA migrates buf to device\nCPU reads buf[1]\n'
    machine = Machine(parse(text), NEWEST)
    for item in machine.scenario.items:
        assert isinstance(item, tree.Step)
        machine.do(item)
    assert list(invariants.broken(machine.state)) == []
    change(machine)
    return list(invariants.broken(machine.state))


def test_invariants_notice() -> None:
    def space(machine: Machine) -> dict[tuple[str, int], object]:
        return machine.state.spaces["CPU"].ptes  # type: ignore[return-value]

    def mirror(machine: Machine) -> object:
        return machine.state.mirrors["A", "CPU"]

    assert break_(lambda machine: setattr(space(machine)["buf", 0].page, "at", frozenset()))  # type: ignore[attr-defined]
    assert break_(lambda machine: machine.state.spaces["CPU"].vmas.pop(("buf", 0)))
    assert break_(lambda machine: setattr(machine.state.spaces["CPU"].vmas["buf", 0], "rights", "read-only"))
    assert break_(lambda machine: mirror(machine).moved.clear())  # type: ignore[attr-defined]
    assert break_(lambda machine: setattr(mirror(machine).entries["buf", 0], "page", Page(frozenset([1]))))  # type: ignore[attr-defined]
    assert break_(lambda machine: machine.state.spaces["CPU"].ptes.pop(("buf", 0)))
    assert break_(lambda machine: setattr(space(machine)["buf", 1], "write", False))
    assert break_(lambda machine: setattr(mirror(machine).entries, "firm", {}))  # type: ignore[attr-defined]


# A campaign, with the model in the guest's stead


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "TREES", 12)
    monkeypatch.setattr(weights, "LEAST_STEPS", 4)
    monkeypatch.setattr(weights, "MOST_STEPS", 9)


class FakeGuest:
    """Plays by the model, but for scenarios that `wrong` says something of."""

    def __init__(self, wrong: Callable[[tree.Scenario, Record], Record] = lambda _, record: record) -> None:
        self.played: list[str] = []
        self._wrong = wrong

    def play(self, scenarios: Iterable[tuple[int, tree.Scenario]], *, log: bool = False) -> Iterator[Played]:
        for number, scenario in scenarios:
            self.played.append(scenario.title)
            yield Played(number, self._wrong(scenario, played(scenario)), "", (), 0, None)

    def close(self) -> None:
        pass


def migrations_fail(scenario: tree.Scenario, record: Record) -> Record:
    """A kernel that fails every migration to a device, of the first process."""

    def fails(item: tree.Item) -> bool:
        return isinstance(item, tree.Migrate) and not item.held and item.to == "device" and item.device.process == "CPU"

    entries = [
        Done(Outcome("EIO"), entry.seen) if fails(item) and isinstance(entry, Done) else entry
        for item, entry in zip(scenario.items, record.entries, strict=True)
    ]
    return replace(record, taken=tuple(entries))


@pytest.mark.usefixtures("short_rounds")
def test_a_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    guest = FakeGuest()
    Campaign(tmp_path, Progress(5, RELEASE), None).run([guest], most=1)
    first = list(guest.played)
    assert all(title.startswith("seed 5, round 0, ") for title in first)
    again = Progress.load(tmp_path)
    assert (again.rounds, again.trees) == (1, len(first))
    assert again.known == {}
    Campaign(tmp_path, again, None).run([guest], most=1)
    assert all(title.startswith("seed 5, round 1, ") for title in guest.played[len(first) :])
    assert len(guest.played) > len(first) > 0
    assert Progress.load(tmp_path).rounds == 2


def test_a_folder_without_a_campaign_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="has no campaign"):
        Progress.load(tmp_path)


@pytest.mark.usefixtures("short_rounds")
def test_what_is_found_is_shrunk_and_reported_once(tmp_path: Path) -> None:
    Campaign(tmp_path, Progress(5, RELEASE), None).run([FakeGuest(migrations_fail)], most=2)
    progress = Progress.load(tmp_path)
    assert all("device migrates region to device: ended with EIO" in signature for signature in progress.known)
    assert sum(progress.known.values()) > len(progress.known)
    places = list((tmp_path / FOUND).iterdir())
    assert sorted(map(str, places)) == sorted(progress.folders.values())
    texts = {place: next(place.glob("*.dms")).read_text() for place in places}
    # One that says more of what is allowed may need a step before.
    place = min(texts, key=lambda place: len(parse(texts[place]).items))
    assert len(parse(texts[place]).items) == 1
    assert "fails EIO" in texts[place]
    assert "5 of 5" in json.loads((place / "found.json").read_text())["came again"]
    (test,) = place.glob("test_*.py")
    compile(test.read_text(), str(test), "exec")
    assert "> " in (place / "problem.txt").read_text()


@pytest.mark.usefixtures("short_rounds")
def test_a_flaky_failure_is_said_to_be_flaky(tmp_path: Path) -> None:
    times = iter(range(10_000))

    def sometimes(scenario: tree.Scenario, record: Record) -> Record:
        return migrations_fail(scenario, record) if next(times) % 3 == 2 else record

    Campaign(tmp_path, Progress(5, RELEASE), None).run([FakeGuest(sometimes)], most=2)
    place = next((tmp_path / FOUND).iterdir())
    again, _, tries, _ = json.loads((place / "found.json").read_text())["came again"].split()
    assert 0 < int(again) < int(tries)
    assert "flaky" in (place / "problem.txt").read_text()


def shown(folder: Path) -> set[int]:
    return {change for file in folder.glob("*.json") for change in json.loads(file.read_text())}


@pytest.mark.usefixtures("short_rounds")
def test_the_corpus_shows_all_that_was_seen(tmp_path: Path) -> None:
    Campaign(tmp_path, Progress(5, RELEASE), None).run([FakeGuest()], most=1)
    left = minimise(tmp_path / CORPUS)
    assert left == len(list((tmp_path / CORPUS).glob("*.dms")))
    assert shown(tmp_path / CORPUS) == set(json.loads((tmp_path / STATE).read_text())["changes"])


def test_the_corpus_shows_nothing_twice(tmp_path: Path) -> None:
    for name, changes in (("a", [1, 2]), ("b", [2, 3, 4]), ("c", [1, 4])):
        (tmp_path / f"{name}.json").write_text(json.dumps(changes))
        (tmp_path / f"{name}.dms").touch()
    assert minimise(tmp_path) == 2
    assert shown(tmp_path) == {1, 2, 3, 4}
    assert len(list(tmp_path.glob("*.dms"))) == 2


def test_states_do_not_depend_on_frames() -> None:
    scenario = some(1)[0]
    (states, changes), (others, _) = (shapes.of(scenario, played(scenario)) for _ in range(2))
    assert states == others
    assert states
    assert changes


def test_what_is_the_same_has_one_signature() -> None:
    first = Finding("model", "A migrates buf to device", "buf[3] of kid is ram; the model says A")
    second = Finding("model", "B migrates two to device", "two[1] of CPU is ram; the model says B")
    assert first.signature == second.signature
    assert first.signature != Finding("model", "A reads buf", first.text).signature


def drawn(progress: Progress) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(picture(progress))
    return capture.get()


def test_a_screen_and_a_line_say_how_far_it_is() -> None:
    progress = Progress(5, RELEASE, rounds=2, trees=80, steps=900, known={"model: x": 3}, kernel_said=1)
    assert "round 2" in line(progress)
    assert "the kernel complained 1 times" in line(progress)
    assert "reached" not in drawn(progress)
    progress.reached = {"mm/hmm.c": (237, 395)}
    assert "lines: 237 of 395 of hmm.c" in line(progress)
    assert "reached  lines: 237 of 395 of hmm.c" in drawn(progress)


# What is written down


def test_c_programs_compile(tmp_path: Path) -> None:
    for number, scenario in enumerate(some(25)):
        source = tmp_path / f"{number}.c"
        source.write_text(cprogram.program(scenario))
        assert len(source.read_text().splitlines()) <= cprogram.MOST_LINES
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source]
        subprocess.run(command, check=True)


def test_a_c_program_says_what_it_leaves_out() -> None:
    text = 'scenario "x"\nregion buf: memfd 2 pages\nA peeks buf\nCPU pins buf[0]\nA reads buf\n'
    program = cprogram.program(parse(text))
    assert "buf is memfd memory" in program
    assert "A peeks buf" in program
    assert "device(READ, fd[0][0]" in program


def test_a_death_has_its_splat_in_the_folder(tmp_path: Path) -> None:
    scenario = some(1)[0]
    found = finds.Found(Finding("kernel", "", "panic", died=True), scenario, None, 1, 5, 1, 2, 3)
    place = finds.write(tmp_path, found, None, lambda lines: lines)
    assert "1 of 5" in (place / "problem.txt").read_text()
