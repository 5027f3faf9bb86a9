# SPDX-License-Identifier: GPL-2.0
"""Section 9, copy on write: pages that two processes have after fork(2), wherever they are and whoever writes first."""

import errno

import pytest
from facilities.kin import Offspring, Parent

from dmirror.memory import HUGE_PAGES, READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child, in_child

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")

WRITERS = [f"{who}-{what}" for who in ("parent", "child") for what in ("cpu", "device")]
BACK = ["parent-touch", "child-touch", "parent-to-system", "child-to-system", "release", "other"]


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16) if request.param == "small" else Region.huge(1) as region:
        yield region


def bring_back(way, parent, child, mirror2):
    """One of the ways of device pages to system memory."""
    if way == "release":
        parent("release")
    elif way == "other":
        mirror2.read(parent.memory)
    else:
        who, _, what = way.partition("-")
        {"parent": parent, "child": child}[who](what)


def nobody_writes(*kin):
    """That neither has a page that is writable, in its page table or in its mirror's."""
    for one in kin:
        assert not any(one("writable"))
        assert not any(page.endswith("rw") or "rw " in page for page in one("states"))


def everyone_writes(parent, child):
    """A quarter of the memory is first written by each of WRITERS, and then by the CPU of the other process.

    After each both find what they wrote themselves, by CPU and device, and nothing of the other.
    """
    quarter = len(parent.memory) // len(WRITERS)
    turns = []
    for number, writer in enumerate(WRITERS):
        who, what = writer.split("-")
        part = (number * quarter, (number + 1) * quarter)
        turns.append((*((parent, child) if who == "parent" else (child, parent)), what, 2 + number, part))
    for first, second, what, seed, part in turns:
        first(what, seed, *part)
        assert second("device-sees", 1, *part), f"the other device finds what {what} wrote"
    for first, second, what, seed, part in turns:
        assert first("cpu-sees", seed, *part), f"{what} does not find what it wrote"
        assert second("cpu-sees", 1, *part), f"the other one finds what {what} wrote"
        second("cpu", seed + 10, *part)
    for first, second, _, seed, part in turns:
        assert first("device-sees", seed, *part) and second("device-sees", seed + 10, *part)
    assert not set(parent("frames")) & set(child("frames"))


@pytest.mark.contract("C-01")
@pytest.mark.contract("C-02")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("order", ["migrated-then-forked", "forked-then-parent", "forked-then-child"])
def test_who_writes_a_device_page_after_fork_has_it_alone(mirror, memory, writer, order):
    parent = Parent(mirror, memory.fill(1))
    if order.startswith("migrated"):
        parent("to-device")
    with Offspring(memory) as child:
        if order.startswith("forked"):
            assert (parent if order.endswith("parent") else child)("to-device") == len(memory)
        assert parent("picture") == child("picture") == "D" * len(memory)
        assert parent("frames") == child("frames")
        nobody_writes(parent, child)
        who, what = writer.split("-")
        first, second = (parent, child) if who == "parent" else (child, parent)
        first(what, 2)
        for reader in ("device-sees", "cpu-sees"):
            assert first(reader, 2) and second(reader, 1)
        second(what, 3)
        for reader in ("cpu-sees", "device-sees"):
            assert first(reader, 2) and second(reader, 3)
        assert not set(first("frames")) & set(second("frames"))
        child.leave()


@pytest.mark.contract("C-01")
@pytest.mark.contract("C-03")
@pytest.mark.parametrize("way", BACK)
def test_a_shared_page_that_came_back_is_writable_for_nobody(mirror, mirror2, memory, way):
    parent = Parent(mirror, memory.fill(1))
    parent("to-device")
    with Offspring(memory) as child:
        bring_back(way, parent, child, mirror2)
        assert parent("picture") == child("picture") == "r" * len(memory)
        # Still one page of both.
        assert parent("frames") == child("frames")
        nobody_writes(parent, child)
        everyone_writes(parent, child)
        child.leave()


@pytest.mark.contract("C-03")
def test_a_shared_page_that_a_close_brought_back_is_writable_for_nobody(mirror, memory):
    other = Mirror(0)
    other.migrate(memory.fill(1))
    parent = Parent(mirror, memory)
    with Offspring(memory, inherited=other) as child:
        other.close()
        assert child("picture") == "D" * len(memory)
        child("close")
        assert parent("picture") == child("picture") == "r" * len(memory)
        assert parent("frames") == child("frames")
        nobody_writes(parent, child)
        everyone_writes(parent, child)
        child.leave()


@pytest.mark.contract("C-01")
@pytest.mark.contract("M-10")
def test_round_trips_of_a_shared_page_make_it_writable_for_nobody(mirror, memory):
    """It was forked before: on the way to the device both page tables have an entry for a page in system memory."""
    parent = Parent(mirror, memory.fill(1))
    with Offspring(memory) as child:
        for turn in range(3):
            one, two = (parent, child) if turn % 2 else (child, parent)
            assert one("to-device") == len(memory)
            nobody_writes(parent, child)
            assert two("to-system") == len(memory)
            nobody_writes(parent, child)
        everyone_writes(parent, child)
        child.leave()


