# SPDX-License-Identifier: GPL-2.0
"""Sections 3, 9 and 10 against threads that run: no access goes by an entry of a TLB that the page table lost."""

import pytest
from facilities.kin import Offspring
from facilities.spinner import Spinner

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16, align=16 * PAGE) if request.param == "small" else Region.huge(1) as region:
        yield region.fill(1)


@pytest.mark.contract("M-13")
@pytest.mark.contract("M-02")
@pytest.mark.parametrize("stores", [True, False], ids=["stores", "loads"])
def test_a_running_thread_stops_at_a_page_that_migrates(mirror, memory, stores):
    """Before its data are copied: what it stored later would go to the page that is left."""
    with (
        Spinner(memory, 3, stores=stores) as thread,
        mirror.hold("migrate.after_setup", memory) as held,
    ):
        thread.wait_going()
        with Task(mirror.migrate, memory) as migration:
            held.wait()
            thread.must_stand()
            held.resume()
            assert migration.result().moved == len(memory)
        if stores:
            thread.wait_going()
        assert thread.stop() == memory.load(3, 1)


@pytest.mark.contract("M-13")
@pytest.mark.contract("M-02")
def test_a_thread_that_loads_from_a_shared_page_stops_when_that_migrates(mirror, memory):
    """The page is of two processes, so that no entry is flushed by itself; both are unmapped."""
    with Offspring(memory) as child, Spinner(memory, 3, stores=False) as thread:
        thread.wait_going()
        with mirror.hold("migrate.after_setup", memory) as held, Task(mirror.migrate, memory) as migration:
            held.wait()
            thread.must_stand()
            held.resume()
            assert migration.result().moved == len(memory)
        thread.wait_going()
        # What the device stores for this process is on another page: the thread has to find it there.
        mirror.write(memory[3], 2)
        assert thread.result() == memory.load(3, 1)
        assert memory[3].matches(2) and child("cpu-sees", 1)
        child.leave()


@pytest.mark.contract("M-13")
def test_a_thread_of_another_process_stops_when_a_shared_page_migrates(mirror, memory):
    """Its entry is found by the page's reverse mapping."""
    with Offspring(memory) as child, Spinner(memory, 3, stores=False) as thread:
        thread.wait_going()
        assert child("to-device") == len(memory)
        thread.wait_going()
        child("device", 2, 3, 4)
        assert child("cpu-sees", 2, 3, 4)
        thread.wait_going()
        mirror.write(memory[3], 4)
        assert thread.result() == memory.load(3, 1)
        assert memory[3].matches(4) and child("cpu-sees", 2, 3, 4)
        child.leave()


@pytest.mark.contract("M-13")
def test_no_store_is_lost_over_many_migrations(mirror, memory):
    with Spinner(memory, 0) as one, Spinner(memory, 3, 511) as two:
        for turn in range(6 if len(memory) == 16 else 3):
            mirror.migrate(memory if turn % 2 else memory[:16])
            (one, two)[turn % 2].wait_going(1)
            mirror.migrate_to_system(memory)
        assert [one.stop(), two.stop()] == [memory.load(0, 1), memory.load(3, 511)]
    assert memory[4:].matches(1)


@pytest.mark.contract("M-13")
@pytest.mark.parametrize("way", ["release", "to-system"])
def test_no_store_in_place_is_lost_when_coherent_memory_goes_back(coherent, way):
    with Region.anonymous(16) as memory, Mirror(coherent.device) as own:
        memory.fill(1)
        with Spinner(memory, 3) as thread:
            for _ in range(4):
                assert own.migrate(memory[4:]).moved == 12
                own.migrate(memory[3])  # which may be busy
                thread.wait_going()
                own.migrate_to_system(memory) if way == "to-system" else coherent.release()
                thread.wait_going()
            assert thread.stop() == memory.load(3, 1)
        assert memory[4:].matches(1)


@pytest.mark.contract("M-13")
def test_a_thread_stops_at_a_coherent_page_that_goes_back(coherent):
    with Region.anonymous(16, align=16 * PAGE) as memory, Mirror(coherent.device) as own:
        assert own.migrate(memory.fill(1)).moved == 16
        with Spinner(memory, 3) as thread:
            thread.wait_going()
            with (
                own.hold("migrate.after_setup", memory) as held,
                Task(lambda: own.migrate(memory, to="system")) as task,
            ):
                held.wait()
                thread.must_stand()
                held.resume()
                assert task.result().moved == 16
            thread.wait_going()
            assert thread.stop() == memory.load(3, 1)


@pytest.mark.contract("X-01")
@pytest.mark.contract("X-03")
@pytest.mark.parametrize("stores", [True, False], ids=["stores", "loads"])
def test_a_running_thread_stops_at_a_page_that_becomes_exclusive(mirror, region, stores):
    with Spinner(region.fill(1), 3, stores=stores) as thread:
        thread.wait_going()
        with mirror.hold("exclusive.after", region[3]) as held, Task(mirror.make_exclusive, region[3]) as device:
            held.wait()
            thread.must_stand()
            held.resume()
            assert device.result() == 1
        # Its access takes the page back.
        if stores:
            thread.wait_going()
            assert not mirror.is_exclusive(region[3])
            assert thread.stop() == region.load(3, 1) == mirror.read(region[3]).data.word(0, 1)
        else:
            mirror.write(region[3], 2)
            assert thread.result() == region.load(3, 1)


@pytest.mark.contract("X-01")
def test_no_store_is_lost_while_a_page_becomes_exclusive_again_and_again(mirror, mirror2, region):
    with Spinner(region.fill(1), 3) as one, Spinner(region, 3, 2) as two:
        for turn in range(12):
            assert (mirror, mirror2)[turn % 2].make_exclusive(region[3]) == 1
            one.wait_going(1)
        assert [one.stop(), two.stop()] == [region.load(3, 1), region.load(3, 2)]


@pytest.mark.contract("C-01")
def test_what_a_thread_stores_after_fork_is_not_the_childs(mirror, memory):
    """The child has one moment of it."""
    with Spinner(memory, 3) as thread:
        thread.wait_going()
        with Offspring(memory) as child:
            first = child("word", 3, 1)
            for where in ("to-device", "to-system"):
                thread.wait_going()
                child(where)
                assert child("word", 3, 1) == first
            child.leave()
        assert thread.stop() == memory.load(3, 1) > first


@pytest.mark.contract("M-18")
def test_a_fault_that_migrates_has_the_mmap_lock(mirror, memory):
    """The driver warns of a fault that comes with no more than the lock of its mapping (kmod/back.c)."""
    before = mirror.counters()
    mirror.migrate(memory)
    memory.touch()
    assert (mirror.counters() - before).dev_cpu_faults > 0
    assert memory.matches(1)
