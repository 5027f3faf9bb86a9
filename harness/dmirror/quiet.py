# SPDX-License-Identifier: GPL-2.0
"""An interpreter that changes no mapping for a while.

A thread that is held in a migration has the mmap lock. Whoever maps memory meanwhile waits for the end of the hold, the
test that is to end it included, and allocators map memory when they like. So they get what they need before.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache

from dmirror.uapi import ffi, lib

_HEAP = 16 << 20
_STACKS = 4


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
    # The C library keeps the stacks of threads that ended.
    together = threading.Barrier(_STACKS)
    threads = [threading.Thread(target=together.wait) for _ in range(_STACKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
