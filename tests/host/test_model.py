# SPDX-License-Identifier: GPL-2.0
"""The model: what it says of the stories of HMM, where it leaves something open, and what of it is noticed."""

import errno
import struct
import time
from dataclasses import replace
from random import Random

import pytest

from dmirror.memory import Span
from dmirror.model import races, settle
from dmirror.model.compare import visible
from dmirror.model.judge import judge
from dmirror.model.machine import Machine
from dmirror.model.predict import Prediction
from dmirror.model.rules import MOVES_SEVERAL, NEWEST, Rules, known
from dmirror.model.state import ANYTHING, added
from dmirror.scenario import __main__ as by_hand
from dmirror.scenario import tree
from dmirror.scenario.features import moves_several
from dmirror.scenario.parser import parse
from dmirror.scenario.record import Done, Entry, Outcome, Record, Rounds
from dmirror.scenario.seen import Raw
from dmirror.scenario.words import CAPABILITIES

MAPPED, MAPPED_WRITE, MAPPED_ATOMIC = 1 << 8, 1 << 9, 1 << 10
VALID, WRITE, ERROR, ZERO, DEVICE = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6


def scenario(text: str) -> tree.Scenario:
    return parse(f'scenario "a story"\ncontract L-11\n{text}\n')


def played(text: str) -> Machine:
    story = scenario(text)
    machine = Machine(story, NEWEST)
    for item in story.items:
        assert isinstance(item, tree.Step)
        machine.do(item)
    return machine


def where(machine: Machine, process: str = "CPU", region: str = "buf") -> list[str]:
    places = machine.places(tree.Pages(region))
    return ["|".join(sorted(visible(machine.state, process, place))) for place in places]


def entries(machine: Machine, device: str, process: str = "CPU") -> list[str]:
    table = machine.state.mirrors[(device, process)].entries
    found = [table.get(place) for place in machine.places(tree.Pages("buf"))]
    return ["-" if one is None else "rw" if one.write else "r" for one in found]


class TestStories:
    def test_a_device_read_of_nothing_maps_the_zero_page_to_read(self):
        machine = played("region buf: anonymous 2 pages\nA reads buf")
        assert where(machine) == ["zero", "zero"]
        assert entries(machine, "A") == ["r", "r"]

    def test_a_migration_takes_the_entries_of_others_and_leaves_its_own(self):
        machine = played("region buf: anonymous 2 pages, written 1\nA migrates buf[0] to device\nB reads buf[1]\n"
                         "A reads buf[0]\nA migrates buf to device")  # fmt: skip
        assert where(machine) == ["A", "A"]
        assert entries(machine, "A") == ["rw", "rw"]
        assert entries(machine, "B") == ["-", "-"]

    def test_fork_makes_entries_read_only_and_takes_those_of_the_parents_devices(self):
        machine = played("region buf: anonymous 2 pages, written 1\nA migrates buf to device\nCPU forks kid\n"
                         "A of kid reads buf")  # fmt: skip
        assert where(machine) == where(machine, "kid") == ["A", "A"]
        assert entries(machine, "A") == ["-", "-"]
        assert entries(machine, "A", "kid") == ["r", "r"]
        assert not any(pte.write for pte in machine.state.spaces["CPU"].ptes.values())

    def test_who_writes_a_shared_device_page_has_a_copy_and_the_other_the_page(self):
        machine = played("region buf: anonymous 1 page, written 1\nA migrates buf to device\nCPU forks kid\n"
                         "CPU writes buf = 2")  # fmt: skip
        ours, theirs = (machine.state.spaces[name].ptes[("buf", 0)].page for name in ("CPU", "kid"))
        assert ours is not theirs
        assert (ours.values, theirs.values) == ({2}, {1})
        assert where(machine) == where(machine, "kid") == ["ram"]

    def test_discarded_pages_are_gone_for_cpu_and_device(self):
        machine = played("region buf: anonymous 2 pages, written 1\nA migrates buf to device\nCPU advises buf dontneed")
        assert where(machine) == ["none", "none"]
        assert entries(machine, "A") == ["-", "-"]

    @pytest.mark.parametrize(
        ("step", "failed"),
        [
            ("CPU writes buf = 1", "SIGSEGV"),
            ("A writes buf = 1", "EPERM"),
            ("A takes buf exclusively", "EFAULT"),
        ],
    )
    def test_read_only_memory_is_written_by_nobody(self, step, failed):
        story = scenario(f"region buf: anonymous 1 page, read-only, written 1\n{step}")
        assert failed in Machine(story, NEWEST).do(story.items[0]).failed

    def test_a_pinned_page_and_one_of_a_file_stay(self):
        story = scenario("region buf: anonymous 2 pages, written 1\nregion f: shared 1 page, written 1\n"
                         "CPU pins buf[0]\nA migrates buf to device\nA migrates f to device")  # fmt: skip
        machine = Machine(story, NEWEST)
        assert [machine.do(item).failed for item in story.items] == [{""}, {"ENOENT"}, {"ENOENT"}]
        assert where(machine) == ["ram", "A"]

    def test_a_store_of_its_own_page_after_the_child_left_may_copy_or_not(self):
        machine = played("region buf: anonymous 1 page, written 1\nCPU forks kid\nkid exits\nA reads buf\n"
                         "CPU writes buf = 2")  # fmt: skip
        assert machine.state.mirrors[("A", "CPU")].entries[("buf", 0)].maybe


