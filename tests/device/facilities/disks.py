# SPDX-License-Identifier: GPL-2.0
"""The guest's empty disks: swap, and a file system on a real block device."""

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dmirror import disks
from facilities.syscalls import syscall


def _made(name, *command):
    """The disk, on which a command has made what it is for. Skips where there is none."""
    try:
        return disks.made(name, *command)
    except disks.NoDisk as error:
        pytest.skip(str(error))


def swap_used():
    """Bytes of swap in use."""
    words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(words["SwapTotal"].split()[0]) - int(words["SwapFree"].split()[0])) << 10


@contextmanager
def swap():
    """Swap on a block device that answers later, for the block; its end brings back what is there (swapoff(2))."""
    _made("swap", "mkswap")
    with disks.swap():
        yield


@contextmanager
def ext4():
    """An ext4 for the block, whose files are written back: the path of its root, which is empty."""
    device = _made("file", "mkfs.ext4", "-q", "-F")
    with TemporaryDirectory() as folder:
        syscall("mount", bytes(device), os.fsencode(folder), b"ext4", 0, None)
        try:
            yield Path(folder)
        finally:
            for file in Path(folder).iterdir():
                if file.is_file():  # not the folder that fsck puts files into
                    file.unlink()
            syscall("umount2", os.fsencode(folder), 0)
