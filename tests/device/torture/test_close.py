# SPDX-License-Identifier: GPL-2.0
"""L-04, L-05: a file is closed while the process whose memory it mirrors exits, in either order and in the middle."""

import ctypes
from pathlib import Path

import pytest

from dmirror.mirror import node
from dmirror.process import in_child
from dmirror.uapi import lib

RACES = 50  # in a round
ROUNDS = 5
MADV_DONTFORK = 10
LARGE = 256 << 10


def shed_weight() -> None:
    """Keep the interpreter's memory from forked processes that run no Python: forking becomes several times faster."""
    libc = ctypes.CDLL(None)
    libc.__errno_location.restype = ctypes.c_void_p
    thread_local = libc.__errno_location()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode, _, _, inode, *name = line.split()
        first, end = (int(address, 16) for address in span.split("-"))
        # What the C library itself needs is small.
        large = end - first >= LARGE and not first <= thread_local < end
        if mode == "rw-p" and inode == "0" and name != ["[stack]"] and large:
            assert lib.dm_madvise(first, end - first, MADV_DONTFORK) == 0


def race(device: int, seed: int) -> int:
    shed_weight()
    return lib.dm_close_against_exit(bytes(node(device)), RACES, seed)


@pytest.mark.contract("L-04")
@pytest.mark.contract("L-05")
def test_close_against_exit(mirror, devices, rounds):
    exited_first = races = 0
    for choices in rounds(ROUNDS):
        device, seed = choices.choice(devices), choices.getrandbits(64)
        exited = in_child(lambda device=device, seed=seed: race(device, seed))
        assert exited >= 0, f"errno {-exited}"
        exited_first += exited
        races += RACES
        assert mirror.counters().dev_contexts == 1
    print(f"{exited_first} of {races} had exited before the file was closed")
    assert 0 < exited_first < races