def test_where_kernels_differ_it_goes_by_what_they_have():
    assert Rules.of({"device_thp"}) == Rules(True, False, False)
    assert Rules.of({"coherent_exclusive"}) == Rules(False, True, False)
    assert Rules.of({MOVES_SEVERAL}) == Rules(False, False, True)
    assert Rules.of(known("7.2.13-dmirror")) == Rules(True, True, True)
    assert Rules.of(known("6.12.117")) == Rules(False, False, False)
    assert {"steer", "eviction"} < known("6.1") < known("6.12.117") | {"carried"} < known("7.3.4")
    assert known("7.3") == {*CAPABILITIES, MOVES_SEVERAL}


def test_whether_several_mappings_move_is_tried(monkeypatch):
    def fails(number):
        def move(*_):
            raise OSError(number, "mremap")

        return move

    monkeypatch.setattr(Span, "move", lambda *_: None)
    assert moves_several()
    monkeypatch.setattr(Span, "move", fails(errno.EFAULT))
    assert not moves_several()
    monkeypatch.setattr(Span, "move", fails(errno.ENOMEM))
    with pytest.raises(OSError, match="mremap"):
        moves_several()


@pytest.mark.parametrize("moves", [True, False])
def test_a_record_is_judged_by_what_its_kernel_had(moves):
    """Of a kernel of that release that has something else than others of it."""
    story = scenario(
        "region buf: anonymous 4 pages, written 1\nCPU protects buf[0] read-only\nCPU moves buf[0:2] to buf[2:4]"
    )
    *_, (_, taken) = settle.play(story, "7.3" if moves else "6.12", Random(1))
    others = known("6.12" if moves else "7.3")
    assert [one for one in judge(story, taken) if one.by == "model"] == []
    assert [one for one in judge(story, replace(taken, features=others)) if one.by == "model"]


def test_a_kernel_is_not_asked_of_what_it_lacks():
    story = scenario("needs capability device_thp\nregion buf: anonymous 1 page\nA reads buf")
    assert Prediction(story, "6.12").lines[-1] == "not for 6.12: needs capability device_thp"
    assert "A reads buf" in "\n".join(Prediction(story, "7.3").lines)


SMALL, HUGE = "4 pages", "1 huge page"
TO_SYSTEM = "A migrates buf to system"


