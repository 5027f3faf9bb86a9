# SPDX-License-Identifier: GPL-2.0
"""Section 5: pages that others hold stay where they are, and whoever wants a page of the device gets system memory."""

import ctypes
import errno
import mmap
import os
import signal
import struct
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from facilities.disks import ext4
from facilities.machine import frames
from facilities.syscalls import process_vm_read, process_vm_write, syscall
from facilities.uring import Ring

from dmirror.memory import HUGE_PAGES, MADV_POPULATE_READ, MADV_POPULATE_WRITE, PAGE, READ, Data, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import PATIENCE, Child
from dmirror.threads import Task
from dmirror.uapi import ffi

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")


def pattern(span, seed):
    """The bytes that `span.fill(seed)` stores."""
    return bytes(ffi.buffer(Data.pattern(span, seed).buffer))


def gone(mirror, span):
    """Whether the device has no entry for any page of the span."""
    for page in range(len(span)):
        try:
            mirror.peek(span[page])
        except MirrorError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        return False
    return True


# -- pages that are held ----------------------------------------------------------------------------------------


class PipePin:
    """References by vmsplice(2), FOLL_GET."""

    def __init__(self, span, reader):
        self._reader = reader

    def sees(self, span):
        return os.read(self._reader, span.bytes)


@contextmanager
def held(span, how):
    """The pages of a span are held for the block; what comes has `sees(span)`: the bytes as the holder has them."""
    if how == "pipe":
        with span.in_a_pipe() as reader:
            yield PipePin(span, reader)
        return
    with Ring() as ring, ring.registered(span):
        yield ring


HOLDERS = pytest.mark.parametrize("how", ["pipe", "ring"])


@pytest.mark.contract("P-01")
@pytest.mark.contract("P-02")
@HOLDERS
@pytest.mark.parametrize("mapped", [False, True], ids=["", "device-maps-it"])
def test_a_held_page_stays_in_its_frame_with_its_entry_until_it_is_let_go(mirror, block, how, mapped):
    block.fill(1)
    pins = block[5:8]
    if mapped:
        mirror.write(block, 1)
    with held(pins, how) as holder:
        before, words, infos = frames(block), pins.pagemap(), mirror.page_info(pins)
        counted = mirror.counters()
        migration = mirror.migrate(block)
        setup = [word.setup.migrate for word in migration.words]
        assert setup == [page not in (5, 6, 7) for page in range(16)]
        assert (migration.collected, migration.moved) == (13, 13)
        assert mirror.snapshot(block).picture() == "DDDDDrrrDDDDDDDD"
        assert frames(pins) == before[5:8] and pins.pagemap() == words
        assert [(info.pfn, info.write) for info in mirror.page_info(pins)] == [(info.pfn, True) for info in infos]
        delta = mirror.counters() - counted
        assert delta.dev_pages_allocated == delta.dev_pages_in_use == 13
        # It is one page still: for the CPU, for the device and for who holds it.
        pins.fill(2)
        assert mirror.read(pins).data.matches(2)
        mirror.write(pins, 3)
        assert pins.matches(3)
        assert holder.sees(pins) == pattern(pins, 3)
    assert mirror.migrate(block).moved == 3
    assert mirror.snapshot(block).picture() == "D" * 16
    assert block[:5].matches(1) and pins.matches(3) and block[8:].matches(1)


@pytest.mark.contract("P-01")
@pytest.mark.contract("P-02")
@HOLDERS
def test_a_huge_page_of_which_one_is_held_stays_there(mirror, how):
    """As one where it migrates as one; where it is split first, only the page that is held."""
    with Region.huge(1) as huge:
        huge.fill(1)
        huge.advise(mmap.MADV_NOHUGEPAGE)
        pins = huge[100:103]
        with held(pins, how) as holder:
            before = frames(huge)
            migration = mirror.migrate(huge)
            # A huge page is split only if nobody holds any of it.
            assert migration.moved == 0
            assert frames(huge) == before
            pins.fill(2)
            mirror.write(pins[1], 3)
            assert holder.sees(pins) == pattern(pins[0], 2) + pattern(pins[1], 3) + pattern(pins[2], 2)
        assert mirror.migrate(huge).moved == HUGE_PAGES
        assert huge[:100].matches(1) and pins[1].matches(3) and pins[2].matches(2) and huge[103:].matches(1)


