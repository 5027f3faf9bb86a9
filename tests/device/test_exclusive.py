# SPDX-License-Identifier: GPL-2.0
"""Section 10: device-exclusive access."""

import errno
import os

import pytest

from dmirror.events import CLEAR, EXCLUSIVE, FAULT, MADE_EXCLUSIVE
from dmirror.memory import READ, Data, Region
from dmirror.mirror import MirrorError
from dmirror.process import in_child
from dmirror.running import release_matches
from dmirror.threads import Task

STEER = pytest.mark.needs(capability="steer")
# What a CPU fault that revokes says: 6.12 memory.c:3903 and 6.1 memory.c:3677, 7.3 memory.c:4624 and 7.2 memory.c:4488.
REVOKED = (CLEAR, None) if release_matches(os.uname().release, ">=6.15") else (EXCLUSIVE, "none")
PRESENT = 1 << 63  # Documentation/admin-guide/mm/pagemap.rst


@pytest.mark.contract("X-01")
def test_exclusive_until_the_cpu_touches(mirror, region):
    region.fill(1)
    result = mirror.exclusive(region)
    assert result.pages == len(region) and result.data.matches(1)
    assert mirror.is_exclusive(region)
    assert mirror.snapshot(region).where == ["none"] * len(region)
    region[3].touch()
    assert not mirror.is_exclusive(region[3]) and mirror.is_exclusive(region[4:])
    assert region.matches(1)
    assert not mirror.is_exclusive(region)


@pytest.mark.contract("X-01")
def test_holes_become_exclusive_pages(mirror, region):
    assert mirror.exclusive(region).data.zero()
    assert mirror.is_exclusive(region)
    assert region.zero()


@pytest.mark.contract("X-04")
@pytest.mark.needs(capability="counters")
def test_another_device_loses_its_entry_first(mirror, mirror2, region):
    mirror2.read(region.fill(1))
    mirror.exclusive(region)
    assert mirror2.counters().entries_present == 0
    assert mirror.is_exclusive(region)


@pytest.mark.contract("X-05")
def test_exclusivity_moves_between_devices(mirror, mirror2, region):
    region.fill(1)
    for _ in range(10):
        mirror.exclusive(region)
        assert not mirror2.is_exclusive(region)
        mirror2.exclusive(region)
        assert not mirror.is_exclusive(region)
    assert region.matches(1)


