# SPDX-License-Identifier: GPL-2.0
"""Core dumps: where they go, when one waits, and what it has of a process's memory (core(5), elf(5))."""

import os
import resource
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from elftools.elf.elffile import ELFFile

from dmirror.memory import PAGE, Data
from dmirror.process import PATIENCE
from dmirror.uapi import ffi
from facilities.machine import setting

STILL = 0.05
"""Seconds without running after which a process waits for somebody, rather than for a file of the guest's root."""


@contextmanager
def cores():
    """A folder that all core dumps go to for the block, each named by its process."""
    with TemporaryDirectory() as folder, setting("/proc/sys/kernel/core_pattern", f"{folder}/%p"):
        yield Path(folder)


def abort(child):
    """End a child process by a signal that dumps core."""
    resource.prlimit(child.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.kill(child.pid, signal.SIGABRT)


def waits(child):
    """Wait until the dump of a child that was aborted sleeps in the kernel, and say so; or that it ended instead."""
    until = time.monotonic() + PATIENCE
    slept, since = None, 0.0
    while (now := time.monotonic()) < until:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        if status["State"][0] == "Z":
            return False
        asleep = status.get("CoreDumping") == "1" and status["State"][0] in "DS"
        switches = status["voluntary_ctxt_switches"] if asleep else None
        if switches is None or switches != slept:
            slept, since = switches, now
        elif now - since > STILL:
            return True
        os.sched_yield()
    raise TimeoutError(f"the dump of process {child.pid} neither waits nor ends after {PATIENCE:.0f} s")


def lacking(folder, child, span, seed):
    """Wait for the end of a child that was aborted: the pages of a span without the pattern of a seed in its core."""
    assert child.wait() == -signal.SIGABRT
    wanted = bytes(ffi.buffer(Data.pattern(span, seed).buffer))
    found = _contents(folder / str(child.pid), span)
    return [page for page in range(len(span)) if found[page * PAGE : (page + 1) * PAGE] != wanted[page * PAGE :][:PAGE]]


def _contents(core, span):
    """What a core file has of a span: zeroes where it has a hole."""
    with core.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            offset = span.addr - segment["p_vaddr"]
            if offset >= 0 and offset + span.bytes <= segment["p_filesz"]:
                file.seek(segment["p_offset"] + offset)
                return file.read(span.bytes)
    raise LookupError(f"no segment of {core} has [{span.addr:#x}, {span.end:#x})")