@pytest.mark.parametrize(
    ("size", "held", "meanwhile", "expected"),
    [
        (SMALL, "reads buf[0], held at begin by A", TO_SYSTEM, "where buf == A ram ram ram"),
        (SMALL, "reads buf[0], held in invalidation by A of kid", TO_SYSTEM, "where buf == A ram ram ram"),
        (SMALL, "reads buf[0], held after setup by A", TO_SYSTEM, "where buf == swap ram ram ram"),
        (SMALL, "reads buf[1], held at begin by A", "A evicts everything fails EBUSY", "where buf == ram A ram ram"),
        (
            SMALL,
            "reads buf[1], held after pages by A",
            "A evicts everything fails EBUSY",
            "where buf == ram swap ram ram",
        ),
        (HUGE, "reads buf[7], held at begin by A", TO_SYSTEM, "where buf == A"),
        (HUGE, "reads buf[7], held after setup by A", TO_SYSTEM, "where buf == swap"),
        (HUGE, "reads buf[7], held after copy by A", "A of kid snapshots buf", "where buf of kid == swap"),
        (HUGE, "reads buf[7], held before finalize by A", "A evicts everything fails EBUSY", "where buf == swap"),
    ],
)
def test_nobody_moves_a_page_whose_cpu_fault_is_held(size, held, meanwhile, expected):
    """Nor, maybe, the others of a huge page; of those it is not known whether they are one."""
    text = f"region buf: anonymous {size}, written 1\nA migrates buf to device\nCPU forks kid\n"
    block = f"kid {held}\n    {meanwhile}\n    expect {expected}\nkid resumes\nkid reads buf"
    prediction = Prediction(scenario(text + block), "7.3")
    assert prediction.wrong == 0, "\n".join(prediction.lines)
    if size == SMALL:
        otherwise = expected.rpartition("==")[0] + "== ram"
        assert Prediction(scenario(text + block.replace(expected, otherwise)), "7.3").wrong == 1


def test_pages_before_the_one_that_is_held_are_accessed_once():
    text = (
        "region buf: anonymous 3 pages, written 1\nA migrates buf[1:] to device\nCPU starts thread t\n"
        "CPU adds 1 to buf, held after setup by A\n    t reads buf[0] == 2\n    t reads buf[2] == 1\nCPU resumes\n"
        "CPU reads buf == 2"
    )
    assert Prediction(scenario(text), "7.3").wrong == 0
    assert Prediction(scenario(text.replace("buf[0] == 2", "buf[0] == 1")), "7.3").wrong == 1


class TestRaces:
    STORY = (
        "region buf: anonymous 1 page, written 0\npar\n"
        "    column\n        CPU adds 1 to buf\n        CPU writes buf = 5\n"
        "    column\n        A migrates buf to device"
    )

    def test_every_order_that_keeps_the_columns_is_tried_once(self):
        story = scenario(self.STORY)
        machine = Machine(story, NEWEST)
        columns = races.parts(machine, story.items[0])
        orders = [[(column, index) for column, index, _ in order] for order in races.orders(columns)]
        assert len(orders) == races.count(columns) == 3
        assert len({tuple(order) for order in orders}) == 3
        assert all(order.index((0, 0)) < order.index((0, 1)) for order in orders)

    def test_a_device_that_reads_what_another_could_not_take_keeps_it(self):
        story = scenario(
            "region buf: anonymous 1 page, read\npar\n    column\n        A migrates buf to device\n"
            "        A reads buf\n    column\n        B migrates buf to device"
        )
        machine = Machine(story, NEWEST)
        ends = []
        for order in races.orders(races.parts(machine, story.items[0])):
            twin = machine.twin()
            races.run(twin, order)
            ends.append((where(twin)[0], ("buf", 0) in twin.state.mirrors[("A", "CPU")].entries))
        assert any("A" in places.split("|") and maps for places, maps in ends), ends

    @pytest.mark.parametrize(("pages", "walks"), [("buf", True), ("buf[0]", False)])
    def test_a_device_access_of_several_pages_is_known(self, pages, walks):
        story = scenario(
            "region buf: anonymous 2 pages, written 0\npar\n    column\n        CPU reads buf\n"
            f"    column\n        A reads {pages}"
        )
        assert races.walks(races.parts(Machine(story, NEWEST), story.items[0])) is walks


@pytest.mark.parametrize(("rights", "goes_on"), [("read-only", True), ("none", False)])
def test_a_walk_goes_past_a_page_of_its_device_that_may_only_be_read(rights, goes_on):
    machine = played("region buf: anonymous 2 pages\nA migrates buf to device\nCPU protects buf none\n"
                     f"CPU protects buf[1] read-write\nCPU protects buf[0] {rights}\n"
                     "A migrates buf[1] to system\nA writes buf = 1")  # fmt: skip
    assert (machine.state.spaces["CPU"].ptes[("buf", 1)].write is True) is goes_on


