# SPDX-License-Identifier: GPL-2.0
"""Section 12 where pages and mirrors are of several processes: whose mirror it is, and what all of them keep."""

import errno
import mmap
import os
import sys
from contextlib import ExitStack

import pytest
from facilities.kin import Offspring, Parent

from dmirror.events import KERNEL_EVENTS
from dmirror.memory import READ, RW, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child
from dmirror.uapi import ffi, lib

pytestmark = pytest.mark.needs(capability="steer")


@pytest.fixture(params=["small", "huge"])
def memory(request, mirror):
    with Region.anonymous(16) if request.param == "small" else Region.huge(1) as region:
        region.fill(1)
        region.advise(mmap.MADV_NOHUGEPAGE)  # khugepaged has no business here
        yield region


@pytest.mark.contract("L-01")
@pytest.mark.parametrize("where", ["ram", "device"])
def test_what_a_child_does_to_its_memory_is_no_event_of_the_parents_mirror(mirror, memory, where):
    """And what it does by the mirror that it inherited is done to the parent's memory, as the parent has it."""
    if where == "device":
        mirror.migrate(memory.fill(1))
    else:
        mirror.read(memory.fill(1))

    def child(line):
        line.receive()
        memory.touch()
        memory.fill(5)
        memory.protect(READ)
        memory.protect(RW)
        memory[:4].unmap()
        with Mirror(0) as own:
            own.migrate(memory[4:])
            own.migrate_to_system(memory[4:])
        line.send()
        line.receive()
        seen = mirror.read(memory).data.matches(2), mirror.snapshot(memory).count("ram")
        mirror.write(memory, 3)
        kept = memory[4:].matches(5)
        line.send()
        line.receive()
        return seen, kept

    with Child(child) as other:
        # Its own: what was shared is not any more.
        memory.fill(2)
        mirror.read(memory)
        with mirror.events(buf=memory) as log:
            other.line.send()
            other.line.receive()
            log.expect(KERNEL_EVENTS, over=memory, times=0)
            assert mirror.peek(memory).matches(2)
        other.line.send()
        other.line.receive()
        assert memory.matches(3) and mirror.peek(memory).matches(3)
        other.line.send()
        assert other.result() == ((True, len(memory)), True)


@pytest.mark.contract("L-01")
@pytest.mark.contract("M-02")
def test_a_shared_device_page_that_goes_is_told_to_every_mirror_that_has_it(mirror, memory):
    """Each of its own address space, in which it is at the same address here."""
    mirror.migrate(memory.fill(1))
    parent = Parent(mirror, memory)
    with Offspring(memory) as child:
        parent("device-reads")
        child("device-reads")
        assert parent("mapped") == child("mapped") == len(memory)
        # It comes back for one of them.
        assert child("to-system") == len(memory)
        assert parent("mapped") == child("mapped") == 0
        assert parent("device-sees", 1) and child("device-sees", 1)
        assert parent("frames") == child("frames")
        assert parent("to-device") == len(memory)
        assert child("mapped") == 0
        child.leave()
    assert memory.matches(1)


@pytest.mark.contract("L-10")
@pytest.mark.contract("C-03")
@pytest.mark.contract("M-21")
def test_release_leaves_everybody_data_and_rights_and_another_device_alone(mirror, mirror2, memory):
    with ExitStack() as stack:
        elsewhere = stack.enter_context(Region.anonymous(8))
        mirror2.migrate(elsewhere.fill(9))
        indexes = [page.index for page in mirror2.page_info(elsewhere)]
        mirror.migrate(memory.fill(1))
        parent = Parent(mirror, memory)
        kin = [parent, *(stack.enter_context(Offspring(memory)) for _ in range(3))]
        kin[3]("prot", READ)
        kin[2]("cpu", 4, 0, 2)  # which brings it back, all of it where it is huge
        parent("to-device")
        kin[1]("release")
        assert mirror.counters().dev_pages_in_use == 0
        for one in kin:
            assert one("picture") == "r" * len(memory)
            assert [page for page, writable in enumerate(one("writable")) if writable] in ([], [0, 1])
        assert all(one("cpu-sees", 1) and one("device-sees", 1) for one in (parent, kin[1], kin[3]))
        assert kin[2]("cpu-sees", 4, 0, 2) and kin[2]("device-sees", 1, 2, len(memory))
        assert kin[3]("refused")
        for seed, one in enumerate(kin[:3], start=5):
            one("device" if seed % 2 else "cpu", seed)
        assert [one("cpu-sees", seed) for seed, one in enumerate(kin[:3], start=5)] == [True] * 3
        assert kin[3]("cpu-sees", 1)
        assert [page.index for page in mirror2.page_info(elsewhere)] == indexes
        assert mirror2.read(elsewhere).data.matches(9)
        # The device is as good as new.
        assert parent("to-device") == len(memory)
        assert parent("device-sees", 5)
        for one in kin[1:]:
            one.leave()


