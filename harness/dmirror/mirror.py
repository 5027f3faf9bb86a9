# SPDX-License-Identifier: GPL-2.0
"""The client: `Mirror` is one open device, `Residency` where it sees each page of a span."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from dmirror.calls import MirrorError
from dmirror.counters import Counters
from dmirror.memory import Data, Span
from dmirror.steering import Steering
from dmirror.uapi import ffi, lib

__all__ = ["Counters", "Mirror", "MirrorError", "PageState", "Residency", "Result", "capabilities", "devices", "node"]

CAPABILITIES = {
    "flags": lib.DMIRROR_CAP_FLAGS,
    "read_unlocked": lib.DMIRROR_CAP_READ_UNLOCKED,
    "device_thp": lib.DMIRROR_CAP_DEVICE_THP,
    "counters": lib.DMIRROR_CAP_COUNTERS,
    "coherent": lib.DMIRROR_CAP_COHERENT,
    "eviction": lib.DMIRROR_CAP_EVICTION,
    "coherent_exclusive": lib.DMIRROR_CAP_COHERENT_EXCLUSIVE,
    "steer": lib.DMIRROR_CAP_STEER,
    "two_pass": lib.DMIRROR_CAP_TWO_PASS,
    "carried": lib.DMIRROR_CAP_CARRIED,
}
"""What a test can ask for with `needs(capability=…)`."""

RANGE_CALLS = ("READ", "WRITE", "MIGRATE_TO_DEV", "MIGRATE_TO_SYS", "SNAPSHOT", "EXCLUSIVE", "CHECK_EXCLUSIVE")
"""The calls on a range of memory that every driver has, as `Mirror.call` names them."""

_WHERE = {
    lib.HMM_DMIRROR_PROT_ZERO: "zero",
    lib.HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL: "local",
    lib.HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE: "remote",
    lib.HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL: "local",
    lib.HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE: "remote",
}
_NO_SUCH_CALL = errno.ENOTTY, errno.EINVAL  # what the kernel's own driver says to ours
_PICTURE = {"error": "x", "none": ".", "ram": "r", "zero": "z", "local": "D", "remote": "o"}


def node(device: int) -> Path:
    """The device node of device `device`."""
    return Path(f"/dev/hmm_dmirror{device}")


def devices() -> tuple[int, ...]:
    """The devices that are there: 0 and 1 are device-private, 2 and 3 coherent where the driver was given memory."""
    return tuple(device for device in range(4) if node(device).exists())


class PageState(NamedTuple):
    """One page as SNAPSHOT sees it.

    `where` is "error" (no access possible), "none" (nothing there, faultable), "ram", "zero" (the zero page), "local"
    (on the device asked) or "remote" (on another); `order` is that of the mapping: 0, or of a PMD or PUD.
    """

    where: str
    writable: bool
    order: str

    @classmethod
    def decode(cls, byte: int) -> PageState:
        """From one HMM_DMIRROR_PROT_* byte."""
        if byte == lib.HMM_DMIRROR_PROT_ERROR:
            return cls("error", False, "pte")
        order = "pud" if byte & lib.HMM_DMIRROR_PROT_PUD else "pmd" if byte & lib.HMM_DMIRROR_PROT_PMD else "pte"
        present = byte & (lib.HMM_DMIRROR_PROT_READ | lib.HMM_DMIRROR_PROT_WRITE)
        where = _WHERE.get(byte & 0xF0, "ram" if present else "none")
        return cls(where, bool(byte & lib.HMM_DMIRROR_PROT_WRITE), order)

    def __str__(self) -> str:
        access = {"error": "", "none": ""}.get(self.where, " rw" if self.writable else " r")
        return self.where + access + ("" if self.order == "pte" else f" {self.order}")


class Residency(tuple[PageState, ...]):
    """Where each page of a span is, in order."""

    __slots__ = ()

    @property
    def where(self) -> list[str]:
        """The places alone."""
        return [page.where for page in self]

    def count(self, where: object) -> int:
        """Pages that are at `where`."""
        return self.where.count(str(where))

    def picture(self) -> str:
        """One character a page: D on this device, o on another, r system memory, z zero page, . none, x error."""
        return "".join(_PICTURE[page.where] for page in self)


class Result(NamedTuple):
    """What a call did: `pages` done, device `faults` taken, and the `data` as the device sees it where it has some."""

    pages: int
    faults: int
    data: Data


class Mirror(Steering):
    """The address space of this process on one device, from here to `close()`.

    Every call raises MirrorError with the errno, the call, the range and how far it came.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.fd = os.open(node(device), os.O_RDWR)

    @classmethod
    def received(cls, fd: int, device: int) -> Self:
        """The address space of another process, which opened `device` and passed us its descriptor (SCM_RIGHTS)."""
        mirror = cls.__new__(cls)
        mirror.fd, mirror.device = fd, device
        return mirror

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def call(self, name: str, addr: int, npages: int, ptr: Any = ffi.NULL) -> tuple[int, int]:
        """Call HMM_DMIRROR_`name` with exactly these arguments; returns pages done and faults taken."""
        cmd = ffi.new("struct hmm_dmirror_cmd *")
        cmd.addr, cmd.npages, cmd.ptr = addr, npages, int(ffi.cast("uintptr_t", ptr))
        failed = -lib.dm_ioctl(self.fd, getattr(lib, f"HMM_DMIRROR_{name}"), cmd)
        if failed:
            raise MirrorError(
                failed,
                f"{name} of {npages} pages at {addr:#x} on hmm_dmirror{self.device}: "
                f"{os.strerror(failed)} after {cmd.cpages} pages",
                pages=cmd.cpages,
                faults=cmd.faults,
            )
        return cmd.cpages, cmd.faults

    def _run(self, name: str, span: Span, data: Data) -> Result:
        pages, faults = self.call(name, span.addr, span.npages, data.buffer)
        return Result(pages, faults, data)

    def read(self, span: Span) -> Result:
        """The device loads every page, faulting those it does not map. EFAULT, EPERM as a CPU load would fail."""
        return self._run("READ", span, Data(span.npages, first=span.first))

    def read_unlocked(self, span: Span) -> Result:
        """As `read`, by hmm_range_fault_unlocked_timeout(). ENOTTY where the kernel has none."""
        return self._run("READ_UNLOCKED", span, Data(span.npages, first=span.first))

    def write(self, span: Span, data: Data | int) -> Result:
        """The device stores `data`, or the pattern of a seed, to every page. EPERM where the memory is read-only."""
        return self._run("WRITE", span, Data.pattern(span, data) if isinstance(data, int) else data)

    def migrate_to_device(self, span: Span) -> Result:
        """migrate_vma_*() to this device. ENOENT when a page stayed; `pages` is then how many before it did not."""
        return self._run("MIGRATE_TO_DEV", span, Data(span.npages, first=span.first))

    def migrate_to_system(self, span: Span) -> int:
        """migrate_vma_*() of this device's pages to system memory; returns how many pages moved."""
        return self.call("MIGRATE_TO_SYS", span.addr, span.npages)[0]

    def snapshot(self, span: Span) -> Residency:
        """Where the pages are, by hmm_range_fault() that faults nothing."""
        perms = ffi.new("unsigned char[]", span.npages)
        self.call("SNAPSHOT", span.addr, span.npages, perms)
        return Residency(PageState.decode(byte) for byte in perms)

    def exclusive(self, span: Span) -> Result:
        """make_device_exclusive() for every page: the next CPU access revokes it."""
        return self._run("EXCLUSIVE", span, Data(span.npages, first=span.first))

    def is_exclusive(self, span: Span) -> bool:
        """Whether any page of the span is still exclusive to this mirror."""
        try:
            self.call("CHECK_EXCLUSIVE", span.addr, span.npages)
        except MirrorError as error:
            if error.errno == errno.EPERM:
                return True
            raise
        return False

    def release(self) -> None:
        """Bring every page of the device back, of whatever process, and give its memory back. EBUSY after 5 s."""
        self.call("RELEASE", 0, 1)

    def set_flags(self, flags: int) -> None:
        """HMM_DMIRROR_FLAG_*: 0, or FAIL_ALLOC to fail the next allocation of a migration by this mirror."""
        self.call("FLAGS", 0, flags)

    def capabilities(self) -> frozenset[str]:
        """Names of CAPABILITIES that hold. The kernel's own driver has no query and none of them."""
        try:
            bits = self.own("QUERY").capabilities
        except OSError as error:
            if error.errno in _NO_SUCH_CALL:
                return frozenset()
            raise
        return frozenset(name for name, bit in CAPABILITIES.items() if bits & bit)

    def devmem_pages(self) -> int:
        """Pages of memory that the device may grow to."""
        return int(self.own("QUERY").devmem_pages)

    def usage(self) -> tuple[int, int] | None:
        """Pages of the device that are in use, and contexts open on it; None on the kernel's own driver."""
        try:
            counters = self.own("COUNTERS")
        except OSError as error:
            if error.errno in _NO_SUCH_CALL:
                return None
            raise
        return counters.dev_pages_in_use, counters.dev_contexts

    def counters(self) -> Counters:
        """What happened on this mirror and, with the prefix dev_, on its device. ENOTTY on the kernel's own driver."""
        return Counters.decode(self.own("COUNTERS"))


def capabilities(path: Path) -> frozenset[str]:
    """What the driver behind the device node `path` can do beyond the calls that every driver has."""
    with Mirror(int(path.name.removeprefix("hmm_dmirror"))) as probe:
        return probe.capabilities()
