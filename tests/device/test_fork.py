# SPDX-License-Identifier: GPL-2.0
"""Section 9: fork, copy-on-write and permissions."""

import errno

import pytest

from dmirror.memory import READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child

WRITERS = ("parent-cpu", "parent-device", "child-cpu", "child-device")


def child_main(region, opens=0):
    """A child that does what it is told: store a seed, let its own device write it, or check."""

    def main(line):
        mirror = Mirror(opens)
        while (order := line.receive()) is not None:
            verb, seed = order
            if verb == "store":
                region.fill(seed)
            elif verb == "write":
                mirror.write(region, seed)
            elif verb == "migrate":
                mirror.migrate_to_device(region)
            line.send(region.matches(seed))
        mirror.close()

    return main


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16) if request.param == "small" else Region.huge(1) as region:
        yield region


@pytest.mark.contract("C-01")
@pytest.mark.needs(capability="counters")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("back", [False, True], ids=["on-device", "after-fault-back"])
def test_the_first_write_after_fork_is_private(mirror, memory, writer, back):
    memory.fill(1)
    mirror.migrate_to_device(memory)
    with Child(child_main(memory)) as child:

        def ask(verb, seed):
            child.line.send((verb, seed))
            return child.line.receive()

        if back:
            memory.touch()
        if writer == "parent-cpu":
            memory.fill(2)
        elif writer == "parent-device":
            mirror.write(memory, 2)
        elif writer == "child-cpu":
            assert ask("store", 2)
        else:
            assert ask("write", 2)
        parents, childs = (2, 1) if writer.startswith("parent") else (1, 2)
        assert mirror.read(memory).data.matches(parents)
        assert memory.matches(parents)
        assert ask("check", childs)
        # Both have loaded all of it: no page of either is on the device any more.
        assert mirror.counters().dev_pages_in_use == 0
        child.line.send(None)
        child.result()


@pytest.mark.contract("C-02")
def test_after_fork_no_side_has_a_writable_entry(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)

    def child(line):
        with Mirror(0) as own:
            return [str(page) for page in own.snapshot(region)]

    with Child(child) as other:
        theirs = other.result()
    assert set(theirs) == {"local r"}
    assert {str(page) for page in mirror.snapshot(region)} == {"local r"}


@pytest.mark.contract("C-03")
@pytest.mark.parametrize("evict", ["call", "release", "child-touch"])
def test_eviction_of_a_shared_page_keeps_both_isolated(mirror, region, evict):
    region.fill(1)
    mirror.migrate_to_device(region)
    with Child(child_main(region)) as child:
        if evict == "call":
            mirror.migrate_to_system(region)
        elif evict == "release":
            mirror.release()
        else:
            child.line.send(("check", 1))
            assert child.line.receive()
        child.line.send(("store", 2))
        assert child.line.receive()
        assert region.matches(1) and mirror.read(region).data.matches(1)
        region.fill(3)
        child.line.send(("check", 2))
        assert child.line.receive()
        child.line.send(None)
        child.result()


@pytest.mark.contract("C-04")
def test_read_only_device_memory_is_read_only_when_it_is_back(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    region.protect(READ)
    region.touch()
    assert {str(page) for page in mirror.snapshot(region)} == {"ram r"}
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 2)
    assert caught.value.errno == errno.EPERM
    region.protect(RW)
    mirror.write(region, 2)
    assert region.matches(2)


@pytest.mark.contract("C-08")
@pytest.mark.needs(capability="counters")
def test_a_reused_device_page_carries_no_rights(mirror):
    with Region.anonymous(16) as first:
        first.fill(1)
        mirror.migrate_to_device(first)
    # Freed on the device and written exclusively before; the allocator hands it out again.
    with Region.anonymous(16) as second:
        second.fill(2)
        mirror.migrate_to_device(second)
        with Child(child_main(second)) as child:
            second.fill(3)
            child.line.send(("check", 2))
            assert child.line.receive()
            child.line.send(None)
            child.result()


def test_shared_memory_stays_shared_over_fork(mirror):
    with Region.shared(16) as region:
        region.fill(1)
        mirror.read(region)
        with Child(child_main(region)) as child:
            child.line.send(("write", 2))
            assert child.line.receive()
            assert region.matches(2) and mirror.read(region).data.matches(2)
            child.line.send(None)
            child.result()
