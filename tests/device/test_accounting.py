# SPDX-License-Identifier: GPL-2.0
"""Sections 5 and 6: what other kernel interfaces make of device memory, and who is charged for it."""

import ctypes
import os
import re
from pathlib import Path

import pytest

from dmirror.memory import PAGE, Data, Region
from dmirror.process import in_child

RSS_SLACK = 64  # pages of the interpreter's own that may come and go in between


def rss_pages():
    """RssAnon of this process, in pages."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024 // PAGE


@pytest.mark.contract("A-01")
def test_resident_set_is_the_same_on_the_device(mirror):
    with Region.anonymous(2048) as region:
        copy = Data.pattern(region, 1)  # populated, so that what the device reads adds nothing
        region.fill(1)
        in_ram = rss_pages()
        mirror.call("MIGRATE_TO_DEV", region.addr, len(region), copy.buffer)
        assert abs(rss_pages() - in_ram) < RSS_SLACK
        mirror.migrate_to_system(region)
        assert abs(rss_pages() - in_ram) < RSS_SLACK
        assert copy.matches(1)


@pytest.mark.contract("A-08")
def test_pagemap_calls_a_device_page_swapped(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    assert {word >> 62 for word in region.pagemap()} == {0b01}
    region.touch()
    assert {word >> 62 for word in region.pagemap()} == {0b10}


@pytest.mark.contract("P-03")
def test_process_vm_readv_brings_the_page_back(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    buffer = ctypes.create_string_buffer(PAGE)

    class IoVec(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    local = IoVec(ctypes.addressof(buffer), PAGE)
    remote = IoVec(region[3].addr, PAGE)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == PAGE
    assert int.from_bytes(buffer.raw[:8], "little") == region.load(3)
    assert mirror.snapshot(region).picture() == "DDDrDDDDDDDDDDDD"


@pytest.mark.contract("P-03")
def test_a_system_call_on_device_memory_gets_the_data(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    memory = (ctypes.c_char * PAGE).from_address(region[2].addr)
    reader, writer = os.pipe()
    try:
        assert os.write(writer, memory) == PAGE
        assert int.from_bytes(os.read(reader, 8), "little") == region.load(2)
    finally:
        os.close(reader)
        os.close(writer)
    assert region.matches(1)


@pytest.mark.contract("A-05")
@pytest.mark.contract("A-06")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("how", ["munmap", "dontneed", "cpu", "system", "release", "exit"])
def test_every_device_page_is_freed_exactly_once(mirror, how):
    before = mirror.counters()

    def use():
        with Region.anonymous(32) as region:
            mirror.migrate_to_device(region.fill(1))
            if how == "dontneed":
                region.advise(4)
            elif how == "cpu":
                region.touch()
            elif how == "system":
                mirror.migrate_to_system(region)
            elif how == "release":
                mirror.release()
            elif how == "exit":
                assert in_child(lambda: region.load(1)) == region.load(1)

    use()
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed == 32
    assert delta.dev_pages_in_use == 0