@pytest.mark.parametrize(("locks", "stays"), [("CPU locks buf\n", "A|ram"), ("", "A")])
@pytest.mark.parametrize("leaves", ["writes buf = 2", "unmaps buf"])
def test_what_was_unlocked_in_a_race_may_stay(locks, stays, leaves):
    machine = played(f"region buf: anonymous 1 page, written 1\n{locks}CPU forks kid\nA of kid reads buf")
    story = scenario(
        f"region buf: anonymous 1 page\npar\n    column\n        CPU {leaves}\n    column\n        B reads buf"
    )
    races.run(machine, [part for column in races.parts(machine, story.items[0]) for part in column])
    machine.do(scenario("region buf: anonymous 1 page\nA of kid migrates buf to device").items[0])
    assert where(machine, "kid") == [stays]


def test_to_what_nobody_can_say_nothing_is_added():
    assert added(ANYTHING, 1) is ANYTHING
    assert added(frozenset([1, (1 << 64) - 1]), 1) == {2, 0}


def test_a_pinned_page_that_cannot_go_may_be_announced_to_all_kin():
    machine = played("region buf: anonymous 1 page, written 1\nCPU forks kid\nCPU forks boy\nCPU pins buf\n"
                     "A writes buf = 2\nA of kid migrates buf to device fails ENOENT")  # fmt: skip
    assert machine.state.mirrors[("A", "CPU")].entries[("buf", 0)].maybe


def raw(places: list[tuple[int, int, int, int]], *, process: str = "CPU", devices: str = "A") -> Raw:
    """What is seen of `buf`: for each page flags of WALK, frame, frame in the device's table, word of pagemap."""
    walk = b"".join(struct.pack("=QQQIIII", frame, frame, mapped, flags, 0, 0, 0) for flags, frame, mapped, _ in places)
    words = b"".join(struct.pack("=Q", word) for *_, word in places)
    return Raw({(device, process): {"buf": walk} for device in devices}, {process: {"buf": words}})


PRESENT, SWAPPED = 1 << 63, 1 << 62
RAM = (VALID | WRITE, 100, 0, PRESENT)
MAPPED_RAM = (VALID | WRITE | MAPPED | MAPPED_WRITE, 100, 100, PRESENT)


def record(start: Raw, *entries: Entry) -> Record:
    return Record(known("7.3.4"), {"buf": 1 << 44}, start, entries)