@pytest.mark.contract("L-02")
@pytest.mark.contract("L-03")
@pytest.mark.parametrize("where", ["ram", "device", "exclusive"])
def test_when_an_address_space_goes_its_mirror_has_nothing_left(mirror, mirrored, where):
    """What its pages had is given back at once, though the file is open; what others have is not touched."""
    before = mirror.counters()

    def begin(memory):
        opened = Mirror(0)
        memory.fill(1)
        if where == "device":
            opened.migrate(memory)
        elif where == "exclusive":
            opened.make_exclusive(memory)
        opened.read(memory) if where == "ram" else None
        return [opened]

    with mirrored(begin) as other, Region.anonymous(16) as mine:
        mirror.migrate(mine.fill(2))
        assert other.mirror.counters().entries_present >= 16
        with other.mirror.events() as log:
            other.leave()
            log.wait_for("RELEASE")
            log.expect("RELEASE", watch=0)
        assert other.mirror.counters().entries_present == 0
        assert (mirror.counters() - before).dev_pages_in_use == 16
        for call in (other.mirror.peek, lambda span: other.mirror.poke(span, 3)):
            with pytest.raises(MirrorError) as caught:
                call(other.memory)
            assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert mirror.peek(mine).matches(2)
        other.mirror.close()
        assert mirror.peek(mine).matches(2) and mine.matches(2)
    assert (mirror.counters() - before).dev_pages_in_use == 0


@pytest.mark.contract("L-08")
@pytest.mark.parametrize("where", ["ram", "device"])
def test_exec_takes_the_mirror_down_at_once(mirror, where):
    """The new program has the file: it waits there, and its calls are refused; the pages of the old one are free."""
    before = mirror.counters().dev_pages_in_use
    code = (
        "import fcntl, os, sys\n"
        "fd, number = int(sys.argv[1]), int(sys.argv[2])\n"
        "try:\n    fcntl.ioctl(fd, number, bytes.fromhex(sys.argv[3]))\n    said = 0\n"
        "except OSError as error:\n    said = error.errno\n"
        "os.write(1, bytes([said]))\nos.read(0, 1)\n"
    )
    to_child, from_child = os.pipe(), os.pipe()
    with Mirror(0) as opened, Region.anonymous(16) as memory:
        command = ffi.new("struct hmm_dmirror_cmd *", {"addr": memory.addr, "npages": 1, "ptr": memory.addr})
        raw = bytes(ffi.buffer(command)).hex()

        def child(line):
            own = Mirror(0)
            memory.fill(1)
            own.migrate(memory) if where == "device" else own.read(memory)
            os.set_inheritable(own.fd, True)
            os.dup2(to_child[0], 0)
            os.dup2(from_child[1], 1)
            line.send(mirror.counters().dev_pages_in_use)
            arguments = [str(own.fd), str(lib.HMM_DMIRROR_READ), raw]
            os.execv(sys.executable, [sys.executable, "-S", "-c", code, *arguments])

        with Child(child) as other:
            assert other.line.receive() == before + (16 if where == "device" else 0)
            assert os.read(from_child[0], 1) == bytes([errno.EFAULT])
            # It lives, and has the file open.
            assert mirror.counters().dev_pages_in_use == before
            assert mirror.counters().dev_contexts == 3
            os.write(to_child[1], b"x")
            other.wait()
        assert mirror.counters().dev_contexts == 2
        opened.read(memory)
    for fd in (*to_child, *from_child):
        os.close(fd)