@pytest.mark.contract("P-01")
def test_what_comes_in_by_a_pin_is_seen_by_all_after_a_migration_that_left_it(mirror, mirror2, block):
    block.fill(1)
    pins = block[4:8]
    with Ring() as ring, ring.registered(pins):
        for device in (mirror, mirror2):
            device.read(block)
        mirror.migrate(block)
        mirror2.migrate(block[12:])
        ring.puts(pattern(pins, 5), pins)
        assert pins.matches(5)
        assert mirror.read(pins).data.matches(5) and mirror2.read(pins).data.matches(5)
    assert mirror.migrate(pins).moved == 4
    assert mirror2.read(pins).data.matches(5)


@pytest.mark.contract("P-01")
def test_a_pinned_page_is_still_the_parents_after_migration_and_fork(mirror, block):
    """A page that is pinned is exclusive and copied for the child at once; a migration that fails may not forget it."""
    block.fill(1)
    with Ring() as ring, ring.registered(block):
        before = frames(block)
        assert mirror.migrate(block).moved == 0

        def child(line):
            theirs = frames(block)
            line.send([one == two for one, two in zip(theirs, before, strict=True)])
            line.receive()
            assert block.matches(1)
            block.fill(9)

        with Child(child) as other:
            assert not any(other.line.receive())
            block.fill(2)
            mirror.write(block[:4], 3)
            other.line.send()
            other.result()
        assert frames(block) == before
        assert ring.sees(block) == pattern(block[:4], 3) + pattern(block[4:], 2)
        ring.puts(pattern(block, 4), block)
        assert block.matches(4) and mirror.read(block).data.matches(4)


# -- whoever wants a page of the device -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk():
    """The root of a file system on a disk that takes pages as they are (O_DIRECT)."""
    with ext4() as root:
        yield root


@contextmanager
def direct_file(root, flags, content):
    path = root / "direct"
    path.write_bytes(content)
    fd = os.open(path, flags | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)
        path.unlink()


def view(span):
    """The span as a buffer, of which nothing is touched by making it."""
    return ffi.buffer(ffi.cast("char *", span.addr), span.bytes)


def splice_out(span, request):
    with span.in_a_pipe() as reader:
        return os.read(reader, span.bytes)


def write_call(span, request):
    with ExitStack() as stack:
        ends = os.pipe()
        for fd in ends:
            stack.callback(os.close, fd)
        assert os.write(ends[1], view(span)) == span.bytes
        return os.read(ends[0], span.bytes)


def direct_write(span, request):
    with direct_file(request.getfixturevalue("disk"), os.O_RDWR, b"") as fd:
        assert os.pwrite(fd, view(span), 0) == span.bytes
        with mmap.mmap(-1, span.bytes) as copy:
            assert os.preadv(fd, [copy], 0) == span.bytes
            return bytes(copy)


def ring_out(span, request):
    with Ring() as ring, ring.registered(span):
        return ring.sees(span)


def locked(span, request):
    syscall("mlock", span.addr, span.bytes)
    syscall("munlock", span.addr, span.bytes)


def policy(span, request):
    for page in range(len(span)):
        # MPOL_F_NODE | MPOL_F_ADDR: where the page is, by get_user_pages_fast()
        assert syscall("get_mempolicy", struct.pack("=i", 0), None, 0, span[page].addr, 3) == 0


def futex_wait(span, request):
    for page in range(len(span)):
        with pytest.raises(OSError) as caught:  # FUTEX_WAIT, shared: EAGAIN as the word is not what is expected
            expected = (span[page].addr & 0xFFFFFFFF) ^ 0x5A5A5A5A
            syscall("futex", span[page].addr, 0, expected, struct.pack("=2q", 0, 1), None, 0)
        assert caught.value.errno == errno.EAGAIN


READERS = {
    "process_vm_readv": lambda span, request: process_vm_read(os.getpid(), span.addr, span.bytes),
    "write": write_call,
    "vmsplice": splice_out,
    "direct-write": direct_write,
    "write-fixed": ring_out,
    "mlock": locked,
    "populate-read": lambda span, request: span.advise(MADV_POPULATE_READ),
    "get-mempolicy": policy,
    "futex-wait": futex_wait,
}


def direct_read(span, request):
    with direct_file(request.getfixturevalue("disk"), os.O_RDONLY, pattern(span, 2)) as fd:
        assert os.preadv(fd, [view(span)], 0) == span.bytes


