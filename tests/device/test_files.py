# SPDX-License-Identifier: GPL-2.0
"""Section 7: memory of files.

There is no DAX in the guest: that migrate_vma_setup() refuses it (F-05) is not tested.
"""

import errno
import mmap
import os
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest
from facilities.disks import ext4
from facilities.machine import frames, kpageflags
from facilities.syscalls import syscall

from dmirror.events import CLEAR, PROTECTION_PAGE
from dmirror.memory import PAGE, READ, Data, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child
from dmirror.running import release_matches
from dmirror.uapi import ffi

pytestmark = pytest.mark.needs(capability="steer")

# make_device_exclusive_range() of 6.1 says of a page of hugetlb no more than that it is not exclusive.
REFUSED = errno.EOPNOTSUPP if release_matches(os.uname().release, ">=6.12") else errno.EBUSY
DIRTY = 1 << 4  # KPF_DIRTY, linux/kernel-page-flags.h


@pytest.fixture(scope="module")
def disk():
    """The root of a file system that writes back."""
    with ext4() as root:
        yield root


@contextmanager
def opened(root, npages=16, seed=1):
    """A new file of that pattern, written back: its descriptor."""
    path = root / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        for page in range(npages):  # a page at a time: folios of one page
            os.pwrite(fd, pattern(1, seed, page), page * PAGE)
        os.fsync(fd)
        yield fd
    finally:
        os.close(fd)
        path.unlink()


@pytest.fixture(params=["ext4", "tmpfs", "memfd"])
def file(request):
    """An open file of sixteen pages, filled with 1."""
    if request.param == "ext4":
        with opened(request.getfixturevalue("disk")) as fd:
            yield fd
        return
    with TemporaryDirectory() as folder:
        named = request.param == "tmpfs"
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE) if named else os.memfd_create("dmirror")
        os.write(fd, pattern(16, 1))
        yield fd
        os.close(fd)


def pattern(npages, seed, first=0):
    return bytes(ffi.buffer(Data.pattern(Region(0, npages, first), seed).buffer))


def content(fd, span):
    """The bytes of a file that a span of its mapping shows, by pread(2)."""
    return os.pread(fd, span.bytes, span.first * PAGE)


def on_disk(fd, span):
    """The same as the disk has them."""
    direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, span.bytes) as copy:
            assert os.preadv(direct, [copy], span.first * PAGE) == span.bytes
            return bytes(copy)
    finally:
        os.close(direct)


def dirty(span):
    """Of each page of the span, which is mapped, whether it has to be written back."""
    return [bool(kpageflags(frame) & DIRTY) for frame in frames(span)]


def nothing(mirror, span):
    """Whether the device has no entry for any page of the span."""
    for page in range(len(span)):
        try:
            mirror.peek(span[page])
        except MirrorError as error:
            assert error.errno == errno.ENOENT
        else:
            return False
    return True


@pytest.mark.contract("F-01")
@pytest.mark.parametrize("access", ["cpu-read", "cpu-write", "device-write"])
def test_pages_of_a_file_stay_in_the_page_cache_as_they_are(mirror, file, access):
    with Region.of_file(file, 16) as memory:
        memory.touch()
        if access == "cpu-write":
            memory.fill(2)
        if access == "device-write":
            mirror.write(memory, 2)
        seed = 1 if access == "cpu-read" else 2
        was, words, soiled = frames(memory), memory.pagemap(), dirty(memory)
        before = mirror.counters()
        migration = mirror.migrate(memory)
        assert migration.moved == 0 and not any(words.final.migrate for words in migration.words)
        assert frames(memory) == was and memory.pagemap() == words and dirty(memory) == soiled
        assert (mirror.counters() - before).dev_pages_in_use == 0
        # The same pages that the file has: for those who map it, and for those who do not.
        assert mirror.read(memory).data.matches(seed) and content(file, memory) == pattern(16, seed)
        os.pwrite(file, pattern(4, 3, 4), 4 * PAGE)
        assert memory[4:8].matches(3) and mirror.read(memory[4:8]).data.matches(3)
        mirror.write(memory[8:12], 4)
        assert content(file, memory[8:12]) == pattern(4, 4, 8)


@pytest.mark.contract("F-01")
def test_a_dirty_page_that_was_to_migrate_is_written_back(mirror, disk):
    with opened(disk) as fd, Region.of_file(fd, 16) as memory:
        memory[:8].fill(2)
        mirror.write(memory[8:], 2)
        assert dirty(memory) == [True] * 16
        assert mirror.migrate(memory).moved == 0
        assert dirty(memory) == [True] * 16
        os.fsync(fd)
        assert dirty(memory) == [False] * 16
        assert on_disk(fd, memory) == pattern(16, 2)
        # And a clean one is not made dirty.
        memory.touch()
        assert mirror.migrate(memory).moved == 0
        assert dirty(memory) == [False] * 16


