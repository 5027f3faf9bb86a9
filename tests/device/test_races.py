# SPDX-License-Identifier: GPL-2.0
"""Two things at once on one page: each race in turn, with the outcome that either order must have."""

import errno
import mmap
import threading
from contextlib import contextmanager

import pytest

from dmirror.memory import PAGE, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child

ROUNDS = 120
MOST_ROUNDS = 20_000  # when the other thread gets no turn


@contextmanager
def meanwhile(action):
    """Runs `action()` over and over in a thread of its own until the block ends; its exception ends the test."""
    over = threading.Event()
    failed = []

    def run():
        try:
            while not over.is_set():
                action()
        except BaseException as error:  # raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def tolerate(*numbers):
    """A call that may lose the race: returns what it returned, or None."""

    def attempt(call, *arguments):
        try:
            return call(*arguments)
        except MirrorError as error:
            assert error.errno in numbers, error
            return None

    return attempt


@pytest.mark.contract("D-11")
@pytest.mark.needs(capability="counters")
def test_no_store_of_the_device_is_lost_to_a_migration(mirror, region):
    """One thread counts by the device on a page that another takes to the device and back."""
    page = region[0].fill(1)
    attempt = tolerate(errno.ENOENT, errno.EBUSY)
    before = mirror.counters()

    def move():
        attempt(mirror.migrate_to_device, page)
        mirror.migrate_to_system(page)

    with meanwhile(move):
        for number in range(1, MOST_ROUNDS):
            if not attempt(mirror.write, page, number):
                continue  # the page moved for a second on end
            seen = attempt(mirror.read, page)
            assert seen is None or seen.data.matches(number)
            assert page.matches(number)
            moved = (mirror.counters() - before).pages_to_system
            if number >= ROUNDS and moved > 5:
                break
    assert moved > 5, "nothing was raced"


@pytest.mark.contract("D-12")
@pytest.mark.needs(capability="counters")
def test_no_store_of_the_device_is_lost_to_a_cpu_fault(mirror, region):
    """The CPU touches the page, which brings it back, while the device stores to it."""
    page = region[0].fill(1)
    before = mirror.counters()
    attempt = tolerate(errno.ENOENT)
    with meanwhile(page.touch):
        for number in range(1, MOST_ROUNDS):
            attempt(mirror.migrate_to_device, page)
            mirror.write(page, number)
            assert mirror.read(page).data.matches(number)
            assert page.matches(number)
            faults = (mirror.counters() - before).dev_cpu_faults
            if number >= ROUNDS and faults > 5:
                break
    assert faults > 5, "nothing was raced"


@pytest.mark.contract("D-13")
@pytest.mark.contract("M-20")
@pytest.mark.parametrize("call", ["migrate_to_device", "exclusive"])
@pytest.mark.needs(capability="counters")
def test_no_device_entry_outlives_a_page_that_was_dropped_meanwhile(mirror, region, call):
    """MADV_DONTNEED needs no more than the lock that the call has: what it dropped reads as zero from then on."""
    attempt = tolerate(errno.ENOENT, errno.EBUSY, errno.EFAULT)
    start = threading.Barrier(2)
    with Child(lambda line: None) as other:  # one fork, so that copy-on-write has been seen
        other.result()

    def drop():
        start.wait()
        region.advise(mmap.MADV_DONTNEED)
        start.wait()

    thread = threading.Thread(target=lambda: [drop() for _ in range(ROUNDS)])
    thread.start()
    for _ in range(ROUNDS):
        region.fill(7)
        start.wait()
        attempt(getattr(mirror, call), region)
        start.wait()
        device = mirror.read(region).data
        for page in range(len(region)):
            assert device.word(page, 1) == region.load(page, 1)
    thread.join()


@pytest.mark.contract("D-03")
@pytest.mark.contract("L-05")
@pytest.mark.needs(capability="counters")
def test_a_mirror_closes_while_the_cpu_brings_its_pages_back(mirror, region):
    """The pages outlive the context, as long as it takes: nothing in them leads back to it."""
    attempt = tolerate(errno.ENOENT)
    region.fill(1)
    with meanwhile(region.touch):
        for _ in range(ROUNDS):
            with Mirror(0) as other:
                attempt(other.migrate_to_device, region)
    assert region.matches(1)


@pytest.mark.contract("D-16")
@pytest.mark.needs(capability="eviction")
@pytest.mark.limit(120)
def test_release_of_several_ranges_hands_out_none_of_their_pages(mirror):
    """More than one chunk is there and in use while another process asks for pages: its data are never mixed."""
    pages = (256 << 20) // PAGE + 512
    attempt = tolerate(errno.ENOENT, errno.EBUSY, errno.ENOMEM)

    def migrate(line):
        with Mirror(0) as own, Region.anonymous(64) as memory:
            line.send()
            for seed in range(1, 60):
                attempt(own.migrate_to_device, memory.fill(seed))
                if not memory.matches(seed):
                    return seed
            return 0

    with Region.anonymous(pages) as large:
        assert not tolerate(errno.EFAULT)(mirror.call, "MIGRATE_TO_DEV", large.addr, pages)  # no room for its data
        assert mirror.counters().dev_pages_in_use == pages
        with Child(migrate) as other:
            other.line.receive()
            for _ in range(20):
                attempt(mirror.release)
            assert other.result() == 0
        assert large[-1].zero()


@pytest.mark.contract("D-21")
@pytest.mark.contract("M-17")
@pytest.mark.needs(capability="counters")
def test_faults_on_one_device_page_at_once_all_end(mirror, region):
    """Each fault holds a reference, which makes another's migration fail: it faults again, and comes to an end."""
    threads = 16
    begin = threading.Barrier(threads + 1)
    wrong = []

    def fault(rounds):
        for number in range(rounds):
            begin.wait()
            if not region.matches(number):
                wrong.append(number)
            begin.wait()

    pool = [threading.Thread(target=fault, args=(20,)) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for number in range(20):
        mirror.migrate_to_device(region.fill(number))
        begin.wait()
        begin.wait()
    for thread in pool:
        thread.join()
    assert not wrong
