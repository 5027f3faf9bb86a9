# SPDX-License-Identifier: GPL-2.0
"""An interpreter that changes no mapping for a while, and takes no page fault.

A thread that is held in a migration has the mmap lock. Whoever maps memory meanwhile waits for the end of the hold, the
test that is to end it included, and allocators map memory when they like. So they get what they need before. A thread
that is held in munmap(2) or mprotect(2) has the lock for writing: then page faults wait, too.
"""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache

from dmirror.uapi import ffi, lib

_HEAP = 16 << 20
_STACKS = 4
_STACK = 512 << 10
_MCL_CURRENT = 1  # asm-generic/mman.h


class _ArenaAllocator(ctypes.Structure):
    """PyObjectArenaAllocator: where objects and the frames of each thread live."""

    _fields_ = (("ctx", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p))


def quieten() -> None:
    """Provide for 16 MiB of whatever the process allocates, and for four threads that come and go."""
    lib.dm_quiet_reserve(_HEAP)
    _once()


@cache
def _once() -> None:
    alloc, free = (int(ffi.cast("uintptr_t", ffi.addressof(lib, f"dm_quiet_{name}"))) for name in ("alloc", "free"))
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(_ArenaAllocator(None, alloc, free)))
    # The C library keeps the stacks of threads that ended, for threads that want as much.
    threading.stack_size(_STACK)
    together = threading.Barrier(_STACKS)
    threads = [threading.Thread(target=together.wait) for _ in range(_STACKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fault_in() -> None:
    """Populate all that is mapped, copies on write included, as mlockall(2) does. OSError if that is not allowed.

    For a child of fork, which has pages of its own, and pages of files, only where it has touched them.
    """
    quieten()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT) or libc.munlockall():
        error = ctypes.get_errno()
        raise OSError(error, f"mlockall: {os.strerror(error)}")
