# SPDX-License-Identifier: GPL-2.0
"""Section 12: the life of a mirror, of its address space and of the device's memory."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from dmirror.memory import Region
from dmirror.mirror import RANGE_CALLS, Mirror, MirrorError, node
from dmirror.process import Child
from dmirror.quiet import fault_in
from dmirror.uapi import ffi, lib

COUNTERS = pytest.mark.needs(capability="counters")
CALLS = (*RANGE_CALLS, "RELEASE", "FLAGS")


@pytest.mark.contract("L-01")
def test_an_inherited_descriptor_acts_on_the_parents_memory(mirror, region):
    region.fill(1)

    def child(line):
        region.fill(2)
        return mirror.read(region).data.matches(1)

    with Child(child) as other:
        assert other.result() is True


@pytest.mark.contract("L-01")
def test_a_write_through_an_inherited_descriptor_reaches_the_parent_only(mirror, region):
    region.fill(1)

    def child(line):
        mirror.write(region, 3)
        return region.matches(1)

    with Child(child) as other:
        assert other.result() is True
    assert region.matches(3)


@COUNTERS
@pytest.mark.contract("L-01")
def test_the_childs_memory_raises_no_event_in_the_parents_mirror(mirror, region):
    region.fill(1)

    def child(line):
        line.receive()
        before = mirror.counters()
        region.fill(2)
        region.unmap()
        return (mirror.counters() - before).events_seen

    with Child(child) as other:
        mirror.read(region)
        fault_in()  # what this process would copy on write meanwhile is an event, too
        other.line.send()
        assert other.result() == 0


@pytest.mark.contract("L-02")
@pytest.mark.contract("L-03")
@pytest.mark.contract("D-22")
@pytest.mark.parametrize("call", CALLS)
def test_after_the_owner_is_gone_every_call_fails_at_once(mirror, mirrored, call):
    def begin(memory):
        opened = Mirror(0)
        opened.migrate_to_device(memory.fill(1))
        return [opened]

    with mirrored(begin) as other:
        other.leave()
        with Region.anonymous(16) as scratch, pytest.raises(MirrorError) as caught:
            npages = 0 if call == "FLAGS" else 16
            other.mirror.call(call, other.memory.addr, npages, ffi.cast("void *", scratch.addr))
        wanted = errno.EFAULT if call in ("READ", "WRITE") else errno.EINVAL
        assert (caught.value.errno, caught.value.pages) == (wanted, 0)


@COUNTERS
@pytest.mark.contract("L-02")
def test_after_the_owner_is_gone_the_driver_still_answers_for_itself(mirror, mirrored):
    with mirrored() as other:
        other.mirror.read(other.memory)
        other.leave()
        assert other.mirror.counters().entries_present == 0
        assert "counters" in other.mirror.capabilities()


@COUNTERS
@pytest.mark.contract("L-01")
def test_a_descriptor_passed_on_acts_on_the_openers_memory(mirror, mirrored):
    """SCM_RIGHTS to a process that is no relative: the addresses are the opener's, the buffer is the caller's."""

    def begin(memory):
        memory.store(41)
        return [Mirror(0)]

    with mirrored(begin, lambda opened, memory: memory.matches(5)) as other:
        assert other.mirror.read(other.memory).data.word(0) == 41
        assert other.mirror.migrate_to_device(other.memory).pages == 16
        assert other.mirror.snapshot(other.memory).where == ["local"] * 16
        # The caller has nothing, or something else, at that address.
        with pytest.raises(MirrorError):
            mirror.read(other.memory)
        other.mirror.write(other.memory, 5)
        assert other.mirror.counters().dev_pages_in_use == 16
        other.child.line.send()
        assert other.child.result() is True


def test_only_root_may_open_a_device_unless_its_mode_says_otherwise(mirror):
    """The node is 0600; a mode that allows it is all that another user needs."""
    assert stat.S_IMODE(node(0).stat().st_mode) == 0o600

    def child(line):
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            Mirror(0).close()
        except PermissionError:
            line.send("refused")
        line.receive()
        with Mirror(0) as own, Region.anonymous(4) as memory:
            return own.migrate_to_device(memory.fill(1)).data.matches(1)

    with Child(child) as other:
        assert other.line.receive() == "refused"
        node(0).chmod(0o666)
        try:
            other.line.send()
            assert other.result() is True
        finally:
            node(0).chmod(0o600)


@COUNTERS
@pytest.mark.contract("P-06")
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_device_memory_is_freed_with_its_process(mirror, end):
    def child(line):
        opened, memory = Mirror(0), Region.anonymous(64)
        memory.fill(1)
        opened.migrate_to_device(memory)
        line.send(opened.counters().dev_pages_in_use)
        if end == "kill":
            signal.pause()

    before = mirror.counters().dev_pages_in_use
    with Child(child) as other:
        assert other.line.receive() >= before + 64
        if end == "kill":
            other.kill()
        other.wait()
    assert mirror.counters().dev_pages_in_use == before


@pytest.mark.contract("L-08")
def test_exec_ends_the_mirror(mirror):
    code = "import fcntl, sys\ntry:\n    fcntl.ioctl(int(sys.argv[1]), int(sys.argv[2]), bytearray(40))\n"
    code += "except OSError as error:\n    print(error.errno)\n"
    with Mirror(0) as opened:
        command = ffi.new("struct hmm_dmirror_cmd *", {"addr": 0x10000, "npages": 1})
        raw = bytes(ffi.buffer(command))
        code = code.replace("bytearray(40)", f"bytearray({raw!r})")

        def child():
            os.set_inheritable(opened.fd, True)
            os.execv(sys.executable, [sys.executable, "-S", "-c", code, str(opened.fd), str(lib.HMM_DMIRROR_READ)])

        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            child()
        os.close(writer)
        with os.fdopen(reader) as output:
            said = output.read()
        os.waitpid(pid, 0)
    assert int(said) == errno.EFAULT


@COUNTERS
@pytest.mark.contract("L-10")
@pytest.mark.contract("A-07")
def test_release_brings_everything_back_and_the_device_goes_on(mirror, mirror2, region):
    with Region.anonymous(8) as elsewhere:
        mirror.migrate_to_device(region.fill(1))
        mirror2.migrate_to_device(elsewhere.fill(2))
        mirror.release()
        assert mirror.counters().dev_pages_in_use == 0
        assert mirror.snapshot(region).where == ["ram"] * len(region)
        assert mirror2.snapshot(elsewhere).where == ["local"] * 8
        assert mirror.migrate_to_device(region).data.matches(1)
        assert region.matches(1) and elsewhere.matches(2)


@pytest.mark.contract("L-09")
def test_the_module_cannot_go_while_a_mirror_is_open(mirror, driver):
    result = subprocess.run(["rmmod", driver.path.stem], check=False, capture_output=True, text=True)
    assert result.returncode != 0
    assert "in use" in result.stderr.lower()


@COUNTERS
@pytest.mark.contract("D-02")
@pytest.mark.contract("D-10")
def test_release_against_migration_and_opening(mirror):
    """Three processes at once on one device; each must come to its end and keep its data."""

    def migrate():
        with Mirror(0) as own, Region.anonymous(64) as memory:
            memory.fill(1)
            for _ in range(100):
                try:
                    own.migrate_to_device(memory)
                except MirrorError as error:
                    assert error.errno == errno.ENOENT  # the memory went away under it
                assert memory.matches(1)

    def release():
        with Mirror(0) as own:
            for _ in range(30):
                try:
                    own.release()
                except MirrorError as error:
                    assert error.errno == errno.EBUSY

    def reopen():
        for _ in range(300):
            Mirror(0).close()

    with (
        Child(lambda _: migrate()) as one,
        Child(lambda _: release()) as two,
        Child(lambda _: reopen()) as three,
    ):
        for child in (one, two, three):
            child.result()
