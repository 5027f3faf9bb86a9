# SPDX-License-Identifier: GPL-2.0
"""Device-coherent memory: pages of the device that the CPU reaches without a fault."""

import errno
import mmap
from pathlib import Path

import pytest

from dmirror.memory import HUGE_PAGES, MADV_COLLAPSE, PAGE, READ, Region
from dmirror.mirror import Mirror, MirrorError, node
from dmirror.plugin.kmsg import LogReader
from dmirror.process import Child

COUNTERS = pytest.mark.needs(capability="counters")


@pytest.fixture
def memory(coherent):
    """Sixteen pages under one page table."""
    with Region.anonymous(16, align=16 * PAGE) as mapped:
        yield mapped


def test_the_cpu_loads_and_stores_in_place(coherent, memory):
    memory.fill(1)
    coherent.migrate_to_device(memory)
    assert memory.matches(1)
    memory.fill(2)
    assert coherent.snapshot(memory).where == ["local"] * len(memory)
    assert coherent.read(memory).data.matches(2)
    coherent.write(memory, 3)
    assert memory.matches(3)
    assert coherent.snapshot(memory).where == ["local"] * len(memory)


def test_pages_go_back_with_what_either_side_stored(coherent, memory):
    coherent.migrate_to_device(memory.fill(1))
    coherent.write(memory[:8], 2)
    memory[8:].fill(2)
    assert coherent.migrate_to_system(memory) == len(memory)
    assert coherent.snapshot(memory).where == ["ram"] * len(memory)
    assert memory.matches(2)


@pytest.mark.contract("Z-01")
def test_holes_become_zero_filled_pages(coherent, memory):
    assert coherent.migrate_to_device(memory).data.zero()
    assert coherent.snapshot(memory).where == ["local"] * len(memory)
    assert memory.zero()


@pytest.mark.contract("M-08")
def test_another_coherent_device_leaves_the_pages_alone(coherent, coherent2, memory):
    coherent.migrate_to_device(memory.fill(1))
    assert coherent2.migrate_to_system(memory) == 0
    with pytest.raises(MirrorError) as caught:
        coherent2.migrate_to_device(memory)
    assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
    assert coherent2.snapshot(memory).where == ["remote"] * len(memory)
    assert coherent2.read(memory).data.matches(1)
    assert coherent.snapshot(memory).where == ["local"] * len(memory)


@pytest.mark.contract("M-08")
def test_private_devices_and_coherent_ones_keep_to_their_own(mirror, coherent, memory):
    coherent.migrate_to_device(memory[:8].fill(1))
    mirror.migrate_to_device(memory[8:].fill(1))
    assert mirror.migrate_to_system(memory) == 8
    assert coherent.migrate_to_system(memory) == 8
    assert memory.matches(1)


@pytest.mark.contract("C-01")
def test_after_fork_a_store_is_private(coherent, memory):
    coherent.migrate_to_device(memory.fill(1))

    def child(line):
        line.receive()
        seen = memory.matches(1)
        memory.fill(3)
        return seen

    with Child(child) as other:
        coherent.write(memory, 2)
        other.line.send()
        assert other.result() is True
    assert memory.matches(2)


def test_read_only_memory_stays_read_only(coherent, memory):
    coherent.migrate_to_device(memory.fill(1))
    memory.protect(READ)
    with pytest.raises(MirrorError) as caught:
        coherent.write(memory, 2)
    assert caught.value.errno == errno.EPERM
    assert coherent.read(memory).data.matches(1)
    assert memory.matches(1)


@COUNTERS
def test_a_huge_page_goes_and_comes_back_as_small_ones(coherent):
    """The core collects a huge coherent folio as system memory and cannot bring it back: the driver makes none."""
    with Region.huge(1) as region:
        region.fill(1)
        before = coherent.counters()
        assert coherent.migrate_to_device(region).data.matches(1)
        delta = coherent.counters() - before
        assert (delta.dev_small_allocated, delta.dev_huge_allocated) == (HUGE_PAGES, 0)
        assert region.matches(1)
        assert coherent.migrate_to_system(region) == HUGE_PAGES
        assert region.matches(1)


def test_collapse_brings_the_pages_back_to_system_memory(coherent):
    with Region.huge(1) as region:
        coherent.migrate_to_device(region.fill(1))
        try:
            region.advise(MADV_COLLAPSE)
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EAGAIN, errno.EBUSY)
        assert region.matches(1)
        assert coherent.read(region).data.matches(1)


@pytest.mark.contract("P-01")
@pytest.mark.contract("P-02")
def test_a_page_held_by_a_pipe_stays_until_it_is_let_go(coherent, memory):
    """vmsplice() takes a reference on the device's page in place; it may not move under the reader of the pipe."""
    coherent.migrate_to_device(memory.fill(1))
    with memory[0].in_a_pipe():
        assert coherent.migrate_to_system(memory) == len(memory) - 1
        assert coherent.snapshot(memory).where == ["local"] + ["ram"] * (len(memory) - 1)
    assert coherent.migrate_to_system(memory) == 1
    assert memory.matches(1)


@COUNTERS
@pytest.mark.contract("D-10")
def test_release_gives_up_on_a_page_that_is_held(coherent, memory):
    """EBUSY after five seconds, with the device as it was, instead of waiting for ever with a lock held."""
    coherent.migrate_to_device(memory.fill(1))
    with memory[0].in_a_pipe():
        with pytest.raises(MirrorError) as caught:
            coherent.release()
        assert caught.value.errno == errno.EBUSY
        assert coherent.migrate_to_device(memory).data.matches(1)
    coherent.release()
    assert coherent.counters().dev_pages_in_use == 0
    assert memory.matches(1)


