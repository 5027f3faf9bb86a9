# SPDX-License-Identifier: GPL-2.0
"""io_uring, as far as tests need it: memory that is registered as a fixed buffer, and what goes in and out of it."""

import ctypes
import mmap
import os
import struct
from contextlib import contextmanager

from facilities.syscalls import IoVec, syscall

# linux/io_uring.h
_PARAMS = struct.Struct("=10I8IQ8IQ")
_SQ_HEAD, _SQ_TAIL, _SQ_MASK, _SQ_ARRAY = 10, 11, 12, 16
_CQ_HEAD, _CQ_TAIL, _CQ_MASK, _CQ_CQES = 19, 20, 21, 24
_OFF_SQ_RING, _OFF_CQ_RING, _OFF_SQES = 0, 0x8000000, 0x10000000
_SQE = struct.Struct("=BBHiQQIIQHHiQQ")
_CQE = struct.Struct("=QiI")
_READ_FIXED, _WRITE_FIXED = 4, 5
_ENTER_GETEVENTS = 1
_REGISTER_BUFFERS, _UNREGISTER_BUFFERS = 0, 1


class Ring:
    """An io_uring of one entry, for a `with` block. Its fixed buffers are longterm pins (FOLL_PIN | FOLL_LONGTERM)."""

    def __enter__(self):
        params = ctypes.create_string_buffer(_PARAMS.size)
        self.fd = syscall("io_uring_setup", 1, params)
        self._at = at = _PARAMS.unpack(params.raw)
        try:
            self._sq = mmap.mmap(self.fd, at[_SQ_ARRAY] + 4, offset=_OFF_SQ_RING)
            self._cq = mmap.mmap(self.fd, at[_CQ_CQES] + 2 * _CQE.size, offset=_OFF_CQ_RING)
            self._sqes = mmap.mmap(self.fd, _SQE.size, offset=_OFF_SQES)
            self._reader, self._writer = os.pipe()
        except OSError:
            os.close(self.fd)
            raise
        return self

    def __exit__(self, *error):
        # The mappings hold the file, and its end comes with the last of them: so what is registered goes by name.
        for each in (self._sqes, self._cq, self._sq):
            each.close()
        for fd in (self._reader, self._writer, self.fd):
            os.close(fd)

    @contextmanager
    def registered(self, span):
        """The span is the ring's fixed buffer for the block."""
        syscall("io_uring_register", self.fd, _REGISTER_BUFFERS, IoVec(span.addr, span.bytes), 1)
        try:
            yield self
        finally:
            syscall("io_uring_register", self.fd, _UNREGISTER_BUFFERS, None, 0)

    def _do(self, opcode, fd, span, offset):
        tail = self._word(self._sq, _SQ_TAIL)
        _SQE.pack_into(self._sqes, 0, opcode, 0, 0, fd, offset, span.addr, span.bytes, 0, 0, 0, 0, 0, 0, 0)
        struct.pack_into("=I", self._sq, self._at[_SQ_ARRAY], 0)
        struct.pack_into("=I", self._sq, self._at[_SQ_TAIL], tail + 1)
        assert syscall("io_uring_enter", self.fd, 1, 1, _ENTER_GETEVENTS, None, 0) == 1
        head = self._word(self._cq, _CQ_HEAD)
        assert head != self._word(self._cq, _CQ_TAIL)
        place = self._at[_CQ_CQES] + (head & self._word(self._cq, _CQ_MASK)) * _CQE.size
        _, result, _ = _CQE.unpack_from(self._cq, place)
        struct.pack_into("=I", self._cq, self._at[_CQ_HEAD], head + 1)
        if result < 0:
            raise OSError(-result, f"io_uring operation {opcode} of {span}: {os.strerror(-result)}")
        assert result == span.bytes

    def _word(self, ring, field):
        return struct.unpack_from("=I", ring, self._at[field])[0]

    def out(self, fd, span, offset=0):
        """The span, as the ring has it pinned, to a file (IORING_OP_WRITE_FIXED)."""
        self._do(_WRITE_FIXED, fd, span, offset)

    def into(self, fd, span, offset=0):
        """A file's bytes to the span, as the ring has it pinned (IORING_OP_READ_FIXED)."""
        self._do(_READ_FIXED, fd, span, offset)

    def sees(self, span):
        """The bytes of a span of up to 16 pages, as the ring has it pinned."""
        self.out(self._writer, span)
        return os.read(self._reader, span.bytes)

    def puts(self, data, span):
        """Stores bytes to a span of up to 16 pages, as the ring has it pinned."""
        assert os.write(self._writer, data) == span.bytes
        self.into(self._reader, span)
