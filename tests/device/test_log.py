# SPDX-License-Identifier: GPL-2.0
"""The event log: how records are read, what is lost, and a record for each thing that the driver does."""

import ctypes
import errno
import mmap
import os
import select
import threading
import time

import pytest

from dmirror.events import (
    CLEAR,
    CPU_BEGIN,
    CPU_COPIED,
    CPU_END,
    CPU_MAPPED,
    CPU_PAGES,
    CPU_SETUP,
    EVICT,
    EXCLUSIVE,
    FAULT,
    FREE,
    MADE_EXCLUSIVE,
    MIGRATE,
    MIGRATE_BEGIN,
    MIGRATE_COPIED,
    MIGRATE_END,
    MIGRATE_MAPPED,
    MIGRATE_PAGES,
    MIGRATE_SETUP,
    OVERRUN,
    RELEASE_DEVICE,
    SPLIT,
    UNMAP,
    Event,
)
from dmirror.memory import HUGE_PAGES, NONE, PAGE, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.threads import Task
from dmirror.uapi import ffi, lib

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")

RECORD = ffi.sizeof("struct dmirror_event")
MIGRATION = (MIGRATE_BEGIN, MIGRATE_SETUP, MIGRATE_COPIED, MIGRATE_PAGES, MIGRATE_MAPPED, MIGRATE_END)
CPU_FAULT = (CPU_BEGIN, CPU_SETUP, CPU_COPIED, CPU_PAGES, CPU_MAPPED, CPU_END)


def start(mirror, records=0):
    return mirror.own("LOG", flags=lib.DMIRROR_LOG_START, records=records)


def stop(mirror):
    return mirror.own("LOG")


def take(mirror, records=64):
    """One read(2) of room for so many records."""
    data = os.read(mirror.fd, records * RECORD)
    assert len(data) % RECORD == 0
    return [Event.decode(record, {}) for record in ffi.from_buffer("struct dmirror_event[]", data)]


def ready(mirror):
    poll = select.poll()
    poll.register(mirror.fd, select.POLLIN)
    return [event for _, event in poll.poll(0)]


def assert_no_gap(events):
    """Each number follows the one before; an OVERRUN stands for those that it says, and has the last one's number."""
    seq = 0
    for event in events:
        seq += event.pages if event.type == OVERRUN else 1
        assert event.seq == seq, events