class TestJudging:
    STORY = "region buf: anonymous 1 page, written 1\nA reads buf == 1\nCPU writes buf = 2"

    def entries(self) -> list[Done]:
        return [
            Done(Outcome(values=(1,), pages=1), raw([MAPPED_RAM])),
            Done(Outcome(values=(2,), pages=1), raw([MAPPED_RAM])),
        ]

    def problems(self, *entries: Done) -> list[tuple[str, str]]:
        return [(one.by, one.text) for one in judge(scenario(self.STORY), record(raw([RAM]), *entries))]

    def test_what_is_right_is_passed(self):
        assert self.problems(*self.entries()) == []

    def test_a_wrong_value_is_the_files_and_the_models_to_say(self):
        first, second = self.entries()
        wrong = first._replace(outcome=Outcome(values=(7,), pages=1))
        assert [by for by, _ in self.problems(wrong, second)] == ["file", "model"]

    @pytest.mark.parametrize(
        ("seen", "says"),
        [
            ((VALID | WRITE, 100, 0, PRESENT), "A does not map"),
            ((VALID | MAPPED, 100, 100, PRESENT), "r for the CPU"),
            ((VALID | WRITE | MAPPED | MAPPED_WRITE, 100, 101, PRESENT), "another page"),
            ((0, 0, 0, 0), "none"),
            ((VALID | WRITE | MAPPED, 100, 100, PRESENT), "may not write"),
        ],
    )
    def test_a_page_table_that_should_be_another_is_noticed(self, seen, says):
        first, second = self.entries()
        ((by, text), *_) = self.problems(first._replace(seen=raw([seen])), second)
        assert by == "model"
        assert says in text

    def test_a_lost_invalidation_is_noticed(self):
        story = scenario("region buf: anonymous 1 page, written 1\nA reads buf == 1\nCPU advises buf dontneed")
        gone = (MAPPED | MAPPED_WRITE, 0, 100, 0)
        found = judge(story, record(raw([RAM]), self.entries()[0], Done(Outcome(), raw([gone]))))
        assert [(one.by, one.text) for one in found] == [
            ("model", "A still maps buf[0] of CPU; the model says that it was told")
        ]

    def test_a_play_that_broke_off_is_the_kernels(self):
        broken = replace(record(raw([RAM])), broken="TimeoutError: no answer")
        (problem,) = judge(scenario(self.STORY), broken)
        assert (problem.by, problem.text) == ("kernel", "TimeoutError: no answer")

    def test_a_race_comes_out_as_one_of_its_orders(self):
        story = scenario(
            "region buf: anonymous 1 page, written 0\npar\n    column\n        CPU adds 1 to buf\n"
            "    column\n        A reads buf"
        )
        for value, right in ((0, True), (1, True), (2, False)):
            columns = ((Done(Outcome(values=(0,), pages=1)),), (Done(Outcome(values=(value,), pages=1)),))
            rounds = Rounds((columns,), (raw([MAPPED_RAM]),))
            assert (judge(story, record(raw([RAM]), rounds)) == []) is right

    @pytest.mark.parametrize(("value", "right"), [(0, True), (6, True), (7, False)])
    def test_a_device_that_reads_in_a_race_has_faulted_before(self, value, right):
        """Its fault maps what is in the file around it; the CPU then stores, before the data are taken."""
        story = scenario(
            "region buf: shared 2 pages, written 0\nCPU advises buf dontneed\npar\n"
            "    column\n        CPU writes buf[1] = 6\n    column\n        A reads buf[1]"
        )
        columns = ((Done(Outcome(values=(6,), pages=1)),), (Done(Outcome(values=(value,), pages=1)),))
        after = (VALID | WRITE | MAPPED | MAPPED_WRITE, 101, 101, PRESENT)
        start = raw([RAM, (VALID | WRITE, 101, 0, PRESENT)])
        gone = Done(Outcome(), raw([(0, 0, 0, 0)] * 2))
        rounds = Rounds((columns,), (raw([RAM, after]),))
        problems = judge(story, record(start, gone, rounds))
        assert (problems == []) is right, [one.text for one in problems]

    @pytest.mark.parametrize("back", [1, 0])
    def test_a_migration_in_a_race_maps_last(self, back):
        """A takes one page back and tells B of both: that B then maps the other is the end of its migration."""
        story = scenario(
            "region buf: anonymous 2 pages, written 0\nB migrates buf to device\npar\n"
            "    column\n        A writes buf[1] = 10\n        A migrates buf to system\n"
            "    column\n        B migrates buf to device"
        )

        def looked(*pages: str) -> Raw:
            """`here`: in memory; `on B`: there and mapped; `A`: in memory, and mapped by A."""
            flags = {"here": VALID | WRITE, "on B": VALID | WRITE | DEVICE, "A": VALID | WRITE}
            rows = [(frame, flags[page]) for frame, page in enumerate(pages, 100 if "here" in pages else 200)]
            walks = {
                (device, "CPU"): {
                    "buf": b"".join(
                        struct.pack("=QQQIIII", frame, frame, frame, flag | MAPPED | MAPPED_WRITE, 0, 1, 0)
                        if page.endswith(device)
                        else struct.pack("=QQQIIII", frame, frame, 0, flag, 0, 1, 0)
                        for page, (frame, flag) in zip(pages, rows, strict=True)
                    )
                }
                for device in "AB"
            }
            words = [SWAPPED if page == "on B" else PRESENT for page in pages]
            return Raw(walks, {"CPU": {"buf": struct.pack("=2Q", *words)}})

        columns = (
            (Done(Outcome(values=(), pages=1)), Done(Outcome())),
            (Done(Outcome("ENOENT")),),
        )
        after = ["on B", "on B"]
        after[back] = "A"
        moved = Done(Outcome(pages=2), looked("on B", "on B"))
        problems = judge(story, record(looked("here", "here"), moved, Rounds((columns,), (looked(*after),))))
        assert (problems == []) is (back == 1), [one.text for one in problems]

    @pytest.mark.parametrize(("pages", "right"), [("buf", True), ("buf[1]", False)])
    def test_what_a_walk_of_several_pages_did_in_a_race_is_taken_as_it_is(self, pages, right):
        """A fault of the first brings back the second, which the device had (H-04); a walk of that alone does not."""
        story = scenario(
            "region buf: anonymous 2 pages, written 0\nA migrates buf[1] to device\npar\n"
            f"    column\n        A reads {pages}\n    column\n        CPU reads buf[0]"
        )
        beside = (VALID | WRITE | DEVICE | MAPPED | MAPPED_WRITE, 101, 101, SWAPPED)
        back = (VALID | WRITE | MAPPED | MAPPED_WRITE, 102, 102, PRESENT)
        gone = Done(Outcome(pages=1), raw([RAM, beside]))
        values = (0, 0) if pages == "buf" else (0,)
        columns = ((Done(Outcome(values=values, pages=len(values))),), (Done(Outcome(values=(0,), pages=1)),))
        rounds = Rounds((columns,), (raw([MAPPED_RAM if pages == "buf" else RAM, back]),))
        start = raw([RAM, (VALID | WRITE, 101, 0, PRESENT)])
        assert (judge(story, record(start, gone, rounds)) == []) is right