@pytest.mark.contract("X-06")
def test_fork_gives_both_sides_the_page(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    assert in_child(lambda: region.matches(1))
    assert region.fill(2).matches(2)


@pytest.mark.contract("X-07")
def test_mprotect_is_obeyed(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    region.protect(READ)
    assert not mirror.is_exclusive(region)
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 2)
    assert caught.value.errno == errno.EPERM
    assert region.matches(1)


@pytest.mark.contract("X-08")
@pytest.mark.parametrize("kind", ["read-only", "gap", "shared"])
def test_what_cannot_be_exclusive_fails(mirror, kind):
    with Region.shared(4) if kind == "shared" else Region.anonymous(4) as region:
        region.fill(1)
        if kind == "read-only":
            region.protect(READ)
        if kind == "gap":
            region.unmap()
        with pytest.raises(MirrorError) as caught:
            mirror.exclusive(region)
        assert caught.value.errno in (errno.EFAULT, errno.EOPNOTSUPP, errno.EBUSY, errno.EINVAL)
        assert not mirror.is_exclusive(region)


@pytest.mark.contract("D-26")
@pytest.mark.needs(capability="counters")
def test_an_error_says_which_pages_became_exclusive(mirror, region):
    region.fill(1)
    region[9:].protect(READ)
    with pytest.raises(MirrorError) as caught:
        mirror.exclusive(region)
    assert caught.value.pages == 9
    assert mirror.is_exclusive(region[8]) and not mirror.is_exclusive(region[9:])


@pytest.mark.contract("X-09")
def test_exclusive_pages_are_unmapped_once(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    region.advise(4)  # MADV_DONTNEED
    assert not mirror.is_exclusive(region)
    assert region.zero()


@pytest.mark.contract("X-11")
def test_a_device_write_revokes(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    mirror.write(region, 2)
    assert not mirror.is_exclusive(region)
    assert region.matches(2)


def test_a_page_of_the_device_becomes_exclusive_system_memory(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    assert mirror.exclusive(region).data.matches(1)
    assert mirror.is_exclusive(region)
    assert region.matches(1)


def present(process, span):
    """Whether the CPU page table of another process has the page."""
    with open(f"/proc/{process.pid}/pagemap", "rb", buffering=0) as pagemap:
        word = os.pread(pagemap.fileno(), 8, span.addr // 4096 * 8)
    return bool(int.from_bytes(word, "little") & PRESENT)


@STEER
class TestRevocation:
    @pytest.mark.contract("X-01")
    def test_the_cpu_has_no_page_and_the_device_has(self, still):
        one = still()
        one.mirror.exclusive(one.memory[0])
        assert not present(one.child, one.memory[0])
        assert present(one.child, one.memory[1])
        (page,) = one.mirror.page_info(one.memory[0])
        assert not page.valid and page.mapped_atomic
        one.load(0)
        assert present(one.child, one.memory[0])
        (page,) = one.mirror.page_info(one.memory[0])
        assert page.valid and not page.mapped

    @pytest.mark.contract("X-01")
    def test_the_mirror_is_told_before_the_cpu_has_the_page(self, still):
        """Held in the callback: the page table is as it was, the device still has the page, the CPU waits."""
        one = still(lambda mirror, memory: memory[0].store(9))
        one.mirror.exclusive(one.memory[0])
        with one.mirror.hold("invalidate", one.memory[0]) as held:
            one.start()
            assert held.wait().tid == one.child.pid
            assert not present(one.child, one.memory[0])
            assert one.mirror.is_exclusive(one.memory[0])
            assert one.mirror.peek(one.memory[0]).matches(1)
            held.resume()
            one.stopped()
        assert present(one.child, one.memory[0])
        assert not one.mirror.is_exclusive(one.memory[0])
        assert one.mirror.read(one.memory[0]).data.word(0) == 9

    @pytest.mark.contract("X-02")
    @pytest.mark.parametrize("access", ["load", "store"])
    def test_it_is_told_once_by_the_event_of_this_kernel(self, mirror, region, access):
        mirror.exclusive(region.fill(1))
        event, owner = REVOKED
        with mirror.events() as log:
            region[3].load() if access == "load" else region[3].store(1)
            log.expect((CLEAR, EXCLUSIVE), over=region)
            log.expect(event, region[3], owner=owner, pages=1, filtered=False, blockable=True)
        assert [page.mapped_atomic for page in mirror.page_info(region[2:5])] == [True, False, True]

    @pytest.mark.contract("X-03")
    def test_the_cpu_waits_while_the_device_has_the_folio_locked(self, still):
        """Nobody is told before the device is done."""
        one = still()
        with (
            one.mirror.events() as log,
            one.mirror.hold("exclusive.after") as held,
            Task(one.mirror.make_exclusive, one.memory[0]) as device,
        ):
            held.wait()
            with Task(one.load, 0) as cpu:
                cpu.wait_asleep()
                log.expect((CLEAR, EXCLUSIVE), one.memory[0], tid=device.tid)
                held.resume()
                assert device.result() == 1
                assert cpu.result() == Data.pattern(one.memory[0], 1).word(0)
            log.expect(REVOKED[0], one.memory[0], tid=cpu.tid)


@STEER
class TestOthers:
    @pytest.mark.contract("X-04")
    @pytest.mark.parametrize("owner", ["own", "other", "none"])
    def test_other_mirrors_lose_the_page_before_it_is_exclusive(self, mirror, mirror2, region, owner):
        mirror.read(region.fill(1))
        mirror2.read(region)
        seen_by_other = {"own": "other", "other": "own", "none": "none"}
        with mirror.events() as log, mirror2.events() as theirs:
            assert mirror.make_exclusive(region[3], owner=owner) == 1
            # Its own event the mirror leaves aside only if it is said to be its own.
            log.expect(EXCLUSIVE, region[3], owner=owner, filtered=owner == "own", pages=1)
            log.expect(MADE_EXCLUSIVE, region[3])
            (told,) = theirs.expect(EXCLUSIVE, region[3], owner=seen_by_other[owner], filtered=False, pages=1)
            (made,) = log.select(MADE_EXCLUSIVE)
            assert told.time < made.time
        with pytest.raises(MirrorError) as caught:
            mirror2.peek(region[3])
        assert caught.value.errno == errno.ENOENT
        assert mirror2.peek(region[4]).matches(1)
        assert mirror.is_exclusive(region[3])
        assert mirror.peek(region[3]).matches(1)

    @pytest.mark.contract("X-04")
    def test_another_mirror_that_is_told_holds_it_up(self, still):
        """Until its callback returns the page is the CPU's."""
        one = still()
        one.mirror2.read(one.memory)
        with one.mirror2.hold("invalidate") as held, Task(one.mirror.exclusive, one.memory[0]) as task:
            assert held.wait().tid == task.tid
            assert present(one.child, one.memory[0])
            assert not one.mirror.is_exclusive(one.memory[0])
            held.resume()
            task.result()
        assert one.mirror.is_exclusive(one.memory[0])
        assert not present(one.child, one.memory[0])

    @pytest.mark.contract("X-05")
    def test_two_devices_take_it_from_each_other(self, mirror, mirror2, region):
        """The second call faults as a CPU does, which revokes the first; then the first is told of the second, too."""
        mirror.exclusive(region[0].fill(1))
        for turn, (taker, loser) in enumerate([(mirror2, mirror), (mirror, mirror2)] * 5):
            with loser.events() as log, taker.events() as theirs:
                assert taker.exclusive(region[0]).data.matches(1)
                log.read()
                told = log.select((CLEAR, EXCLUSIVE), region[0])
                assert [(event.type, event.owner) for event in told] == [REVOKED, (EXCLUSIVE, "other")], turn
                assert [event.pages for event in told] == [1, 0]
                theirs.expect(MADE_EXCLUSIVE, region[0])
            assert taker.is_exclusive(region[0]) and not loser.is_exclusive(region[0])
            with pytest.raises(MirrorError) as caught:
                loser.peek(region[0])
            assert caught.value.errno == errno.ENOENT
        assert region[0].matches(1)

    @pytest.mark.contract("X-05")
    def test_the_one_that_lost_it_reads_it_back_by_a_fault(self, mirror, mirror2, region):
        mirror.exclusive(region.fill(1))
        mirror2.exclusive(region)
        with mirror.events() as log, mirror2.events() as theirs:
            assert mirror.read(region[3]).data.matches(1)
            log.expect(FAULT, region[3], pages=1)
            theirs.expect(REVOKED[0], region[3], owner=REVOKED[1], pages=1)
        assert not mirror2.is_exclusive(region[3])
        assert mirror2.is_exclusive(region[4])
        mirror.write(region[3], Data.pattern(region[3], 2))
        assert region[3].matches(2)
