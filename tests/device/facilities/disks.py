# SPDX-License-Identifier: GPL-2.0
"""The guest's empty disks: swap, and a file system on a real block device."""

import subprocess
from contextlib import contextmanager, suppress
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


def swap_used():
    """Bytes of swap in use."""
    words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(words["SwapTotal"].split()[0]) - int(words["SwapFree"].split()[0])) << 10


@contextmanager
def swap():
    """Swap on a block device that answers later, for the block; its end brings back what is there (swapoff(2))."""
    device = disk("swap")
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    name = bytes(device)
    syscall("swapon", name, 0)
    try:
        yield
    finally:
        syscall("swapoff", name)


@contextmanager
def ext4():
    """A new ext4 for the block, whose files are written back: the path of its root."""
    device = disk("file")
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True, capture_output=True)
    with TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "ext4", device, folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)