@pytest.mark.contract("C-01")
@pytest.mark.contract("T-06")
@pytest.mark.parametrize(("writer", "page"), [*zip(WRITERS, (0, 5, 7, -1), strict=True)])
def test_one_page_written_leaves_its_neighbours_shared(mirror, memory, writer, page):
    number = range(len(memory))[page]
    parent = Parent(mirror, memory.fill(1))
    parent("to-device")
    with Offspring(memory) as child:
        who, what = writer.split("-")
        first, second = (parent, child) if who == "parent" else (child, parent)
        first(what, 2, number, number + 1)
        assert first("cpu-sees", 2, number, number + 1) and second("cpu-sees", 1, number, number + 1)
        assert [index for index, writable in enumerate(first("writable")) if writable] == [number]
        nobody_writes(second)
        frames = first("frames"), second("frames")
        assert [index for index, (one, two) in enumerate(zip(*frames, strict=True)) if one != two] == [number]
        rest = [part for part in ((0, number), (number + 1, len(memory))) if part[0] < part[1]]
        for one in (first, second):
            assert all(one("device-sees", 1, *part) and one("cpu-sees", 1, *part) for part in rest)
        # The rest is still nobody's alone.
        second("cpu", 3)
        assert first("cpu-sees", 2, number, number + 1) and second("cpu-sees", 3)
        assert all(first("cpu-sees", 1, *part) for part in rest)
        child.leave()


@pytest.mark.contract("C-02")
def test_fork_takes_the_devices_right_to_write_before_it_returns(mirror, memory):
    """What the device could store to without a fault it can no more, whoever it was written by before."""
    mirror.migrate(memory.fill(1))
    mirror.poke(memory, 1)
    with Offspring(memory) as child:
        with pytest.raises(MirrorError) as caught:
            mirror.poke(memory, 2)
        assert caught.value.errno in (errno.ENOENT, errno.EPERM)
        assert caught.value.pages == 0
        assert child("cpu-sees", 1)
        child.leave()
    assert memory.matches(1)


@pytest.mark.contract("C-01")
def test_three_generations_have_a_device_page_each_for_itself(mirror, memory):
    mirror.migrate(memory.fill(1))
    parent = Parent(mirror, memory)

    def grandparent_of(line):
        with Mirror(0) as own:
            me = Parent(own, memory)

            def grandchild():
                with Mirror(0) as third:
                    last = Parent(third, memory)
                    nobody_writes(last)
                    last("device", 4)
                    return last("cpu-sees", 4)

            nobody_writes(me)
            assert in_child(grandchild)
            assert me("cpu-sees", 1)
            me("cpu", 3)
            return me("device-sees", 3)

    with Child(grandparent_of) as child:
        assert child.result() is True
    assert parent("cpu-sees", 1) and parent("device-sees", 1)
    parent("cpu", 2)
    assert parent("device-sees", 2)


@pytest.mark.contract("C-01")
@pytest.mark.contract("M-10")
@pytest.mark.parametrize("survivor", ["parent", "child"])
def test_the_last_one_that_has_a_page_writes_it_in_place_or_a_copy_and_nothing_is_lost(mirror, memory, survivor):
    before = mirror.counters()

    def run():
        with Mirror(0) as own:
            own.migrate(memory.fill(1))
            with Offspring(memory) as child:
                if survivor == "parent":
                    child.leave()
                    me = Parent(own, memory)
                else:
                    memory.advise(4)  # MADV_DONTNEED
                    me = child
                me("device", 2)
                assert me("cpu-sees", 2)
                me("cpu", 3)
                assert me("device-sees", 3)
                if survivor == "child":
                    assert not memory.load()
                    child.leave()

    in_child(run)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed
    assert delta.dev_pages_in_use == 0


# -- changes of protection of what is shared ----------------------------------------------------------------------


@pytest.mark.contract("C-04")
@pytest.mark.contract("C-01")
@pytest.mark.parametrize("who", ["parent", "child"])
@pytest.mark.parametrize("where", ["device", "back"])
def test_mprotect_of_a_shared_page_makes_it_writable_for_nobody(mirror, memory, who, where):
    """To read-only and back while it is shared: the mapping may write then, the page may not."""
    parent = Parent(mirror, memory.fill(1))
    parent("to-device")
    with Offspring(memory) as child:
        one, two = (parent, child) if who == "parent" else (child, parent)
        if where == "back":
            one("touch")
        one("prot", READ)
        assert one("refused")
        one("prot", RW)
        nobody_writes(parent, child)
        everyone_writes(parent, child)
        assert not one("refused") or not two("refused")
        child.leave()


# -- device pages that served before ------------------------------------------------------------------------------


