# SPDX-License-Identifier: GPL-2.0
"""Uprobes by tracefs (Documentation/trace/uprobetracer.rst): breakpoints that the kernel writes into mapped text."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmirror.memory import PAGE

TRACING = Path("/sys/kernel/tracing")
_EVENTS = TRACING / "uprobe_events"

NOP, RETURN, BREAKPOINT = 0x90, 0xC3, 0xCC  # x86 instructions of one byte


@contextmanager
def text(npages):
    """The descriptor of a file of code, of instructions that do nothing, and its path."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        file.write(bytes([NOP] * (npages * PAGE - 1) + [RETURN]))
        file.flush()
        os.chmod(file.name, 0o755)
        yield file.fileno(), file.name


@contextmanager
def uprobe(path, offset):
    """A probe at an offset of a file, as `enable(True)` and `enable(False)`; gone when the block ends."""
    if not _EVENTS.exists():
        pytest.skip("this kernel has no uprobe events")
    _EVENTS.write_text(f"p:dmirrored/probe {path}:{offset:#x}\n")
    switch = TRACING / "events/dmirrored/probe/enable"
    try:
        yield lambda on: switch.write_text(str(int(on)))
    finally:
        switch.write_text("0")
        fd = os.open(_EVENTS, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"-:dmirrored/probe\n")
        os.close(fd)
