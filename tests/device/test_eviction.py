# SPDX-License-Identifier: GPL-2.0
"""Section 3, eviction by page frame: whatever is on a device, of whomever, comes back as it was, or stays."""

import errno
import mmap
import os
import signal

import pytest

from dmirror.memory import HUGE_PAGES, PAGE, READ, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child, ChildKilled, in_child
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")


def evict(opened, how):
    if how == "release":
        opened.release()
    else:
        opened.close()


HOW = pytest.mark.parametrize("how", ["release", "close"])


def sharer(opened, block):
    """What the child of the next test does with its share of the block, a step at a time."""
    own, alone, shared, still, filled = block[0:2], block[2:4], block[4:8], block[8:10], block[12:14]

    def child(line):
        opened.close()
        alone.fill(2)  # a copy each
        own.advise(mmap.MADV_DONTNEED)
        with Mirror(0) as mine:
            mine.migrate(alone)
            line.send(mine.snapshot(block).picture())
            line.receive()
            line.send([str(page) for page in mine.snapshot(block)])
            line.receive()
            line.send([shared.matches(1), alone.matches(2), still.matches(1), filled.zero(), own.zero()])
            line.receive()
            shared[0].fill(3)
            filled[0].fill(3)
            line.send(shared[0].matches(3))

    return child


@pytest.mark.contract("M-21")
@HOW
def test_pages_of_several_processes_come_back_with_data_and_rights(mirror, block, how):
    """Of the parent alone, shared with a child, read-only, freed in between, a hole that was filled, never there."""
    own, alone, shared, still, filled = block[0:2], block[2:4], block[4:8], block[8:10], block[12:14]
    opened = Mirror(0)
    block[:12].fill(1)
    still.protect(READ)
    opened.migrate(block[:14])
    block[10:12].advise(mmap.MADV_DONTNEED)
    before = mirror.counters()
    with Child(sharer(opened, block)) as other:
        # The child's store brought the shared pages back; its copy is on the device.
        assert other.line.receive() == "..DDDDDDDD..DD.."
        assert mirror.snapshot(block).picture() == "DDrrDDDDDD..DD.."
        evict(opened, how)
        assert mirror.snapshot(block).picture() == "rrrrrrrrrr..rr.."
        other.line.send()
        theirs = other.line.receive()
        # What another mirror brought stays when this one is closed.
        copies, evicted = ("ram rw", 12) if how == "release" else ("local rw", 10)
        assert theirs == ["none"] * 2 + [copies] * 2 + ["ram r"] * 6 + ["none"] * 2 + ["ram r"] * 2 + ["none"] * 2
        ours = [str(page) for page in mirror.snapshot(block)]
        assert ours[4:10] == ["ram r"] * 6 and ours[12:14] == ["ram r"] * 2
        delta = mirror.counters() - before
        assert (delta.dev_cpu_faults, delta.dev_pages_evicted) == (2, evicted)
        other.line.send()
        assert other.line.receive() == [True] * 5
        shared[1].fill(4)
        other.line.send()
        assert other.line.receive() is True
        opened.close()
        other.result()
    assert shared[0].matches(1) and shared[1].matches(4) and shared[2:].matches(1) and filled.zero()
    assert mirror.read(shared[0]).data.matches(1)
    with pytest.raises(MirrorError) as caught:
        mirror.write(still, 9)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: still.store(9))
    assert own.matches(1) and alone.matches(1) and still.matches(1) and block[14:].zero()
    assert mirror.counters().dev_pages_in_use == 0


@pytest.mark.contract("M-21")
@pytest.mark.contract("C-03")
@THP
@HOW
def test_a_huge_page_of_two_processes_comes_back_for_both(mirror, how):
    with Region.huge(1) as huge:
        opened = Mirror(0)
        opened.migrate(huge.fill(1))

        def child(line):
            opened.close()
            line.send()
            line.receive()
            seen = huge.matches(1)
            huge[:8].fill(2)
            line.send(seen and huge[:8].matches(2) and huge[8:].matches(1))
            line.receive()
            return huge[:8].matches(2) and huge[8:].matches(1)

        with Child(child) as other:
            other.line.receive()
            evict(opened, how)
            states = mirror.snapshot(huge)
            assert {(page.where, page.writable) for page in states} == {("ram", False)}
            other.line.send()
            assert other.line.receive() is True
            assert huge.matches(1) and mirror.read(huge).data.matches(1)
            mirror.write(huge[8:16], 3)
            other.line.send()
            assert other.result() is True
        opened.close()
        assert huge[:8].matches(1) and huge[8:16].matches(3) and huge[16:].matches(1)
    assert mirror.counters().dev_pages_in_use == 0