class TestReading:
    """read(2) and poll(2), of a process in which nothing happens but what is asked for: two records for each page."""

    @pytest.fixture
    def one(self, still):
        one = still()
        one.say = lambda pages: one.mirror.make_exclusive(one.memory[pages])
        return one

    def test_a_log_that_was_never_started_is_einval(self, mirror):
        assert ready(mirror) == [select.POLLIN]  # so that whoever polls learns it
        with pytest.raises(OSError) as caught:
            take(mirror)
        assert caught.value.errno == errno.EINVAL

    @pytest.mark.parametrize("size", [0, 1, RECORD - 1])
    def test_no_room_for_a_record_is_einval(self, one, size):
        start(one.mirror)
        one.say(slice(0, 1))
        with pytest.raises(OSError) as caught:
            os.read(one.mirror.fd, size)
        assert caught.value.errno == errno.EINVAL
        assert len(take(one.mirror)) == 2

    def test_records_are_given_whole(self, one):
        start(one.mirror)
        one.say(slice(0, 2))
        assert len(os.read(one.mirror.fd, 4 * RECORD - 1)) == 3 * RECORD
        assert [event.seq for event in take(one.mirror)] == [4]

    def test_numbers_have_no_gap_and_times_do_not_go_back(self, one):
        before = time.monotonic_ns()
        start(one.mirror)
        one.mirror.migrate_to_device(one.memory)
        one.mirror.migrate_to_system(one.memory)
        events = take(one.mirror)
        after = time.monotonic_ns()
        assert_no_gap(events)
        times = [event.time for event in events]
        assert [before, *times, after] == sorted([before, *times, after])

    def test_the_size_of_a_log(self, one):
        assert start(one.mirror).records == 4096
        assert start(one.mirror, 1 << 16).records == 1 << 16
        assert start(one.mirror, 1).records == 1

    def test_a_restart_empties_it(self, one):
        start(one.mirror)
        one.say(slice(0, 4))
        assert start(one.mirror, 8).next_seq == 1
        one.say(slice(4, 5))
        assert [(event.type, event.seq) for event in take(one.mirror)] == [(EXCLUSIVE, 1), (MADE_EXCLUSIVE, 2)]

    def test_what_is_in_a_stopped_log_can_be_read_to_its_end(self, one):
        start(one.mirror)
        one.say(slice(0, 1))
        assert stop(one.mirror).next_seq == 3
        one.say(slice(1, 2))
        assert len(take(one.mirror)) == 2
        assert take(one.mirror) == take(one.mirror) == []

    def test_an_empty_log_does_not_block_who_does_not_want_that(self, one):
        os.set_blocking(one.mirror.fd, False)
        start(one.mirror)
        with pytest.raises(BlockingIOError):
            take(one.mirror)
        one.say(slice(0, 1))
        assert len(take(one.mirror)) == 2

    def test_a_reader_sleeps_until_there_is_a_record(self, one):
        start(one.mirror)
        with Task(take, one.mirror) as reader:
            reader.wait_asleep()
            one.say(slice(0, 1))
            assert next(iter(reader.result())).seq == 1

    def test_a_reader_wakes_at_the_end_of_the_log(self, one):
        start(one.mirror)
        with Task(take, one.mirror) as reader:
            reader.wait_asleep()
            stop(one.mirror)
            assert reader.result() == []

    def test_poll_says_when_a_read_would_not_wait(self, one):
        start(one.mirror)
        assert ready(one.mirror) == []
        one.say(slice(0, 1))
        assert ready(one.mirror) == [select.POLLIN]
        take(one.mirror, 1)
        assert ready(one.mirror) == [select.POLLIN]
        take(one.mirror, 1)
        assert ready(one.mirror) == []
        stop(one.mirror)
        assert ready(one.mirror) == [select.POLLIN]

    @pytest.mark.parametrize("records", [1, 2, 4, 16])
    def test_an_overrun_is_counted_and_told_at_its_place(self, one, records):
        start(one.mirror, records)
        one.say(slice(0, 16))
        events = take(one.mirror)
        assert_no_gap(events)
        assert [event.type == OVERRUN for event in events] == [False] * records + [True]
        assert (events[-1].pages, events[-1].seq) == (32 - records, 32)
        one.mirror.migrate(one.memory[0], skip=[0])
        assert take(one.mirror)[0].seq == 33
        out = stop(one.mirror)
        assert out.lost == 32 - records + max(0, out.next_seq - 33 - records)

    def test_an_overrun_between_records(self, one):
        """Room for two when the next comes: one goes to what was lost, one to itself, and then it is full again."""
        start(one.mirror, 4)
        one.say(slice(0, 3))
        assert [event.seq for event in take(one.mirror, 2)] == [1, 2]
        one.say(slice(3, 4))
        events = take(one.mirror)
        assert [(event.seq, event.type == OVERRUN) for event in events] == [
            (3, False),
            (4, False),
            (6, True),
            (7, False),
            (8, True),
        ]
        assert [event.pages for event in events if event.type == OVERRUN] == [2, 1]
        assert stop(one.mirror).lost == 3

    def test_a_log_that_overran_is_ready(self, one):
        start(one.mirror, 1)
        one.say(slice(0, 1))
        assert len(take(one.mirror, 1)) == 1
        assert ready(one.mirror) == [select.POLLIN]
        assert [(event.type, event.pages) for event in take(one.mirror)] == [(OVERRUN, 1)]
        assert ready(one.mirror) == []

    @pytest.mark.parametrize(("room", "given"), [(0, 0), (1, 0), (3, 0), (4, 4), (6, 4), (8, 8)])
    def test_a_bad_buffer_loses_no_record(self, one, room, given):
        """Where the reader's memory ends: what came whole is given, the rest is still there."""
        libc = ctypes.CDLL(None, use_errno=True)
        start(one.mirror)
        one.say(slice(0, 8))
        with Region.anonymous(2) as buffer:
            buffer[1].unmap()
            address = ctypes.c_void_p(buffer[0].end - room * RECORD)
            length = libc.read(one.mirror.fd, address, ctypes.c_size_t(16 * RECORD))
        if given:
            assert length == given * RECORD
        else:
            assert (length, ctypes.get_errno()) == (-1, errno.EFAULT)
        assert [event.seq for event in take(one.mirror)] == list(range(given + 1, 17))

    def test_the_end_of_the_process_is_logged_before_its_pages_are_freed(self, one):
        one.mirror.migrate_to_device(one.memory)
        start(one.mirror)
        one.child.kill()
        types = [event.type for event in take(one.mirror)]
        assert types[0] == "RELEASE"
        assert types[1:].count(FREE) == 16


