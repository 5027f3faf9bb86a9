# SPDX-License-Identifier: GPL-2.0
"""The empty disks of our guests, and swap on one of them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path


class NoDisk(LookupError):
    """This machine is no guest of ours."""


def find(name: str) -> Path:
    """The disk of this serial, as dmirror.vm.command names them. Raises NoDisk."""
    for serial in Path("/sys/block").glob("*/serial"):
        with suppress(OSError):
            if serial.read_text().strip() == f"dmirror-{name}":
                return Path("/dev", serial.parent.name)
    raise NoDisk(f"this machine has no disk with the serial dmirror-{name}, as our guests have")


@cache
def made(name: str, *command: str) -> Path:
    """The disk, on which a command has made what it is for; once, since a program takes a second to start."""
    device = find(name)
    subprocess.run([*command, device], check=True, capture_output=True)
    return device


@contextmanager
def swap() -> Iterator[None]:
    """Swap on a block device that answers later, for the block; its end brings back what is there (swapoff(2))."""
    name = bytes(made("swap", "mkswap"))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.swapon(name, 0), "swapon")
    try:
        yield
    finally:
        _checked(libc.swapoff(name), "swapoff")


def _checked(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