@pytest.mark.contract("M-21")
@pytest.mark.contract("A-07")
@pytest.mark.parametrize("point", ["cpu_fault.after_setup", "cpu_fault.after_pages", "cpu_fault.end"])
def test_a_page_that_is_busy_is_waited_for_and_the_others_come_back_meanwhile(mirror, mirrored, point):
    """A fault has it: RELEASE, which wants all of them, goes on when that is over."""

    def begin(memory):
        opened = Mirror(0)
        opened.migrate(memory.fill(1))
        return [opened]

    with mirrored(begin, lambda own, memory: memory.matches(1)) as other:
        there, memory = other.mirror, other.memory
        mem = os.open(f"/proc/{other.child.pid}/mem", os.O_RDONLY)
        with (
            there.events(buf=memory) as log,
            there.hold(point, memory[5]) as hold,
            Task(os.pread, mem, 8, memory[5].addr) as reader,
        ):
            hold.wait()
            with Task(mirror.release) as releasing:
                releasing.wait_asleep()
                log.wait_for("EVICT")
                hold.resume()
                releasing.result()
            assert int.from_bytes(reader.result(), "little") != 0
        os.close(mem)
        assert there.snapshot(memory).picture() == "r" * 16
        assert len(log.select("EVICT")) == 15
        assert there.read(memory).data.matches(1)
        other.child.line.send()
        assert other.child.result() is True
    assert mirror.counters().dev_pages_in_use == 0


@THP
@pytest.mark.contract("M-21")
@pytest.mark.contract("A-07")
def test_a_huge_page_that_a_fault_has_brought_back_and_not_dropped_is_left_alone(mirror):
    with Region.huge(2) as huge:
        kept, evicted = huge[:HUGE_PAGES], huge[HUGE_PAGES:]
        mirror.migrate(huge.fill(1))
        with (
            mirror.events(huge=huge) as log,
            mirror.hold("cpu_fault.end", kept) as hold,
            Task(kept[7].load, 0) as reader,
        ):
            hold.wait()
            # Whoever asks finds it in system memory already.
            assert mirror.snapshot(huge).where == ["ram"] * HUGE_PAGES + ["local"] * HUGE_PAGES
            with Task(mirror.release) as releasing:
                log.wait_for("EVICT")
                releasing.wait_asleep()
                hold.resume()
                releasing.result()
            reader.result()
            log.read()
        assert [event.pages for event in log.select("EVICT")] == [HUGE_PAGES]
        assert mirror.snapshot(evicted).where == ["ram"] * HUGE_PAGES
        assert mirror.counters().dev_pages_in_use == 0
        assert huge.matches(1)


@pytest.mark.contract("M-21")
@pytest.mark.contract("P-06")
def test_pages_of_a_process_that_is_gone_are_no_trouble(mirror, mirrored):
    """Half of the device's pages are free again, and among those of others."""

    def begin(memory):
        opened = Mirror(0)
        memory.fill(1)
        for page in range(16):
            opened.migrate(memory[page])
        return [opened]

    with Region.anonymous(16, align=16 * PAGE) as memory:
        memory.fill(2)
        with mirrored(begin) as other:
            mirror.migrate(memory[:8])
            with mirrored(begin) as third:
                mirror.migrate(memory[8:])
                os.kill(other.child.pid, signal.SIGKILL)
                other.child.wait()
                assert mirror.counters().dev_pages_in_use == 32
                mirror.release()
                assert third.mirror.snapshot(third.memory).picture() == "r" * 16
                assert third.mirror.read(third.memory).data.matches(1)
        assert mirror.snapshot(memory).picture() == "r" * 16
        assert memory.matches(2) and mirror.read(memory).data.matches(2)
        assert mirror.migrate(memory).moved == 16
    assert mirror.counters().dev_pages_in_use == 0


@pytest.mark.contract("M-21")
@pytest.mark.contract("T-10")
@THP
@HOW
def test_huge_and_small_pages_side_by_side_come_back(mirror, how):
    with Region.huge(2) as huge, Region.anonymous(16, align=16 * PAGE) as small:
        opened = Mirror(0)
        opened.migrate(small[:7].fill(3))
        opened.migrate(huge[:HUGE_PAGES].fill(1))
        opened.migrate(small[7:].fill(3))
        opened.migrate(huge[HUGE_PAGES:].fill(2))
        opened.migrate_to_system(huge[HUGE_PAGES + 3 : HUGE_PAGES + 5])
        assert mirror.counters().dev_pages_in_use >= 16 + HUGE_PAGES
        evict(opened, how)
        opened.close()
        assert mirror.counters().dev_pages_in_use == 0
        assert set(mirror.snapshot(huge).where) == {"ram"} and set(mirror.snapshot(small).where) == {"ram"}
        assert huge[:HUGE_PAGES].matches(1) and huge[HUGE_PAGES:].matches(2) and small.matches(3)
        assert mirror.read(huge[:HUGE_PAGES]).data.matches(1)
