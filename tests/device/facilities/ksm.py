# SPDX-License-Identifier: GPL-2.0
"""Kernel samepage merging (Documentation/admin-guide/mm/ksm.rst) that runs for a block."""

import time
from contextlib import contextmanager
from pathlib import Path

from dmirror.process import PATIENCE
from facilities.machine import frames, setting

FOLDER = Path("/sys/kernel/mm/ksm")
MADV_MERGEABLE, MADV_UNMERGEABLE = 12, 13  # asm-generic/mman-common.h


def ksm(name):
    """A file of one number."""
    return int((FOLDER / name).read_text())


@contextmanager
def merging():
    """ksmd works for the block, as fast as it can; what it merged is separated again at its end."""
    with (
        setting(FOLDER / "sleep_millisecs", 0),
        setting(FOLDER / "pages_to_scan", 1000),
        setting(FOLDER / "run", 1),
    ):
        try:
            yield
        finally:
            (FOLDER / "run").write_text("2")


def wait_merged(span):
    """Wait until all pages of the span are one page. Nothing tells of it."""
    ends = time.monotonic() + PATIENCE
    while len(set(frames(span))) > 1:
        assert time.monotonic() < ends, f"not merged: {frames(span)}"
        time.sleep(0.01)