def test_a_copy_of_a_state_knows_where_pages_and_mappings_were():
    machine = played("region buf: anonymous 2 pages, written 1\nCPU moves buf[1] to buf[0]")
    copy = machine.state.copy()
    assert [page.places for page in copy.pages()] == [{("buf", 0), ("buf", 1)}]
    assert copy.spaces["CPU"].vmas == machine.state.spaces["CPU"].vmas
    assert copy.spaces["CPU"].vmas["buf", 0].origin == ("buf", 1)


STEPS = """
CPU forks kid
CPU writes big = 3
kid exits
CPU writes big = 4
A migrates big to device
B reads big
A takes big exclusively
CPU reads big
CPU protects big[0:256] read-only
CPU advises big[256:] dontneed
B writes big[256:] = 5
B migrates big to device
CPU reads big
A evicts everything
"""
RACE = """
par twice
    column
        CPU writes big = 1
        A migrates big to device
    column
        CPU splits big
    column
        CPU advises big[128:384] dontneed
"""


def seconds_to_judge(size: str, steps: str) -> float:
    story = scenario(f"region big: anonymous {size}, written 1\n{steps}")
    *_, (_, taken) = settle.play(story, "7.3", Random(1))
    times = []
    for _ in range(3):
        began = time.process_time()
        assert [one for one in judge(story, taken) if one.by == "model"] == []
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("steps", [STEPS, RACE], ids=["one after another", "race"])
def test_pages_of_a_huge_page_take_as_long_to_judge_as_others(steps):
    assert seconds_to_judge("1 huge page", steps) < 3 * seconds_to_judge("512 pages", steps)


def test_the_judge_tells_how_far_it_is_and_can_be_ended():
    story = scenario("region buf: anonymous 1 page\nCPU writes buf = 1\npar 3 times\n    column\n        A reads buf")
    *_, (_, taken) = settle.play(story, "7.3", Random(1))
    told = []
    judge(story, taken, lambda done, count: told.append((done, count)))
    assert told[-1] == (4, 4)
    assert sorted(told) == told

    def ends(done, count):
        raise TimeoutError(f"{done} of {count}")

    with pytest.raises(TimeoutError, match="1 of 4"):
        judge(story, taken, ends)


def test_progress_is_said_and_has_an_end(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 6.0, 7.0, 301.0])
    monkeypatch.setattr(by_hand.time, "monotonic", lambda: next(clock))
    progress = by_hand.Progress("x.dms")
    for done in range(3):
        progress(done, 9)
    assert capsys.readouterr().err == "judging  x.dms: 1 of 9, 6 s\n"
    with pytest.raises(by_hand.TooLong, match="8 of 9 steps and repetitions in 300 s"):
        progress(8, 9)