def reuse(mirror, npages, order, free):
    """The numbers of device pages that were somebody's alone, writable, and are free now."""
    with Region.huge(1) if order == "huge" else Region.anonymous(npages) as first:
        mirror.migrate(first.fill(7))
        mirror.write(first, 8)
        indexes = {page.index for page in mirror.page_info(first)}
        if free == "dontneed":
            first.advise(4)
        elif free == "touch":
            first.touch()
        elif free == "to-system":
            mirror.migrate_to_system(first)
    return indexes


@pytest.mark.contract("C-08")
@pytest.mark.parametrize("order", ["small", pytest.param("huge", marks=THP)])
@pytest.mark.parametrize(
    ("free", "back"),
    [("munmap", "parent-touch"), ("dontneed", "child-touch"), ("touch", "parent-to-system"), ("to-system", "release")],
)
def test_a_device_page_that_was_anothers_alone_is_shared_by_who_gets_it_shared(mirror, mirror2, free, order, back):
    """Whoever gets it second had forked before: a mark of the page itself would say that one has it alone."""
    with Region.anonymous(HUGE_PAGES) as memory:
        parent = Parent(mirror, memory.fill(1))
        with Offspring(memory) as child:
            indexes = reuse(mirror, HUGE_PAGES, order, free)
            assert parent("to-device") == HUGE_PAGES
            again = {page.index for page in mirror.page_info(memory)}
            assert len(again & indexes) >= HUGE_PAGES // 2, "the device has handed out other pages"
            nobody_writes(parent, child)
            bring_back(back, parent, child, mirror2)
            assert parent("frames") == child("frames")
            nobody_writes(parent, child)
            memory.fill(2)
            assert child("cpu-sees", 1)
            child("cpu", 3)
            assert parent("cpu-sees", 2)
            child.leave()


@THP
@pytest.mark.contract("C-08")
@pytest.mark.contract("T-11")
def test_a_huge_device_page_of_pages_that_were_anothers_alone_is_shared(mirror, mirror2):
    with Region.huge(1) as memory:
        parent = Parent(mirror, memory.fill(1))
        with Offspring(memory) as child:
            for _ in range(2):
                reuse(mirror, HUGE_PAGES, "small", "munmap")
            assert parent("to-device") == HUGE_PAGES
            nobody_writes(parent, child)
            bring_back("child-touch", parent, child, mirror2)
            nobody_writes(parent, child)
            everyone_writes(parent, child)
            child.leave()


# -- coherent memory, and huge pages that come apart ---------------------------------------------------------------


@pytest.mark.contract("C-01")
@pytest.mark.contract("C-03")
@pytest.mark.parametrize("order", ["migrated-then-forked", "forked-then-migrated"])
@pytest.mark.parametrize("back", [None, "to-system", "release"])
def test_a_coherent_page_of_two_is_writable_for_nobody(coherent, order, back):
    """The CPU reaches it in place: there are entries for it that are present."""
    with Region.anonymous(16) as memory:
        parent = Parent(coherent, memory.fill(1))
        if order.startswith("migrated"):
            assert parent("to-device") == 16
        with Offspring(memory, coherent.device) as child:
            if order.startswith("forked"):
                assert child("to-device") == 16
            assert parent("picture") == child("picture") == "D" * 16
            if back:
                parent(back)
                assert parent("picture") == child("picture") == "r" * 16
            assert parent("frames") == child("frames")
            nobody_writes(parent, child)
            everyone_writes(parent, child)
            child.leave()


@pytest.mark.contract("C-01")
@pytest.mark.contract("T-05")
@pytest.mark.contract("T-06")
@pytest.mark.parametrize("who", ["parent", "child"])
@pytest.mark.parametrize("how", ["unmap", "prot", "advise"])
def test_a_huge_page_of_two_that_comes_apart_for_one_is_still_of_both(mirror, how, who):
    """Wherever it is: its parts are not that one's alone."""
    with Region.huge(1) as memory:
        parent = Parent(mirror, memory.fill(1))
        parent("to-device")
        with Offspring(memory) as child:
            one, two = (parent, child) if who == "parent" else (child, parent)
            if how == "unmap":
                one("unmap", 0, 500, 512)
            elif how == "prot":
                one("prot", READ, 500, 512)
            else:
                one("advise", 4, 500, 512)  # MADV_DONTNEED
            shared = (0, 0, 500)
            assert one("frames", *shared) == two("frames", *shared)
            assert not any(one("writable", *shared)) and not any(two("writable", *shared))
            one("cpu", 2, 0, 100)
            one("device", 2, 100, 200)
            two("cpu", 3, 200, 300)
            two("device", 3, 300, 400)
            assert one("cpu-sees", 2, 0, 200) and two("cpu-sees", 1, 0, 200)
            assert two("cpu-sees", 3, 200, 400) and one("cpu-sees", 1, 200, 400)
            assert one("device-sees", 1, 400, 500) and two("device-sees", 1, 400, 512)
            one("touch", 0, 400, 500)
            assert not any(one("writable", 0, 400, 500)) and not any(two("writable", 0, 400, 500))
            two("cpu", 4, 400, 500)
            assert one("cpu-sees", 1, 400, 500)
            child.leave()