@pytest.mark.contract("F-02")
def test_private_copies_migrate_and_the_rest_of_the_file_does_not(mirror, file):
    with Region.of_file(file, 16, private=True) as memory:
        memory[:12].touch()
        memory[12:].advise(mmap.MADV_DONTNEED)  # what a fault mapped besides
        memory[2:5].fill(2)
        mirror.write(memory[8:10], 3)
        copies = (2, 3, 4, 8, 9)
        was = frames(memory)
        migration = mirror.migrate(memory)
        assert migration.moved == 5
        assert [page for page, words in enumerate(migration.words) if words.final.migrate] == list(copies)
        # Holes of a file are not offered.
        assert not any(words.setup.migrate for words in migration.words[12:])
        where = mirror.snapshot(memory).where
        assert [page for page in range(16) if where[page] == "local"] == list(copies)
        assert [frame for page, frame in enumerate(frames(memory)) if page not in copies] == [
            frame for page, frame in enumerate(was) if page not in copies
        ]
        mirror.write(memory[2:4], 4)
        assert content(file, memory) == pattern(16, 1)
        assert memory[:2].matches(1) and memory[2:4].matches(4) and memory[4].matches(2)
        assert memory[8:10].matches(3) and memory[10:].matches(1)
        # Without its copy a page is that of the file again, for both.
        mirror.migrate(memory)
        memory[2:5].advise(mmap.MADV_DONTNEED)
        assert nothing(mirror, memory[2:5])
        assert mirror.read(memory[2:5]).data.matches(1) and memory[2:5].matches(1)


@pytest.mark.contract("F-02")
def test_a_device_write_to_a_private_mapping_makes_a_copy(mirror, file):
    with Region.of_file(file, 16, private=True) as memory:
        assert mirror.read(memory).data.matches(1)
        was = frames(memory)
        mirror.write(memory[3:6], 2)
        assert not set(frames(memory[3:6])) & set(was)
        assert content(file, memory) == pattern(16, 1)
        assert memory[3:6].matches(2) and memory[:3].matches(1) and memory[6:].matches(1)
        # What comes into the file is seen where there is no copy.
        os.pwrite(file, pattern(16, 5), 0)
        assert mirror.read(memory[:3]).data.matches(5) and mirror.read(memory[3:6]).data.matches(2)


@pytest.mark.contract("F-03")
@pytest.mark.parametrize("how", ["truncate", "punch", "remove"])
def test_what_is_cut_out_of_a_file_is_gone_for_the_devices_of_all_who_map_it(mirror, mirror2, file, how):
    """Whoever cuts maps nothing of it: the mirrors are told through the mappings."""
    with Region.of_file(file, 16) as memory, Region.of_file(file, 16) as again:
        part = memory[6:10]

        def child(line):
            with Mirror(0) as own:
                own.read(memory)
                with own.events(buf=memory) as log:
                    line.send()
                    line.receive()
                    log.read()
                told = [(event.type, event.blockable) for event in log.select(over=part) if event.told]
                others = [event for event in log.select(over=memory[:6]) if event.told]
                line.send((told, others, nothing(own, part), own.peek(memory[:6]).matches(1)))
                line.receive()
                return own.read(part).data.zero() if how != "truncate" else nothing(own, memory[6:])

        def cut(line):
            memory.unmap()
            again.unmap()
            if how == "truncate":
                os.ftruncate(file, 6 * PAGE)
            else:
                # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                syscall("fallocate", file, 3, 6 * PAGE, 4 * PAGE)

        mirror.write(memory, 1)
        mirror2.read(again)
        with Child(child) as other:
            other.line.receive()
            with mirror.events(buf=memory) as log, mirror2.events(buf=again) as log2:
                if how == "remove":
                    part.advise(mmap.MADV_REMOVE)
                else:
                    with Child(cut) as cutter:
                        cutter.result()
                end = 16 if how == "truncate" else 10
                assert nothing(mirror, memory[6:end]) and nothing(mirror2, again[6:end])
                assert mirror.peek(memory[:6]).matches(1) and mirror2.peek(again[:6]).matches(1)
            for each, of in ((log, memory), (log2, again)):
                told = each.select(CLEAR, over=of[6:end])
                assert told and (told[0].start, told[0].end) == (of[6].addr, of[end - 1].end)
                assert each.select(over=of[:6]) == []
            other.line.send()
            told, others, empty, rest = other.line.receive()
            # Some file systems write back what they are to cut out.
            assert {(CLEAR, True)} <= set(told) <= {(CLEAR, True), (PROTECTION_PAGE, True)}
            assert others == [] and empty and rest
            other.line.send()
            assert other.result() is True
        if how == "truncate":
            for device, of in ((mirror, memory), (mirror2, again)):
                with pytest.raises(MirrorError) as caught:
                    device.read(of)
                assert (caught.value.errno, caught.value.pages) == (errno.EFAULT, 6)
        else:
            mirror.write(part, 7)
            assert again[6:10].matches(7) and mirror2.read(again[6:10]).data.matches(7)