@pytest.mark.needs(capability="coherent_exclusive")
def test_an_exclusive_page_of_the_device_is_not_the_cpus(coherent, memory):
    coherent.migrate_to_device(memory.fill(1))
    coherent.exclusive(memory)
    assert coherent.is_exclusive(memory)
    assert memory.matches(1)
    assert not coherent.is_exclusive(memory)


@COUNTERS
@pytest.mark.contract("X-10")
@pytest.mark.parametrize("way", ["release", "close", "unmap"])
def test_a_page_that_was_asked_to_be_exclusive_is_freed(coherent, memory, way):
    """try_to_migrate() of 6.x loses a page with an exclusive entry: no coherent page is let have one there."""
    with Mirror(coherent.device) as other:
        other.migrate_to_device(memory.fill(1))
        try:
            other.exclusive(memory)
        except MirrorError as error:
            assert (error.errno, error.pages) == (errno.EOPNOTSUPP, 0)
            assert "coherent_exclusive" not in other.capabilities()
        if way == "release":
            other.release()
        if way == "unmap":
            memory.advise(mmap.MADV_DONTNEED)
    assert coherent.counters().dev_pages_in_use == 0
    assert memory.zero() if way == "unmap" else memory.matches(1)


@pytest.mark.needs(capability="eviction")
def test_its_memory_is_in_iomem_while_it_is_loaded(coherent, coherent2, memory):
    for device in (coherent, coherent2):  # which adds memory when some is wanted first
        device.migrate_to_device(memory.fill(1))
        device.migrate_to_system(memory)
    ranges = [line for line in Path("/proc/iomem").read_text().splitlines() if line.endswith(": hmm_dmirror")]
    sizes = []
    for line in ranges:
        first, last = (int(word, 16) for word in line.split(":")[0].split("-"))
        sizes.append((first, last - first + 1))
    for address in addresses():
        assert (address, 256 << 20) in sizes


@pytest.mark.contract("D-23")
def test_the_first_address_is_that_of_the_first_device(coherent, memory):
    """The page frame behind a page of device 2 is in the range of spm_addr_dev0."""
    coherent.migrate_to_device(memory.fill(1))
    start = addresses()[0] // PAGE
    for word in memory.pagemap():
        assert start <= word & ((1 << 55) - 1) < start + (256 << 20) // PAGE


def test_one_process_on_all_devices(mirror, mirror2, coherent, coherent2, memory):
    for seed, device in enumerate((mirror, coherent, mirror2, coherent2) * 2, start=1):
        device.write(memory, seed)
        for place in (mirror, mirror2, coherent, coherent2):
            place.migrate_to_system(memory)
        device.migrate_to_device(memory)
        assert [place.read(memory).data.matches(seed) for place in (mirror, mirror2, coherent, coherent2)] == [True] * 4
        assert memory.matches(seed)


@pytest.mark.needs(capability="eviction")
class TestParameters:
    """What the driver refuses to load with; one sentence says why. A second copy cannot be loaded: this one goes."""

    @pytest.fixture(autouse=True)
    def _reload(self, coherent, driver):
        coherent.close()
        driver.unload()
        yield
        driver.load()

    @pytest.mark.parametrize(
        ("parameters", "sentence"),
        [
            ("spm_addr_dev0=0x180000000", "are given together or not at all"),
            ("spm_addr_dev0=0x180001000 spm_addr_dev1=0x1a0000000", "is not a multiple of 0x200000"),
            ("spm_addr_dev0=0x180000000 spm_addr_dev1=0x18fe00000", "are less than 256 MiB apart"),
            ("spm_addr_dev0=0x180000000 spm_addr_dev1=0x180000000", "are less than 256 MiB apart"),
            ("spm_addr_dev0=0x10000000 spm_addr_dev1=0x1a0000000", "0x10000000: the 256 MiB from there on are not set"),
            ("spm_addr_dev0=0x170000000 spm_addr_dev1=0x1a0000000", "0x170000000: the 256 MiB from there on are not"),
            ("spm_addr_dev0=0x180000000 spm_addr_dev1=0xe0000000", "0xe0000000: the 256 MiB from there on are not set"),
            ("spm_addr_dev0=0x180000000 spm_addr_dev1=0x8000000000", "0x8000000000: the 256 MiB from there on have no"),
            ("spm_addr_dev0=0xfffffffff0000000 spm_addr_dev1=0x1a0000000", "with 256 MiB above it"),
            ("devmem_mib=100", "devmem_mib=100 is not a multiple of 256"),
            ("devmem_mib=0", "devmem_mib=0 is not a multiple of 256"),
        ],
    )
    def test_a_wrong_value_is_refused_in_a_sentence(self, driver, parameters, sentence):
        with LogReader() as log:
            log.new()
            assert driver.insert(*parameters.split()).returncode != 0
            assert any(sentence in line for line in log.new())
        assert not node(0).exists()
        assert "hmm_dmirror" not in Path("/proc/iomem").read_text()
        assert "dmirror" not in Path("/proc/modules").read_text()

    def test_without_addresses_there_are_only_private_devices(self, driver):
        assert driver.insert().returncode == 0
        assert [node(device).exists() for device in range(4)] == [True, True, False, False]
        with Mirror(0) as opened, Region.anonymous(4) as memory:
            assert opened.migrate_to_device(memory.fill(1)).data.matches(1)
            memory.touch()
        driver.unload()


def addresses():
    """Where the coherent memory of devices 2 and 3 begins."""
    (module,) = (path for path in Path("/sys/module").iterdir() if path.name in ("dmirror", "test_hmm"))
    return [int((module / "parameters" / f"spm_addr_dev{index}").read_text()) for index in range(2)]
