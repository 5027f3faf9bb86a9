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

# Documentation/admin-guide/tainted-kernels.rst: machine check, bad page, oops or BUG, warning, soft lockup.
COMPLAINED = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14


def cpus(file):
    """The processors of a list in sysfs, as {0, 2, 3} for "0,2-3"."""
    ranges = [part.split("-") for part in file.read_text().split(",") if part.strip()]
    return {cpu for first, *last in ranges for cpu in range(int(first), int(last[0] if last else first) + 1)}


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


def test_two_nodes_share_no_package_and_no_cache(driver):
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    assert len(nodes) == 2
    for node in nodes:
        for cpu in node.glob("cpu[0-9]*"):
            for shared in [cpu / "topology/package_cpus_list", *cpu.glob("cache/index*/shared_cpu_list")]:
                assert cpus(shared) <= cpus(node / "cpulist"), shared


def test_a_guest_is_clean_before_its_first_test(driver, request):
    log = request.config.pluginmanager.get_plugin("dmirror-kernel-log")
    assert log.at_boot == []
    assert not log.tainted_at_boot & COMPLAINED


def test_memory_of_a_process_by_its_number(region):
    region.fill(1)
    assert process_vm_write(os.getpid(), region[2].addr, bytes(range(8))) == 8
    assert process_vm_read(os.getpid(), region[2].addr, 8) == bytes(range(8))
    assert status("RssAnon") > len(region)


@pytest.mark.needs(capability="counters")
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