def read_call(span, request):
    with ExitStack() as stack:
        ends = os.pipe()
        for fd in ends:
            stack.callback(os.close, fd)
        os.write(ends[1], pattern(span, 2))
        assert os.readv(ends[0], [view(span)]) == span.bytes


def ring_in(span, request):
    with Ring() as ring, ring.registered(span):
        ring.puts(pattern(span, 2), span)


def futex_operation(span, request):
    for page in range(len(span)):
        # FUTEX_WAKE_OP, shared: FUTEX_OP_SET of 7 to the second word
        syscall("futex", span[page].addr + 8, 5, 0, 0, span[page].addr, 7 << 12)
        assert span.load(page) & 0xFFFFFFFF == 7
    span.fill(2)


WRITERS = {
    "process_vm_writev": lambda span, request: process_vm_write(os.getpid(), span.addr, pattern(span, 2)),
    "read": read_call,
    "direct-read": direct_read,
    "read-fixed": ring_in,
    "populate-write": lambda span, request: span.advise(MADV_POPULATE_WRITE) or span.fill(2),
    "futex-wake-op": futex_operation,
}


@pytest.fixture(params=["small", pytest.param("huge", marks=THP)])
def resident(request, mirror):
    """Memory on the device, filled with 1: of sixteen pages, or a huge one; the device has entries to write."""
    with Region.huge(1) if request.param == "huge" else Region.anonymous(16, align=16 * PAGE) as memory:
        mirror.migrate_to_device(memory.fill(1))
        memory.advise(mmap.MADV_NOHUGEPAGE)
        assert mirror.write(memory, 1).faults == 0
        yield memory


def came_back(mirror, memory, part, before):
    """Exactly the pages of a part are system memory now, or all of a huge page, by one fault each."""
    whole = len(memory) == HUGE_PAGES
    back, faults = (HUGE_PAGES, 1) if whole else (len(part), len(part))
    delta = mirror.counters() - before
    assert (delta.dev_cpu_faults, delta.dev_pages_faulted, -delta.dev_pages_in_use) == (faults, back, back)
    assert (delta.dev_fault_oom, delta.dev_fault_failed, delta.dev_pages_evicted) == (0, 0, 0)
    first = part.first - memory.first
    picture = "D" * first + "r" * len(part) + "D" * (len(memory) - first - len(part))
    assert mirror.snapshot(memory).picture() == ("r" * HUGE_PAGES if whole else picture)
    assert gone(mirror, part)


@pytest.mark.contract("P-03")
@pytest.mark.parametrize("interface", READERS)
def test_who_reads_device_memory_gets_the_data_and_these_pages_come_back(mirror, resident, request, interface):
    # mlock() splits the mapping at both ends, and a huge page that two mappings share comes back in parts.
    part = resident if interface == "mlock" else resident[3:6]
    if interface.startswith("direct"):
        request.getfixturevalue("disk")
    before = mirror.counters()
    data = READERS[interface](part, request)
    assert data is None or data == pattern(part, 1)
    came_back(mirror, resident, part, before)
    assert mirror.read(resident).data.matches(1)
    assert resident.matches(1)


@pytest.mark.contract("P-03")
@pytest.mark.parametrize("interface", WRITERS)
def test_who_writes_device_memory_writes_system_memory_that_all_see(mirror, resident, request, interface):
    part = resident[3:6]
    if interface.startswith("direct"):
        request.getfixturevalue("disk")
    before = mirror.counters()
    WRITERS[interface](part, request)
    came_back(mirror, resident, part, before)
    assert part.matches(2) and resident[:3].matches(1) and resident[6:].matches(1)
    assert mirror.read(part).data.matches(2)
    mirror.write(part, 3)
    assert part.matches(3)
    # Nobody holds it any more.
    assert mirror.migrate(resident).moved == (HUGE_PAGES if len(resident) == HUGE_PAGES else 16)
    assert part.matches(3)


# -- whoever wants a page of another process --------------------------------------------------------------------

PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 5, 16, 17  # linux/ptrace.h


@contextmanager
def traced(pid):
    syscall("ptrace", PTRACE_ATTACH, pid, 0, 0)
    os.waitpid(pid, 0)
    try:
        yield
    finally:
        syscall("ptrace", PTRACE_DETACH, pid, 0, 0)


def ptrace_peek(pid, span):
    words = []
    with traced(pid):
        for page in range(len(span)):
            words.append(ctypes.c_uint64())
            syscall("ptrace", PTRACE_PEEKDATA, pid, span[page].addr, words[-1])
    return [word.value for word in words]