def test_every_mirror_has_its_own_log(mirror, mirror2, region):
    """All are told what the kernel tells; what the driver does is in the log of who had it done."""
    region.fill(1)
    with Mirror(0) as other, mirror.events() as log, other.events() as theirs, mirror2.events() as elsewhere:
        mirror.migrate_to_device(region)
        for each in (log, theirs, elsewhere):
            each.expect(MIGRATE, region, owner="other" if each is elsewhere else "own", filtered=each is log)
        for phase in MIGRATION:
            log.expect(phase, region)
        for each in (theirs, elsewhere):
            each.expect((*MIGRATION, FREE), times=0)
        with Mirror(0) as third, pytest.raises(OSError):
            take(third)


def test_a_record_says_in_which_thread_it_happened(mirror, region):
    region.fill(1)
    with mirror.events() as log, Task(mirror.migrate_to_device, region) as task:
        task.result()
        log.expect((*MIGRATION, MIGRATE), over=region, tid=task.tid, times=7)
        region[3].touch()
        log.expect(CPU_FAULT, region[3], tid=threading.get_native_id(), times=6)


def test_a_migration_is_told_phase_by_phase(mirror, region):
    """Pages: what setup offered, what has a copy, what moved."""
    region.fill(1)
    with mirror.events() as log:
        mirror.migrate(region, skip=[3], reference=[5])
        log.read()
        phases = log.select((MIGRATE, *MIGRATION), over=region)
        assert [event.type for event in phases] == [MIGRATE_BEGIN, MIGRATE, *MIGRATION[1:]]
        assert [event.pages for event in phases] == [0, 0, 16, 15, 14, 14, 14]
        assert {(event.start, event.end, event.result) for event in phases} == {(region.addr, region.end, 0)}


def test_a_cpu_fault_is_told_phase_by_phase(mirror, region):
    mirror.migrate_to_device(region.fill(1))
    index = mirror.page_info(region[3])[0].index
    with mirror.events() as log:
        region[3].touch()
        log.read()
        phases = log.select((MIGRATE, *CPU_FAULT), over=region)
        assert [event.type for event in phases] == [CPU_BEGIN, MIGRATE, *CPU_FAULT[1:]]
        assert [event.pages for event in phases if event.type != MIGRATE] == [0, 1, 1, 1, 1, 1]
        assert {(event.start, event.end) for event in phases} == {(region[3].addr, region[3].end)}
        (free,) = log.expect(FREE)
        assert (free.index, free.pages, free.place) == (index, 1, "")


def test_a_cpu_fault_is_in_the_log_of_who_migrated_the_page(mirror, region):
    with Mirror(0) as other:
        mirror.migrate_to_device(region[:8].fill(1))
        other.migrate_to_device(region[8:].fill(1))
        with mirror.events() as log, other.events() as theirs:
            region.touch()
            log.expect(CPU_END, over=region[:8], times=8)
            log.expect(CPU_END, over=region[8:], times=0)
            theirs.expect(CPU_END, over=region[8:], times=8)
            theirs.expect(CPU_END, over=region[:8], times=0)


def test_a_device_fault_says_how_it_ended(mirror, region):
    region.fill(1)
    region[4].protect(NONE)
    with mirror.events() as log:
        mirror.read(region[:4])
        log.expect(FAULT, region[:4], pages=4, index=0, result=0)
        with pytest.raises(MirrorError):
            mirror.read(region[4])
        log.expect(FAULT, region[4], pages=0, result=-errno.EFAULT)