@pytest.mark.contract("F-03")
@pytest.mark.contract("I-27")
def test_writes_to_a_file_tell_no_mirror_and_are_seen(mirror, file):
    """The page is the same: there is nothing to tell."""
    with Region.of_file(file, 16) as memory:
        mirror.read(memory)
        with mirror.events(buf=memory) as log:
            os.pwrite(file, pattern(16, 2), 0)
            assert mirror.peek(memory).matches(2)
        assert [event for event in log.select(over=memory) if event.told] == []


@pytest.mark.contract("F-04")
@pytest.mark.contract("I-22")
@pytest.mark.parametrize("how", ["fsync", "msync", "sync_file_range"])
def test_a_device_write_makes_a_file_dirty_again_after_each_writeback(mirror, mirror2, disk, how):
    """Writeback takes the right to write, or what comes later would be lost: each device has to fault for it."""
    with opened(disk) as fd, Region.of_file(fd, 16) as memory:
        part = memory[4:8]
        mirror2.read(memory)
        mirror.read(memory)
        assert mirror.write(part, 2).faults > 0
        for seed in (2, 3, 4):
            if seed > 2:
                result = mirror.write(part, seed)
                assert result.faults > 0
            assert dirty(memory) == [4 <= page < 8 for page in range(16)]
            assert content(fd, part) == pattern(4, seed, 4)
            mirror2.read(memory)
            with mirror.events(buf=memory) as log, mirror2.events(buf=memory) as log2:
                write_back(fd, memory, how)
            for page in range(4):
                assert log.select(PROTECTION_PAGE, over=part[page]), log.table()
                assert log2.select(PROTECTION_PAGE, over=part[page]), log2.table()
            assert nothing(mirror, part) and nothing(mirror2, part)
            assert dirty(memory) == [False] * 16
            assert on_disk(fd, part) == pattern(4, seed, 4)
            # To read, nothing is dirtied; the entry is one to read.
            assert mirror.read(part).data.matches(seed)
            assert not any(page.mapped_write for page in mirror.page_info(part))
            assert dirty(memory) == [False] * 16
        assert memory[:4].matches(1) and part.matches(4) and memory[8:].matches(1)
        assert on_disk(fd, memory) == pattern(4, 1) + pattern(4, 4, 4) + pattern(8, 1, 8)


def write_back(fd, memory, how):
    if how == "fsync":
        os.fsync(fd)
    elif how == "msync":
        syscall("msync", memory.addr, memory.bytes, 4)  # MS_SYNC
    else:
        # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER
        syscall("sync_file_range", fd, 0, memory.bytes, 7)


@pytest.mark.contract("F-04")
@pytest.mark.contract("I-22")
def test_two_devices_write_one_file(mirror, mirror2, disk):
    with opened(disk) as fd, Region.of_file(fd, 16) as memory:
        for seed, device in enumerate((mirror, mirror2, mirror), start=2):
            device.write(memory, seed)
            os.fsync(fd)
            with pytest.raises(MirrorError) as caught:
                device.poke(memory[0], 9)
            assert caught.value.errno in (errno.ENOENT, errno.EPERM)
            assert on_disk(fd, memory) == pattern(16, seed)
            assert mirror.read(memory).data.matches(seed) and mirror2.read(memory).data.matches(seed)


@pytest.mark.contract("F-04")
def test_a_file_that_may_not_be_written_is_not(mirror, file):
    with Region.of_file(file, 16, prot=READ) as memory:
        mirror.read(memory)
        with pytest.raises(MirrorError) as caught:
            mirror.write(memory, 2)
        assert (caught.value.errno, caught.value.pages) == (errno.EPERM, 0)
        assert content(file, memory) == pattern(16, 1)


@pytest.mark.contract("F-05")
@pytest.mark.contract("X-08")
def test_hugetlb_is_neither_migrated_nor_made_exclusive(mirror):
    with Region.hugetlb(1) as memory:
        mirror.write(memory[:4], 1)
        was = frames(memory)
        with pytest.raises(MirrorError) as caught:
            mirror.migrate(memory)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(MirrorError) as caught:
            mirror.exclusive(memory[:4])
        assert caught.value.errno == REFUSED
        assert not mirror.is_exclusive(memory[:4])
        assert frames(memory) == was and memory[:4].matches(1)
        assert mirror.read(memory[:4]).data.matches(1)