def ptrace_poke(pid, span, words):
    with traced(pid):
        for page, word in enumerate(words):
            syscall("ptrace", PTRACE_POKEDATA, pid, span[page].addr, word)


def first_words(data):
    return [struct.unpack_from("=Q", data, at)[0] for at in range(0, len(data), PAGE)]


def memory_file(pid, span, words=None):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as file:
        if words is None:
            return first_words(os.pread(file.fileno(), span.bytes, span.addr))
        for page, word in enumerate(words):
            os.pwrite(file.fileno(), word.to_bytes(8, "little"), span[page].addr)
    return None


def vm_write(pid, span, words):
    for page, word in enumerate(words):
        process_vm_write(pid, span[page].addr, word.to_bytes(8, "little"))


REMOTE = {
    "ptrace": (ptrace_peek, ptrace_poke),
    "proc-mem": (memory_file, memory_file),
    "process-vm": (lambda pid, span: first_words(process_vm_read(pid, span.addr, span.bytes)), vm_write),
}


def on_the_device(memory):
    mirror = Mirror(0)
    mirror.migrate_to_device(memory.fill(1))
    mirror.write(memory, 1)
    return [mirror]


@pytest.mark.contract("P-03")
@pytest.mark.parametrize("interface", REMOTE)
def test_who_reads_and_writes_the_device_memory_of_another_process(mirrored, interface):
    load, store = REMOTE[interface]

    def look(own, memory):
        return [memory.load(page) for page in range(16)], memory.matches(1)

    with mirrored(on_the_device, look) as other:
        part, there = other.memory[3:6], other.mirror
        expected = first_words(pattern(other.memory, 1))
        before = there.counters()
        assert load(other.child.pid, part) == expected[3:6]
        came_back(there, other.memory, part, before)
        part = other.memory[9:12]
        before = there.counters()
        store(other.child.pid, part, [7, 8, 9])
        delta = there.counters() - before
        assert (delta.dev_cpu_faults, delta.dev_pages_faulted, delta.dev_pages_in_use) == (3, 3, -3)
        assert there.snapshot(other.memory).picture() == "DDDrrrDDDrrrDDDD"
        assert gone(there, part)
        data = there.read(other.memory).data
        expected[9:12] = [7, 8, 9]
        assert [data.word(page) for page in range(16)] == expected
        there.write(other.memory, 1)
        other.child.line.send()
        assert other.child.result() == (first_words(pattern(other.memory, 1)), True)


@pytest.mark.contract("P-03")
@pytest.mark.parametrize("interface", REMOTE)
def test_a_write_to_another_process_stays_with_it_after_a_fork(mirror, block, interface):
    """The page of the device is shared: who writes on behalf of one process breaks the sharing for it."""
    mirror.migrate_to_device(block.fill(1))

    def child(line):
        line.receive()
        return [block.load(page) for page in range(16)]

    with Child(child) as other:
        REMOTE[interface][1](other.pid, block[4:6], [7, 8])
        assert mirror.snapshot(block).picture() == "DDDDrrDDDDDDDDDD"
        assert mirror.read(block).data.matches(1)
        expected = first_words(pattern(block, 1))
        other.line.send()
        theirs = other.result()
    assert theirs == [*expected[:4], 7, 8, *expected[6:]]
    assert block.matches(1) and mirror.read(block).data.matches(1)


@pytest.mark.contract("P-03")
def test_a_pin_of_a_page_that_a_child_shares_is_the_parents_own(mirror, block):
    """Whoever pins to write has an exclusive page, also when the shared one was on the device."""
    mirror.migrate_to_device(block.fill(1))

    def child(line):
        line.receive()
        return block.matches(1)

    with Child(child) as other, Ring() as ring, ring.registered(block[:8]):
        block.fill(2)
        assert ring.sees(block[:8]) == pattern(block[:8], 2)
        ring.puts(pattern(block[:8], 3), block[:8])
        assert block[:8].matches(3) and mirror.read(block[:8]).data.matches(3)
        other.line.send()
        assert other.result() is True


def wait_in_futex(task, addr):
    """Wait until a task sleeps on this futex; proc_pid_syscall(5) is all that tells of it."""
    call = Path(f"/proc/self/task/{task.tid}/syscall")
    ends = time.monotonic() + PATIENCE
    while not call.read_text().startswith(f"202 {addr:#x} "):
        assert time.monotonic() < ends and not task.done
        os.sched_yield()


