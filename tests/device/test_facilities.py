# SPDX-License-Identifier: GPL-2.0
"""The surroundings themselves: what other tests set up is there, and gone afterwards."""

import mmap
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from facilities.cgroups import Cgroup, leave
from facilities.disks import ext4, swap, swap_used
from facilities.machine import frames, status
from facilities.syscalls import move_pages, process_vm_read, process_vm_write

from dmirror import oracles
from dmirror.memory import MADV_PAGEOUT, PAGE, Region
from dmirror.process import in_child


def test_pages_go_to_swap_and_come_back(region):
    with swap():
        region.fill(1).advise(MADV_PAGEOUT)
        assert swap_used() >= region.bytes  # before 6.14 a processor has slots in stock, too
        assert frames(region) == [None] * len(region)
        assert region.matches(1)
        region.advise(mmap.MADV_DONTNEED)
    assert swap_used() == 0


def test_a_group_is_charged_for_its_processes(mirror):
    with Cgroup("dmirror-facilities") as group:

        def use():
            group.join()
            with Region.anonymous(2048) as memory:
                memory.fill(1)
                charged = group.table("memory.stat")["anon"]
            leave()
            return charged

        assert in_child(use) > 1024 * PAGE  # memory.stat may be a few hundred pages behind
        assert group.anon_left() == 0


def test_a_file_system_on_a_disk(mirror):
    with ext4() as root:
        assert "ext4" in Path("/proc/mounts").read_text()
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 16 * PAGE)
        with Region.of_file(fd, 16) as memory:
            memory.fill(1)
        os.fsync(fd)
        os.close(fd)
        fd = os.open(root / "file", os.O_RDONLY | os.O_DIRECT)
        assert os.readv(fd, [mmap.mmap(-1, PAGE)]) == PAGE
        os.close(fd)


def test_pages_move_between_two_nodes(region):
    region.fill(1)
    addresses = [region[page].addr for page in range(len(region))]
    for node in (0, 1, 0):
        assert move_pages(addresses, node) == [node] * len(region)
        assert region.matches(1)


def test_memory_of_a_process_by_its_number(region):
    region.fill(1)
    assert process_vm_write(os.getpid(), region[2].addr, bytes(range(8))) == 8
    assert process_vm_read(os.getpid(), region[2].addr, 8) == bytes(range(8))
    assert status("RssAnon") > len(region)


def test_the_account_follows_what_is_mapped_and_charged(driver, mirror):
    """The oracles read after every test: they have something to say here, and nothing of memory in its place."""
    before = oracles.confirmed()
    with Region.anonymous(2048) as memory:
        memory.fill(1)
        mirror.migrate_to_device(memory[:1024])
        during = oracles.confirmed()
    after = oracles.confirmed()
    assert None not in (before.anon, before.charge)
    assert during.devices[0][0] == before.devices[0][0] + 1024
    assert list(oracles.complaints(before, during)) == list(
        oracles.complaints(before, after._replace(devices=during.devices))
    )
    assert not list(oracles.complaints(before, after))


def test_what_processors_have_not_added_is_in_a_confirmed_account(driver, mirror):
    """It is so little that a plain reading is behind by it, until two seconds are over."""
    before = oracles.confirmed()
    with ExitStack() as mapped:
        for _ in range(8):
            mapped.enter_context(Region.anonymous(12)).fill(1)
            assert abs(oracles.confirmed().anon - before.anon) < 8


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("devices", {0: (1, 0)}, "device pages in use"),
        ("swap", PAGE, "swap in use"),
        ("rss", 512, "without their count"),
        ("anon", -512, "without their group"),
        ("charge", 512, "were leaked"),
    ],
)
def test_what_does_not_come_out_even_is_said(mirror, name, value, said):
    even = oracles.Account({0: (0, 0)}, 0, 0, 0, 0)
    (complaint,) = oracles.complaints(even, even._replace(**{name: value}))
    assert said in complaint
