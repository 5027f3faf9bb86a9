# SPDX-License-Identifier: GPL-2.0
"""userfaultfd(2), as far as tests need it: faults of a span that wait for an answer, pages write-protected by it."""

import fcntl
import os
import select
import struct
from pathlib import Path

from dmirror.process import PATIENCE

# linux/userfaultfd.h
_NEW = 0xAA00
_API, _REGISTER, _ZEROPAGE, _WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC020AA04, 0xC018AA06
_MOVE = 0xC028AA05
MINOR_HUGETLBFS, WP_UNPOPULATED, WP_ASYNC = 1 << 9, 1 << 13, 1 << 15  # features
_MISSING, _WP, _MINOR = 1, 2, 4
_EVENT_PAGEFAULT = 0x12
_MESSAGE = 32


class Userfault:
    """A userfaultfd of this process, for a `with` block; kernel accesses are among what it catches."""

    def __init__(self, features=0):
        self.features = features

    def __enter__(self):
        with Path("/dev/userfaultfd").open("rb", buffering=0) as device:
            self.fd = fcntl.ioctl(device, _NEW, os.O_CLOEXEC | os.O_NONBLOCK)  # else it cannot be polled
        self._call(_API, 0xAA, self.features, 0)
        return self

    def __exit__(self, *error):
        os.close(self.fd)

    def _call(self, number, *words):
        fcntl.ioctl(self.fd, number, struct.pack(f"={len(words)}Q", *words))

    def catch_missing(self, span):
        """From now on who touches a page of the span that is not there waits for an answer."""
        self._call(_REGISTER, span.addr, span.bytes, _MISSING, 0)

    def catch_minor(self, span):
        """From now on who touches a page of the span that is in its file, but not mapped, waits for an answer."""
        self._call(_REGISTER, span.addr, span.bytes, _MINOR, 0)

    def write_protect(self, span):
        """Write-protect the pages that are there."""
        self.register_wp(span)
        self.protect(span)

    def register_wp(self, span):
        """From now on pages of the span can be write-protected."""
        self._call(_REGISTER, span.addr, span.bytes, _WP, 0)

    def protect(self, span):
        """Write-protect the pages of a registered span that are there."""
        self._call(_WRITEPROTECT, span.addr, span.bytes, 1)

    def allow(self, span):
        """Lift the write-protection, for who waits to store, too."""
        self._call(_WRITEPROTECT, span.addr, span.bytes, 0)

    def caught(self, seconds=0.0):
        """The address of a fault that waits, or None when there is none within that time."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return None
        event, address = struct.unpack_from("=B15xQ", os.read(self.fd, _MESSAGE))
        assert event == _EVENT_PAGEFAULT
        return address

    def wait_caught(self):
        """The address of the next fault."""
        address = self.caught(PATIENCE)
        assert address is not None, f"no fault within {PATIENCE:.0f} s"
        return address

    def move(self, target, source):
        """Move pages to a registered span that has none (UFFDIO_MOVE, Linux 6.8)."""
        self._call(_MOVE, target.addr, source.addr, source.bytes, 0, 0)

    def answer(self, span):
        """Zero pages, for who waits for them."""
        self._call(_ZEROPAGE, span.addr, span.bytes, 0, 0)
