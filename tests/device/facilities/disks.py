# SPDX-License-Identifier: GPL-2.0
"""The guest's empty disks: swap, and a file system on a real block device."""

import os
import subprocess
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from facilities.syscalls import syscall


def disk(name):
    """The disk of this serial, as harness/dmirror/vm/command.py names them. Skips where there is none."""
    for serial in Path("/sys/block").glob("*/serial"):
        with suppress(OSError):
            if serial.read_text().strip() == f"dmirror-{name}":
                return Path("/dev", serial.parent.name)
    pytest.skip(f"this machine has no disk with the serial dmirror-{name}, as our guests have")


@cache
def _made(name, *command):
    """The disk, on which a command has made what it is for; once, since a program takes a second to start."""
    device = disk(name)
    subprocess.run([*command, device], check=True, capture_output=True)
    return device


def swap_used():
    """Bytes of swap in use."""
    words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(words["SwapTotal"].split()[0]) - int(words["SwapFree"].split()[0])) << 10


@contextmanager
def swap():
    """Swap on a block device that answers later, for the block; its end brings back what is there (swapoff(2))."""
    name = bytes(_made("swap", "mkswap"))
    syscall("swapon", name, 0)
    try:
        yield
    finally:
        syscall("swapoff", name)


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
