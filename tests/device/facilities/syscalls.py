# SPDX-License-Identifier: GPL-2.0
"""System calls that Python's library lacks, by number (x86-64). All raise OSError, and release the interpreter."""

import ctypes
import os
import platform
from collections.abc import Iterable

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# arch/x86/entry/syscalls/syscall_64.tbl
_NUMBERS = {
    "msync": 26,
    "mincore": 27,
    "ptrace": 101,
    "mlock": 149,
    "munlock": 150,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "futex": 202,
    "mbind": 237,
    "get_mempolicy": 239,
    "migrate_pages": 256,
    "sync_file_range": 277,
    "vmsplice": 278,
    "move_pages": 279,
    "fallocate": 285,
    "perf_event_open": 298,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "mlock2": 325,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "process_madvise": 440,
}

MPOL_BIND, MPOL_MF_MOVE = 2, 2  # linux/mempolicy.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class IoVec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


def syscall(name: str, *arguments: object) -> int:
    """The call's result. Arguments are integers, ctypes objects (passed by reference), bytes or None."""
    if platform.machine() != "x86_64":
        raise NotImplementedError(f"numbers of system calls are those of x86_64, this is {platform.machine()}")
    words = [_word(argument) for argument in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(_NUMBERS[name]), *words))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def _word(argument: object) -> object:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, int):
        return ctypes.c_uint64(argument & (1 << 64) - 1)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    return ctypes.byref(argument)


def move_pages(addresses: Iterable[int], node: int | None, pid: int = 0) -> list[int]:
    """move_pages(2) to `node`, or with None no move: for each page its node, or -errno."""
    pages = list(addresses)
    where = (ctypes.c_uint64 * len(pages))(*pages)
    nodes = None if node is None else (ctypes.c_int * len(pages))(*[node] * len(pages))
    status = (ctypes.c_int * len(pages))(*[-1000] * len(pages))
    syscall("move_pages", pid, len(pages), where, nodes, status, MPOL_MF_MOVE)
    return list(status)


def process_vm_read(pid: int, address: int, length: int) -> bytes:
    """process_vm_readv(2) of one range; as many bytes as it got."""
    buffer = ctypes.create_string_buffer(length)
    local, remote = IoVec(ctypes.addressof(buffer), length), IoVec(address, length)
    length = syscall("process_vm_readv", pid, local, 1, remote, 1, 0)
    return buffer.raw[:length]


def process_vm_write(pid: int, address: int, data: bytes) -> int:
    """process_vm_writev(2) to one range; the bytes written."""
    buffer = ctypes.create_string_buffer(data, len(data))
    local, remote = IoVec(ctypes.addressof(buffer), len(data)), IoVec(address, len(data))
    return syscall("process_vm_writev", pid, local, 1, remote, 1, 0)


def punch(fd: int, offset: int, length: int) -> None:
    """Make a hole in a file (fallocate(2))."""
    syscall("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
