# SPDX-License-Identifier: GPL-2.0
"""The words of the language beyond its grammar: what can be needed, called, advised, expected."""

from __future__ import annotations

import mmap

NEEDS = ("swap", "cgroup", "huge pages", "hugetlb", "coherent", "two nodes", "config", "capability")
"""What a scenario can ask for; `config` and `capability` are followed by a name."""

CALLS = {
    "maps": "again, as it was declared, and untouched",
    "unmaps": "munmap(2)",
    "protects": "mprotect(2); a right follows: read-write, read-only, none",
    "moves": "mremap(2) over other pages: `moves buf[0:2] to other[0:2]`",
    "advises": "madvise(2); an advice follows",
    "locks": "mlock(2)",
    "unlocks": "munlock(2)",
    "pins": "a pipe holds a reference on each page (vmsplice(2)), at most 16 of them",
    "unpins": "what was pinned there is let go",
    "swaps out": "madvise(2), MADV_PAGEOUT, until each page is out",
    "collapses": "madvise(2), MADV_COLLAPSE",
    "splits": "the huge page becomes small ones: /sys/kernel/debug/split_huge_pages",
    "moves to node": "move_pages(2): `moves buf to node 1`",
}
"""What a process can do to its memory."""

ADVICES = {
    "normal": mmap.MADV_NORMAL,
    "random": mmap.MADV_RANDOM,
    "sequential": mmap.MADV_SEQUENTIAL,
    "willneed": mmap.MADV_WILLNEED,
    "dontneed": mmap.MADV_DONTNEED,
    "free": mmap.MADV_FREE,
    "remove": mmap.MADV_REMOVE,
    "dontfork": mmap.MADV_DONTFORK,
    "dofork": mmap.MADV_DOFORK,
    "mergeable": mmap.MADV_MERGEABLE,
    "unmergeable": mmap.MADV_UNMERGEABLE,
    "hugepage": mmap.MADV_HUGEPAGE,
    "nohugepage": mmap.MADV_NOHUGEPAGE,
    "dontdump": mmap.MADV_DONTDUMP,
    "dodump": mmap.MADV_DODUMP,
    # linux/mman.h; the mmap module lacks these.
    "wipeonfork": 18,
    "keeponfork": 19,
    "cold": 20,
    "pageout": 21,
    "populate_read": 22,
    "populate_write": 23,
    "collapse": 25,
}
"""madvise(2)."""

RIGHTS = {"read-write": mmap.PROT_READ | mmap.PROT_WRITE, "read-only": mmap.PROT_READ, "none": 0}
"""mprotect(2)."""

PLACES = ("ram", "zero", "swap", "exclusive", "none", "error")
"""Where a page can be, besides on a device: in system memory, the zero page, swap, a device's exclusively, nowhere
yet, out of anyone's reach."""

ALLOWED = ("rw", "r", "none")
"""What a page table allows for a page."""

EVENTS = ("UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE", "MIGRATE", "EXCLUSIVE")
"""MMU_NOTIFY_* of include/linux/mmu_notifier.h."""

CAPABILITIES = (
    *("flags", "read_unlocked", "device_thp", "counters", "coherent", "eviction", "coherent_exclusive", "steer"),
    *("two_pass", "carried"),
)
"""What a driver can have: DMIRROR_CAP_* of kmod/uapi/dmirror.h."""

COUNTERS = (
    *("events_seen", "events_filtered", "events_obeyed", "events_refused"),
    *("entries_kept", "entries_installed", "entries_dropped", "entries_present", "faults", "fault_retries"),
    *("pages_to_device", "pages_to_system", "huge_to_device", "huge_to_system"),
    *("dev_pages_in_use", "dev_pages_allocated", "dev_pages_freed", "dev_small_allocated", "dev_small_freed"),
    *("dev_huge_allocated", "dev_huge_freed", "dev_huge_split", "dev_cpu_faults", "dev_pages_faulted"),
    *("dev_pages_evicted", "dev_pages_displaced", "dev_contexts", "dev_fault_oom", "dev_fault_failed", "dev_releases"),
)
"""What a driver counts: the numbers of dmirror.counters.Counters."""

_SAME = {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN"}  # two names of one number, asm-generic/errno.h


def canonical(name: str) -> str:
    """The kernel's name of an errno that has two."""
    return _SAME.get(name, name)
