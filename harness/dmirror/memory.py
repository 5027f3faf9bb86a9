# SPDX-License-Identifier: GPL-2.0
"""Memory under test: regions of the process that a device mirrors, and spans of pages in them."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dmirror.uapi import ffi, lib

PAGE = mmap.PAGESIZE
WORDS = PAGE // 8
HUGE_PAGES = int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text()) // PAGE
"""Pages of a huge page (PMD_SIZE / PAGE_SIZE)."""

NONE, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
RW = READ | WRITE

# uapi/asm-generic/mman-common.h and linux/mman.h; the mmap module lacks these.
MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 21, 22, 23, 25
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x40000, 0x100000


def _checked(result: int, call: str, span: object) -> int:
    if result < 0:
        raise OSError(-result, f"{call} of {span}: {os.strerror(-result)}")
    return result


class Data:
    """A copy of whole pages outside the memory under test, as a device reads or writes it."""

    def __init__(self, npages: int, *, first: int = 0) -> None:
        """`npages` pages of zeroes; `first` is the number in its region of the page that the copy begins with."""
        self.npages = npages
        self.first = first
        self.buffer: Any = ffi.new("char[]", npages * PAGE)

    @classmethod
    def pattern(cls, span: Span, seed: int) -> Data:
        """What `span.fill(seed)` would store."""
        data = cls(span.npages, first=span.first)
        lib.dm_fill(data.buffer, span.bytes, seed, span.first * WORDS)
        return data

    def matches(self, seed: int, *, npages: int | None = None) -> bool:
        """Whether the first `npages` pages (all of them) hold what `fill(seed)` stored there."""
        length = PAGE * (self.npages if npages is None else npages)
        return bool(lib.dm_check(self.buffer, length, seed, self.first * WORDS) < 0)

    def word(self, page: int, index: int = 0) -> int:
        """64-bit word `index` of page `page`."""
        return int(ffi.cast("uint64_t *", self.buffer)[page * WORDS + index])

    def zero(self) -> bool:
        """Whether every byte is 0."""
        return not any(bytes(ffi.buffer(self.buffer)))


@dataclass(frozen=True)
class Span:
    """Pages `first` to `first + npages` of a region, at virtual address `addr`."""

    addr: int
    npages: int
    first: int = 0

    @property
    def bytes(self) -> int:
        return self.npages * PAGE

    @property
    def end(self) -> int:
        """The address of the byte past the last."""
        return self.addr + self.bytes

    def __str__(self) -> str:
        return f"[{self.addr:#x}, {self.end:#x}) ({self.npages} pages)"

    def __len__(self) -> int:
        return self.npages

    def __getitem__(self, key: int | slice) -> Span:
        """A page, or a run of pages, of this span."""
        pages = range(self.npages)[key]
        if isinstance(pages, int):
            pages = range(pages, pages + 1)
        if pages.step != 1:
            raise ValueError(f"pages of a span are contiguous: step {pages.step} is not 1")
        return Span(self.addr + pages.start * PAGE, len(pages), self.first + pages.start)

    def load(self, page: int = 0, index: int = 0) -> int:
        """A CPU load of 64-bit word `index` of page `page`."""
        return int(lib.dm_load(self.addr + page * PAGE + index * 8))

    def store(self, value: int, page: int = 0, index: int = 0) -> None:
        """A CPU store to 64-bit word `index` of page `page`."""
        lib.dm_store(self.addr + page * PAGE + index * 8, value)

    def touch(self) -> None:
        """Load one byte of every page."""
        lib.dm_touch(self.addr, self.npages)

    def fill(self, seed: int) -> Self:
        """Store a pattern by the CPU: every word depends on the seed and on its place in the region."""
        lib.dm_fill(ffi.cast("void *", self.addr), self.bytes, seed, self.first * WORDS)
        return self

    def matches(self, seed: int) -> bool:
        """Whether CPU loads find what `fill(seed)` stored. Faults in pages that are elsewhere."""
        return bool(lib.dm_check(ffi.cast("void *", self.addr), self.bytes, seed, self.first * WORDS) < 0)

    def zero(self) -> bool:
        """Whether CPU loads find only zeroes."""
        return all(self.load(page, index) == 0 for page in range(self.npages) for index in range(WORDS))

    def protect(self, prot: int) -> None:
        """mprotect(2) to NONE, READ or RW."""
        _checked(lib.dm_mprotect(self.addr, self.bytes, prot), "mprotect", self)

    def advise(self, advice: int) -> None:
        """madvise(2)."""
        _checked(lib.dm_madvise(self.addr, self.bytes, advice), "madvise", self)

    def unmap(self) -> None:
        """munmap(2)."""
        _checked(lib.dm_munmap(self.addr, self.bytes), "munmap", self)

    def move(self, target: Span) -> Span:
        """mremap(2) over `target`, which is as long; returns where the pages are now."""
        flags = MREMAP_MAYMOVE | MREMAP_FIXED
        addr = _checked(lib.dm_mremap(self.addr, self.bytes, target.bytes, flags, target.addr), "mremap", self)
        return Span(addr, self.npages, self.first)

    @contextmanager
    def in_a_pipe(self) -> Iterator[int]:
        """A pipe holds references on the pages, at most 16, until the block ends (vmsplice(2)); its reading end."""
        reader, writer = os.pipe()
        try:
            _checked(lib.dm_vmsplice(writer, self.addr, self.bytes), "vmsplice", self)
            yield reader
        finally:
            os.close(reader)
            os.close(writer)

    def pagemap(self, pid: int | str = "self") -> list[int]:
        """The words of /proc/PID/pagemap, one a page (Documentation/admin-guide/mm/pagemap.rst)."""
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            words = os.pread(pagemap.fileno(), 8 * self.npages, self.addr // PAGE * 8)
        return list(memoryview(words).cast("Q"))


class Region(Span):
    """A mapping of this process, unmapped when its `with` block ends. Make one with the class methods."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmap()

    @classmethod
    def _map(cls, npages: int, prot: int, flags: int, fd: int = -1, *, align: int = PAGE) -> Self:
        length, table = npages * PAGE, HUGE_PAGES * PAGE
        if align == PAGE:
            start = _checked(lib.dm_mmap(0, length, prot, flags, fd, 0), "mmap", f"{npages} pages")
            # Across two CPU page tables, a migration is two of them: wherever the kernel happens to put little memory,
            # a test sees the same events.
            if npages >= HUGE_PAGES or start // table == (start + length - 1) // table:
                return cls(start, npages)
            lib.dm_munmap(start, length)
            align = table
        # Reserve enough to hold an aligned range, and map over that.
        reserve = _checked(
            lib.dm_mmap(0, length + align, NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0), "mmap", npages
        )
        start = -(-reserve // align) * align
        lib.dm_munmap(reserve, length + align)
        result = lib.dm_mmap(start, length, prot, flags | MAP_FIXED_NOREPLACE, fd, 0)
        if result == -errno.EEXIST:  # another thread mapped something there in between
            return cls._map(npages, prot, flags, fd, align=align)
        return cls(_checked(result, "mmap", f"{npages} pages"), npages)

    @classmethod
    def anonymous(cls, npages: int, *, prot: int = RW, align: int = PAGE) -> Self:
        """Private anonymous memory of which no page is populated yet; `align` in bytes."""
        return cls._map(npages, prot, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, align=align)

    @classmethod
    def huge(cls, nhuge: int, *, prot: int = RW) -> Self:
        """Private anonymous memory for `nhuge` transparent huge pages: aligned and MADV_HUGEPAGE, not populated."""
        region = cls.anonymous(nhuge * HUGE_PAGES, prot=prot, align=HUGE_PAGES * PAGE)
        region.advise(mmap.MADV_HUGEPAGE)
        return region

    @classmethod
    def hugetlb(cls, nhuge: int) -> Self:
        """Private memory from the reserved huge pages. Raises OSError(ENOMEM) where there are not enough."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
        return cls._map(nhuge * HUGE_PAGES, RW, flags)

    @classmethod
    def shared(cls, npages: int) -> Self:
        """Shared anonymous memory (shmem)."""
        return cls._map(npages, RW, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)

    @classmethod
    def of_file(cls, fd: int, npages: int, *, prot: int = RW, private: bool = False) -> Self:
        """The first pages of an open file, shared or private."""
        return cls._map(npages, prot, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED, fd)

    @classmethod
    def file(cls, npages: int, *, private: bool = False) -> Self:
        """A temporary file's pages, of zeroes; the file has no name."""
        with tempfile.TemporaryFile() as file:
            file.truncate(npages * PAGE)
            return cls.of_file(file.fileno(), npages, private=private)

    @classmethod
    def memfd(cls, npages: int) -> Self:
        """Shared memory of a memfd_create(2) file."""
        fd = os.memfd_create("dmirror")
        try:
            os.ftruncate(fd, npages * PAGE)
            return cls.of_file(fd, npages)
        finally:
            os.close(fd)
