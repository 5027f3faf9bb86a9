# SPDX-License-Identifier: GPL-2.0
"""Pages that are taken for broken (mm/memory-failure.c), and mended when the block ends."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from facilities.machine import kpageflags

MADV_HWPOISON, MADV_SOFT_OFFLINE = 100, 101  # asm-generic/mman-common.h
_HWPOISON = 1 << 19  # KPF_HWPOISON, linux/kernel-page-flags.h
_UNPOISON = Path("/sys/kernel/debug/hwpoison/unpoison-pfn")


def poisoned(pfn):
    """Whether the kernel takes a page frame for broken."""
    return bool(kpageflags(pfn) & _HWPOISON)


@contextmanager
def mended():
    """A list for page frames that are to be whole again when the block ends; nobody maps them by then."""
    if not _UNPOISON.exists():
        pytest.skip("this kernel cannot mend pages: no CONFIG_HWPOISON_INJECT")
    broken = []
    try:
        yield broken
    finally:
        for pfn in broken:
            if poisoned(pfn):
                _UNPOISON.write_text(str(pfn))
                assert not poisoned(pfn)