@pytest.mark.contract("P-03")
@pytest.mark.contract("C-04")
def test_nobody_writes_read_only_device_memory(mirror, resident):
    """The right to write does not come back with the page."""
    resident.protect(READ)
    part = resident[3:6]
    with pytest.raises(OSError) as caught:
        process_vm_write(os.getpid(), part.addr, bytes(8))
    assert caught.value.errno == errno.EFAULT
    with pytest.raises(OSError) as caught, Ring() as ring, ring.registered(part):
        pytest.fail("it was registered")
    assert caught.value.errno == errno.EFAULT
    assert resident.matches(1) and mirror.read(resident).data.matches(1)
    assert not any(page.writable for page in mirror.snapshot(resident))


@pytest.mark.contract("P-03")
@pytest.mark.contract("C-04")
def test_a_debugger_writes_read_only_device_memory_of_one_process_only(mirror, resident):
    """A copy of its own, in spite of the mapping: which stays read-only."""
    resident.protect(READ)

    def child(line):
        line.receive()
        with Mirror(0) as own:
            words = [own.read(resident[page]).data.word(0) for page in (2, 3, 4)]
            with pytest.raises(MirrorError) as refused:
                own.write(resident[3], 9)
            return words, [resident.load(page) for page in (2, 3, 4)], refused.value.errno

    with Child(child) as other:
        ptrace_poke(other.pid, resident[3], [77])
        assert resident[3].matches(1) and mirror.read(resident).data.matches(1)
        other.line.send()
        expected = [resident.load(2), 77, resident.load(4)]
        assert other.result() == (expected, expected, errno.EPERM)
    assert resident.matches(1)


@pytest.mark.contract("P-03")
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_a_futex_on_a_page_that_migrates_wakes_who_waits(mirror, block, shared):
    block.store(0)
    private = 0 if shared else 128  # FUTEX_PRIVATE_FLAG

    def wait():
        return syscall("futex", block.addr, private, 0, struct.pack("=2q", int(PATIENCE), 0), None, 0)

    with Task(wait) as waiting:
        wait_in_futex(waiting, block.addr)
        assert mirror.migrate(block).moved == 16
        assert syscall("futex", block.addr, 1 | private, 1, None, None, 0) == 1
        assert waiting.result() == 0
    assert mirror.snapshot(block).picture() == ("r" if shared else "D") + "D" * 15


# -- coherent devices -------------------------------------------------------------------------------------------


@pytest.fixture
def in_place(coherent):
    """Sixteen pages of a coherent device, under one page table, filled with 1."""
    with Region.anonymous(16, align=16 * PAGE) as memory:
        coherent.migrate_to_device(memory.fill(1))
        yield memory


@pytest.mark.contract("P-04")
@pytest.mark.parametrize("interface", ["process_vm_readv", "write", "vmsplice", "direct-write"])
def test_a_short_reference_to_a_coherent_page_is_taken_in_place(coherent, in_place, request, interface):
    if interface == "direct-write":
        request.getfixturevalue("disk")
    part = in_place[3:6]
    before, was = coherent.counters(), frames(in_place)
    assert READERS[interface](part, request) == pattern(part, 1)
    assert frames(in_place) == was
    assert coherent.snapshot(in_place).picture() == "D" * 16
    assert (coherent.counters() - before).dev_pages_in_use == 0
    # No reference is left.
    assert coherent.migrate_to_system(in_place) == 16


@pytest.mark.contract("P-04")
def test_what_a_disk_reads_into_a_coherent_page_is_there_for_the_device(coherent, in_place, request):
    part = in_place[3:6]
    was = frames(in_place)
    direct_read(part, request)
    assert frames(in_place) == was
    assert coherent.read(part).data.matches(2) and part.matches(2)
    assert coherent.migrate_to_system(in_place) == 16
    assert part.matches(2) and in_place[:3].matches(1) and in_place[6:].matches(1)


