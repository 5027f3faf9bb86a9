# SPDX-License-Identifier: GPL-2.0
"""The complaints in saved logs of real kernels, which dmirror_bad made them say (tests/bad).

A log begins where the word was written and is cut after 120 lines. Those of guests that died are of the console,
where messages below the guest's loglevel are missing; the others of the kernel's buffer. In "together" one processor
warns while the other counts wrong; "leak" has /sys/kernel/debug/kmemleak at its end.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dmirror import splats

LOGS = Path(__file__).parent / "logs"

# By log: kind, how the title begins, lines.
EXPECTED: dict[str, list[tuple[str, str, int]]] = {
    "6.1-default-list": [
        ("list corruption", "list_del corruption, ffff8880074a3dd8->next is LIST_POISON1 (dead000000000", 37),
    ],
    "6.1-default-null": [
        ("oops", "kernel NULL pointer dereference, address: 0000000000000000 in bad_load+0x0", 52),
    ],
    "6.12-default-hung": [("hung task", "task python:85 blocked for more than 4 seconds.", 59)],
    "6.12-default-null": [
        ("oops", "kernel NULL pointer dereference, address: 0000000000000000 in bad_load+0x0", 52),
    ],
    "6.12-default-refcount": [("refcount", "refcount_t: underflow; use-after-free.", 37)],
    "6.12-default-softlockup": [
        ("RCU stall", "rcu_sched self-detected stall on CPU in delay_tsc+0x1e/0x60", 35),
        ("RCU stall", "rcu_sched self-detected stall on CPU in delay_tsc+0x1e/0x60", 35),
        ("soft lockup", "soft lockup - CPU#1 stuck for 24s! [python:85] in delay_tsc+0x44/0x60", 34),
        ("RCU stall", "rcu_sched self-detected stall on CPU in delay_tsc+0x1e/0x60", 14),
    ],
    "7.2-debug-badpage": [
        ("bad page state", "Bad page state in process python  pfn:5b100: non-NULL mapping", 42),
    ],
    "7.2-debug-held": [("lockdep", "lock held when returning to user space", 7)],
    "7.2-debug-leak": [
        ("kmemleak", "kmemleak: 4 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", 1),
        ("kmemleak", "unreferenced object (size 16384) of bad_leak+0x15/0x20", 15),
        ("kmemleak", "unreferenced object (size 16384) of bad_leak+0x15/0x20", 15),
        ("kmemleak", "unreferenced object (size 16384) of bad_leak+0x15/0x20", 15),
        ("kmemleak", "unreferenced object (size 16384) of bad_leak+0x15/0x20", 15),
    ],
    "7.2-debug-locks": [("lockdep", "possible circular locking dependency", 103)],
    "7.2-debug-null": [
        ("oops", "KASAN: null-ptr-deref in range [0x0000000000000000-0x0000000000000007] in ", 58),
    ],
    "7.2-debug-oob": [("KASAN", "KASAN: slab-out-of-bounds in bad_load+0x25/0x30 [dmirror_bad]", 77)],
    "7.2-debug-rcu": [("lockdep", "suspicious RCU usage: bad.c:209", 46)],
    "7.2-debug-recursive": [("lockdep", "possible recursive locking", 74)],
    "7.2-debug-sleep": [("lockdep", "sleeping function called from invalid context at bad.c:196", 42)],
    "7.2-debug-uaf": [("KASAN", "KASAN: slab-use-after-free in bad_load+0x25/0x30 [dmirror_bad]", 92)],
    "7.2-debug-unlock": [("lockdep", "bad unlock balance", 51)],
    "7.3-default-bug": [("BUG", "kernel BUG at bad.c:60! in bad_bug+0x0/0x10", 49)],
    "7.3-default-garbage": [],
    "7.3-default-gpf": [
        ("GPF", "general protection fault, probably for non-canonical address 0xdeadbeefdea", 47),
    ],
    "7.3-default-hung": [
        ("hung task", "task python:86 blocked for more than 4 seconds.", 72),
        ("hung task", "task python:86 blocked for more than 8 seconds.", 7),
    ],
    "7.3-default-list": [
        ("list corruption", "list_del corruption, ff110001c52fbdd0->next is LIST_POISON1 (dead000000000", 37),
    ],
    "7.3-default-memory": [
        ("OOM", "Out of memory: Killed process 85 (python) total-vm:14972kB, anon-rss:5864k", 56),
        ("OOM", "Out of memory and no killable processes...", 63),
    ],
    "7.3-default-null": [
        ("oops", "kernel NULL pointer dereference, address: 0000000000000000 in bad_load+0x0", 52),
    ],
    "7.3-default-paging": [
        ("oops", "unable to handle page fault for address: ffffeb00deadb000 in bad_load+0x0/", 52),
    ],
    "7.3-default-panic": [("panic", "Kernel panic - not syncing: dmirror_bad: asked to panic", 25)],
    "7.3-default-percpu": [
        ("percpu ref", "percpu ref (bad_percpu_released [dmirror_bad]) <= 0 (-2) after switching t", 50),
        ("percpu ref", "percpu_ref_switch_to_atomic_rcu: percpu_ref_switch_to_atomic_rcu(): percpu", 1),
    ],
    "7.3-default-rcustall": [
        ("RCU stall", "rcu_sched self-detected stall on CPU in delay_tsc+0x30/0x90", 35),
        ("soft lockup", "soft lockup - CPU#0 stuck for 11s! [python:88] in delay_tsc+0x30/0x90", 34),
    ],
    "7.3-default-redzone": [
        ("slab corruption", "slab dmirror_bad: Object corrupt: Right Redzone overwritten", 61),
        ("slab corruption", "slab dmirror_bad: Objects remaining on __kmem_cache_shutdown()", 42),
        ("slab corruption", "kmem_cache_destroy dmirror_bad: Slab cache still has objects when called f", 16),
    ],
    "7.3-default-refcount": [("refcount", "refcount_t: underflow; use-after-free.", 37)],
    "7.3-default-softlockup": [
        ("RCU stall", "rcu_sched self-detected stall on CPU in delay_tsc+0x30/0x90", 35),
        ("soft lockup", "soft lockup - CPU#0 stuck for 13s! [python:88] in delay_tsc+0x30/0x90", 34),
    ],
    "7.3-default-together-console": [
        ("bad rss-counter", "Bad rss-counter state type:MM_ANONPAGES val:7 Comm:python Pid:90", 1),
        ("refcount", "refcount_t: underflow; use-after-free.", 75),
        ("WARNING", "WARNING: bad.c:58 at bad_warn", 64),
        ("WARNING", "WARNING: bad.c:58 at bad_warn", 34),
        ("WARNING", "WARNING: bad.c:58 at bad_warn", 7),
    ],
    "7.3-default-together": [
        ("bad rss-counter", "Bad rss-counter state type:MM_ANONPAGES val:7 Comm:python Pid:90", 1),
        ("refcount", "refcount_t: underflow; use-after-free.", 113),
        ("WARNING", "WARNING: bad.c:58 at bad_warn: dmirror_bad: asked to warn", 110),
        ("WARNING", "WARNING: bad.c:58 at bad_warn: dmirror_bad: asked to warn", 44),
        ("WARNING", "WARNING: bad.c:58 at bad_warn: dmirror_bad: asked to warn", 5),
    ],
    "7.3-default-warn": [("WARNING", "WARNING: bad.c:58 at bad_warn: dmirror_bad: asked to warn", 36)],
    "7.2-race-race": [("KCSAN", "KCSAN: data-race in bad_racer [dmirror_bad] / bad_racer [dmirror_bad]", 22)],
    "written-bad-page-map": [("bad page map", "Bad page map in process python  pte:8000000000000225", 16)],
    "written-kfence": [("KFENCE", "KFENCE: use-after-free read in dmirror_release+0x3c/0x70", 15)],
    "written-kmsan": [("KMSAN", "KMSAN: uninit-value in dmirror_do_read+0x1d4/0x2a0", 16)],
    "written-odebug": [
        ("ODEBUG", "ODEBUG: free active (active state 0) object: 00000000d5c9f3b4 object type:", 12),
    ],
    "written-stack-overflow": [
        ("stack overflow", "TASK stack guard page was hit at ffffc900005dbff8 (stack is ffffc900005dc0", 13),
    ],
    "written-ubsan": [("UBSAN", "UBSAN: array-index-out-of-bounds in migrate.c:412:17", 12)],
}


def _parsed(name: str) -> list[splats.Splat]:
    return splats.parse(splats.messages((LOGS / f"{name}.log").read_bytes().decode(errors="replace")))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_saved_log_has_these_complaints(name: str) -> None:
    found = [(each.kind, each.title, len(each.lines)) for each in _parsed(name)]
    expected = EXPECTED[name]
    assert len(found) == len(expected)
    for (kind, title, lines), (wanted_kind, beginning, wanted_lines) in zip(found, expected, strict=True):
        assert (kind, title[: len(beginning)], lines) == (wanted_kind, beginning, wanted_lines)


def test_every_log_is_expected_to_say_something_and_every_kind_has_one() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(EXPECTED)
    assert {kind for found in EXPECTED.values() for kind, _, _ in found} == set(splats.KINDS)


def test_no_damage_to_a_log_raises_or_makes_a_complaint_of_nothing() -> None:
    chosen = random.Random(6)
    texts = [path.read_bytes() for path in sorted(LOGS.glob("*.log"))]
    for text in texts:
        for _ in range(4):
            damaged = bytearray(text)
            for _ in range(chosen.randrange(1, 60)):
                at = chosen.randrange(len(damaged) + 1)
                damaged[at : at + chosen.choice((0, 1, 1, 40))] = chosen.choice((b"", b"\n", b"\xff\x00", b"BUG: "))
            for found in splats.parse(splats.messages(damaged.decode(errors="replace"))):
                assert found.kind in splats.KINDS
                assert found.lines
                assert "\n" not in found.title


def test_a_log_cut_anywhere_says_no_more_than_the_whole() -> None:
    for name in ("7.3-default-null", "7.3-default-redzone", "7.2-debug-locks", "7.3-default-memory"):
        messages = splats.messages((LOGS / f"{name}.log").read_bytes().decode(errors="replace"))
        whole = [each.kind for each in splats.parse(messages)]
        for length in range(0, len(messages), 3):
            kinds = [each.kind for each in splats.parse(messages[:length])]
            # Of the last there may be too little to know its kind.
            assert kinds[:-1] == whole[: len(kinds)][:-1]
