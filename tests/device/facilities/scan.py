# SPDX-License-Identifier: GPL-2.0
"""PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst, Linux 6.7), as far as tests need it."""

import ctypes
import fcntl
import struct

from dmirror.memory import PAGE

# linux/fs.h
_SCAN = 0xC0606610
_WP_MATCHING = 1
_IS_WRITTEN = 1 << 1
_WORDS = 12  # of struct pm_scan_arg


def _scan(span, flags, mask, most=0):
    found = (ctypes.c_uint64 * (3 * most))()  # struct page_region: start, end, categories
    words = [8 * _WORDS, flags, span.addr, span.end, 0, ctypes.addressof(found) if most else 0, most]
    words += [0, 0, mask, 0, _IS_WRITTEN]
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        number = fcntl.ioctl(file, _SCAN, bytearray(struct.pack(f"={_WORDS}Q", *words)))
    return [(found[3 * index], found[3 * index + 1]) for index in range(number if most else 0)]


def write_protect(span):
    """Write-protect what is in the span, which a userfaultfd has registered with WP_ASYNC."""
    _scan(span, _WP_MATCHING, 0)


def written(span):
    """The pages of the span that were written since, by number."""
    found = _scan(span, 0, _IS_WRITTEN, most=len(span))
    return [page for start, end in found for page in range((start - span.addr) // PAGE, (end - span.addr) // PAGE)]