@pytest.mark.contract("P-04")
@pytest.mark.contract("P-02")
def test_a_longterm_pin_of_coherent_pages_brings_exactly_them_to_system_memory(coherent, in_place):
    part = in_place[3:6]
    coherent.write(in_place, 1)
    before, was = coherent.counters(), frames(in_place)
    with Ring() as ring, ring.registered(part):
        assert coherent.snapshot(in_place).picture() == "DDDrrrDDDDDDDDDD"
        assert (coherent.counters() - before).dev_pages_in_use == -3
        now = frames(in_place)
        assert now[:3] + now[6:] == was[:3] + was[6:] and not set(now[3:6]) & set(was[3:6])
        assert gone(coherent, part)
        assert ring.sees(part) == pattern(part, 1)
        coherent.write(part, 2)
        assert ring.sees(part) == pattern(part, 2) and part.matches(2)
        ring.puts(pattern(part, 3), part)
        assert coherent.read(part).data.matches(3)
        # Held there as any other page.
        assert coherent.migrate(in_place).moved == 0
        assert frames(part) == now[3:6]
    assert coherent.migrate(in_place).moved == 3
    assert part.matches(3) and in_place[:3].matches(1) and in_place[6:].matches(1)


@pytest.mark.contract("P-04")
def test_a_longterm_pin_fails_where_a_coherent_page_cannot_leave(coherent, in_place):
    """EBUSY, and nothing of the range is pinned."""
    with in_place[5].in_a_pipe(), Ring() as ring:
        with pytest.raises(OSError) as caught, ring.registered(in_place[3:8]):
            pytest.fail("it was registered")
        assert caught.value.errno == errno.EBUSY
        assert coherent.snapshot(in_place[5]).picture() == "D"
        assert in_place.matches(1) and coherent.read(in_place).data.matches(1)
    # No reference is left of those that were pinned for a while.
    coherent.migrate_to_system(in_place)
    assert coherent.snapshot(in_place).picture() == "r" * 16
    assert coherent.migrate(in_place).moved == 16
    assert in_place.matches(1)


# -- fork, and the end ------------------------------------------------------------------------------------------


@pytest.mark.contract("P-05")
@pytest.mark.parametrize("huge", [False, pytest.param(True, marks=THP)], ids=["small", "huge"])
def test_fork_with_pinned_pages_and_pages_on_the_device(mirror, huge):
    with (
        Region.anonymous(16, align=16 * PAGE) as pinned,
        Region.huge(1) if huge else Region.anonymous(16, align=16 * PAGE) as memory,
        Ring() as ring,
    ):
        pinned.fill(1)
        mirror.migrate_to_device(memory.fill(1))
        with ring.registered(pinned):
            before, infos = frames(pinned), mirror.page_info(memory)

            def child(line):
                with Mirror(0) as own:
                    places = [(info.device, info.index, info.write) for info in own.page_info(memory)]
                    line.send((places, frames(pinned)))
                    line.receive()
                    line.send(memory.matches(1) and pinned.matches(1))
                    line.receive()
                    memory.fill(8)
                    pinned.fill(9)
                    line.send(None)
                    line.receive()

            with Child(child) as other:
                places, theirs = other.line.receive()
                # The same pages of the device, and copies of those that are pinned.
                assert places == [(0, info.index, False) for info in infos]
                assert frames(pinned) == before and not set(theirs) & set(before)
                pinned.fill(2)
                mirror.write(memory[:8], 2)
                memory[8:16].fill(2)
                other.line.send()
                assert other.line.receive() is True
                other.line.send()
                other.line.receive()
                assert ring.sees(pinned) == pattern(pinned, 2)
                assert memory[:16].matches(2) and memory[16:].matches(1)
                assert mirror.read(memory[:16]).data.matches(2)
                other.line.send()
                other.result()
            assert frames(pinned) == before and ring.sees(pinned) == pattern(pinned, 2)


@pytest.mark.contract("P-06")
@pytest.mark.parametrize(
    "point", ["cpu_fault.begin", "cpu_fault.after_setup", "cpu_fault.after_pages", "cpu_fault.before_finalize"]
)
def test_device_memory_goes_while_somebody_fetches_a_page_of_it(mirror, mirrored, point):
    """A reader of another process's memory is in the middle of a fault there when that process is killed."""
    before = mirror.counters()
    with mirrored(on_the_device) as other:
        there, memory = other.mirror, other.memory
        with (
            there.hold(point, memory[4]) as hold,
            Task(process_vm_read, other.child.pid, memory[4].addr, PAGE) as reader,
        ):
            hold.wait()
            os.kill(other.child.pid, signal.SIGKILL)
            other.child.wait()
            hold.resume()
            assert reader.result() == pattern(memory[4], 1)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed == 16
    assert delta.dev_pages_in_use == 0