def test_a_device_fault_covers_one_page_table_at_a_time(mirror):
    with Region.anonymous(2 * HUGE_PAGES, align=HUGE_PAGES * PAGE) as region, mirror.events() as log:
        mirror.read(region[HUGE_PAGES - 2 : HUGE_PAGES + 3])
        log.expect(FAULT, region[HUGE_PAGES - 2 : HUGE_PAGES], pages=2)
        log.expect(FAULT, region[HUGE_PAGES : HUGE_PAGES + 3], pages=3)
        log.expect(FAULT, over=region, times=2)


def test_a_device_fault_says_which_state_of_the_interval_it_saw(still):
    """The sequence that the last invalidation set is the one that the fault is checked against."""
    one = still()
    one.mirror.migrate_to_device(one.memory)
    start(one.mirror)
    one.mirror.migrate_to_system(one.memory)
    one.mirror.read(one.memory)
    events = take(one.mirror)
    (told,) = (event for event in events if event.type == MIGRATE)
    (fault,) = (event for event in events if event.type == FAULT)
    assert fault.interval_seq == told.interval_seq


def test_an_invalidation_says_how_many_entries_it_dropped(mirror, region):
    mirror.write(region, 1)
    with mirror.events() as log:
        region[2:6].advise(mmap.MADV_DONTNEED)
        log.expect(CLEAR, region[2:6], pages=4, filtered=False, blockable=True, owner=None)
        region[4:8].unmap()
        log.expect(UNMAP, region[4:8], pages=2, filtered=False, blockable=True, owner=None)
        (first, second) = log.select((CLEAR, UNMAP), over=region)
        assert first.interval_seq < second.interval_seq


@THP
def test_a_split_is_told_once(mirror):
    with Region.huge(1) as huge:
        mirror.migrate_to_device(huge.fill(1))
        index = mirror.page_info(huge[0])[0].index
        with mirror.events() as log:
            huge[10].unmap()
            huge[11].touch()  # of a folio that is mapped in part one page comes back
            log.expect(CPU_END, huge[11], pages=1)
            log.expect(SPLIT, index=index, pages=HUGE_PAGES)
            freed = log.expect(FREE, pages=1, times=2)
            assert sorted(event.index for event in freed) == [index + 10, index + 11]


@THP
def test_a_huge_page_is_freed_once(mirror):
    with Region.huge(1) as huge:
        mirror.migrate_to_device(huge.fill(1))
        index = mirror.page_info(huge[0])[0].index
        with mirror.events() as log:
            huge[7].touch()
            log.expect(CPU_END, huge, pages=HUGE_PAGES)
            log.expect(FREE, index=index, pages=HUGE_PAGES)
            log.expect(SPLIT, times=0)


def test_release_is_told_to_every_mirror_of_the_device_and_evictions_to_who_migrated(mirror, mirror2, region):
    mirror.migrate_to_device(region.fill(1))
    indices = sorted(page.index for page in mirror.page_info(region))
    with Mirror(0) as other, mirror.events() as log, other.events() as theirs, mirror2.events() as elsewhere:
        other.release()
        evicted = log.expect(EVICT, pages=1, times=16)
        assert sorted(event.index for event in evicted) == indices
        freed = log.expect(FREE, pages=1, times=16)
        assert sorted(event.index for event in freed) == indices
        for each, times in ((log, 1), (theirs, 1), (elsewhere, 0)):
            each.expect(RELEASE_DEVICE, result=0, times=times)
        theirs.expect((EVICT, FREE), times=0)


def test_each_page_that_becomes_exclusive_is_told(mirror, region):
    region.fill(1)
    with mirror.events() as log:
        mirror.exclusive(region[3:6])
        for page in range(3, 6):
            log.expect(EXCLUSIVE, region[page], owner="own", filtered=True)
            log.expect(MADE_EXCLUSIVE, region[page], pages=1)
        log.expect(MADE_EXCLUSIVE, times=3)


def test_a_closed_mirror_takes_its_log_along(mirror, region):
    with Mirror(0) as other:
        with other.events():
            region.fill(1)
            other.migrate_to_device(region)
            other.close()
        assert region.matches(1)
    mirror.migrate_to_device(region)
