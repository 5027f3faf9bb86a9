# SPDX-License-Identifier: GPL-2.0
"""What in a kernel log is a complaint: its beginning, its end, its kind, and what it says in one line."""

from __future__ import annotations

import random

import pytest

from dmirror import splats
from dmirror.plugin.kmsg import message
from dmirror.plugin.splat import as_property

WARN = """\
dmirror: loaded
------------[ cut here ]------------
a page is still mapped
WARNING: CPU: 1 PID: 80 at mm/memremap.c:412 free_zone_device_folio+0x1a/0x90
Modules linked in: dmirror(O)
Call Trace:
 <TASK>
 dmirror_fault+0x10/0x20 [dmirror]
 </TASK>
---[ end trace 0000000000000000 ]---
something else
"""
OOPS = """\
BUG: unable to handle page fault for address: ffffea0004000034
#PF: supervisor read access in kernel mode
Oops: Oops: 0000 [#1] SMP
CPU: 0 UID: 0 PID: 77 Comm: python3 Tainted: G           O
RIP: 0010:dmirror_do_write+0x5e/0x90 [test_hmm]
Call Trace:
 <TASK>
 </TASK>
---[ end trace 0000000000000000 ]---
RIP: 0010:dmirror_do_write+0x5e/0x90 [test_hmm]
"""
KASAN = """\
==================================================================
BUG: KASAN: slab-use-after-free in dmirror_release+0x3c/0x70
Read of size 8 at addr ffff888103c4a018 by task python3/92
Call Trace:
 <TASK>
 </TASK>
Allocated by task 91:
==================================================================
Disabling lock debugging due to kernel taint
"""


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: Bad rss-counter state mm:00000000d5c9f3b4 type:MM_ANONPAGES val:512", "bad rss-counter"),
        ("BUG: non-zero pgtables_bytes on freeing mm: 4096", "bad rss-counter"),
        ("general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "GPF"),
        ("Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "GPF"),
        ("refcount_t: underflow; use-after-free.", "refcount"),
        ("percpu ref (free_pgmap) <= 0 (-1) after switching to atomic", "percpu ref"),
        ("percpu_ref_switch_to_atomic_rcu(): percpu_ref underflow", "percpu ref"),
        ("list_add corruption. next->prev should be prev", "list corruption"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [python3:92]", "soft lockup"),
        ("kernel BUG at mm/migrate_device.c:612!", "BUG"),
        ("Unable to handle kernel NULL pointer dereference at virtual address 0", "oops"),
        ("divide error: 0000 [#1] SMP", "oops"),
        ("UBSAN: array-index-out-of-bounds in x.c:5:6", "UBSAN"),
        ("kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "kmemleak"),
        ("INFO: rcu_preempt detected stalls on CPUs/tasks:", "RCU stall"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "RCU stall"),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 27 jiffies s: 21", "RCU stall"),
        ("INFO: task python3:92 blocked for more than 20 seconds.", "hung task"),
        ("INFO: task python3:92 blocked in I/O wait for more than 20 seconds.", "hung task"),
        ("BUG: Bad page map in process python3  pte:1 pmd:2", "bad page map"),
        ("BUG: Bad page map in process python3  pte:0000000000000001", "bad page map"),
        ("BUG: Bad page state in process python3  pfn:1055f2", "bad page state"),
        ("BUG: TASK stack guard page was hit at 00000000b (stack is 00000000a..00000000c)", "stack overflow"),
        ("BUG: KFENCE: use-after-free read in dmirror_release+0x3c/0x70", "KFENCE"),
        ("BUG: KCSAN: data-race in dmirror_fault / dmirror_release", "KCSAN"),
        ("BUG kmalloc-64 (Tainted: G           O): Right Redzone overwritten", "slab corruption"),
        ("ODEBUG: free active (active state 0) object: 0000 object type: timer_list hint: x+0x0/0x10", "ODEBUG"),
        ("python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0", "OOM"),
        ("Kernel panic - not syncing: sysrq triggered crash", "panic"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("WARNING: possible recursive locking detected", "lockdep"),
        ("WARNING: inconsistent lock state", "lockdep"),
        ("WARNING: possible irq lock inversion dependency detected", "lockdep"),
        ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "lockdep"),
        ("WARNING: suspicious RCU usage", "lockdep"),
        ("WARNING: held lock freed!", "lockdep"),
        ("WARNING: lock held when returning to user space!", "lockdep"),
        ("WARNING: python3/92 still has locks held!", "lockdep"),
        ("WARNING: bad unlock balance detected!", "lockdep"),
        ("[ BUG: Invalid wait context ]", "lockdep"),
        ("BUG: sleeping function called from invalid context at mm/slab.h:1", "lockdep"),
        ("BUG: scheduling while atomic: python3/92/0x00000002", "lockdep"),
        ("INFO: trying to register non-static key.", "lockdep"),
        ("BUG: MAX_STACK_TRACE_ENTRIES too low!", "lockdep"),
        ("WARNING: CPU: 1 PID: 80 at mm/memremap.c:412 free_zone_device_folio+0x1a/0x90", "WARNING"),
    ],
)
def test_a_complaint_is_known_by_its_first_line(line: str, kind: str) -> None:
    (found,) = splats.parse([line])
    assert (found.kind, found.lines) == (kind, (line,))
    assert kind in splats.KINDS


@pytest.mark.parametrize(
    "line",
    [
        "dmirror: 2 devices, private memory, kernel 7.3.4",
        "mtrr: your CPUs had inconsistent fixed MTRR settings",
        "9p: Bad value for 'source'",
        "dmirror: loading out-of-tree module taints kernel.",
        "sysrq: Show Blocked State",
        "debug: unmapping init memory",
        "Kernel command line: oops=panic panic=-1 hugepages=64",
        "rcu: RCU lockdep checking is enabled.",
        "INFO: lockdep is turned off.",
        "kmemleak: Kernel memory leak detector initialized (mem pool available: 15679)",
        "Disabling lock debugging due to kernel taint",
    ],
)
def test_ordinary_messages_are_no_complaints(line: str) -> None:
    assert splats.parse([line]) == []


def test_several_complaints_are_kept_apart() -> None:
    log = WARN + "BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1\n" * 2 + OOPS + KASAN
    found = splats.parse(log.splitlines())
    assert [each.kind for each in found] == ["WARNING", "bad rss-counter", "bad rss-counter", "oops", "KASAN"]


def test_a_complaint_has_its_text_from_the_first_line_to_the_last() -> None:
    warning, oops, kasan = splats.parse((WARN + OOPS + KASAN).splitlines())
    assert warning.lines == tuple(WARN.splitlines()[1:-1])
    assert oops.lines == tuple(OOPS.splitlines())
    assert kasan.lines == tuple(KASAN.splitlines()[:-1])


def test_a_title_says_what_and_where() -> None:
    titles = [each.title for each in splats.parse((WARN + OOPS + KASAN).splitlines())]
    assert titles == [
        "WARNING: mm/memremap.c:412 at free_zone_device_folio: a page is still mapped",
        "unable to handle page fault for address: ffffea0004000034 in dmirror_do_write+0x5e/0x90",
        "KASAN: slab-use-after-free in dmirror_release+0x3c/0x70",
    ]


def test_the_two_ways_of_a_warning_have_one_title() -> None:
    new = "WARNING: mm/memremap.c:412 at free_zone_device_folio+0x1a/0x90 [dmirror], CPU#1: python3/80"
    old = "WARNING: CPU: 1 PID: 80 at mm/memremap.c:412 free_zone_device_folio+0x1a/0x90 [dmirror]"
    assert {each.title for each in splats.parse([new]) + splats.parse([old])} == {
        "WARNING: mm/memremap.c:412 at free_zone_device_folio"
    }


def test_where_a_module_was_built_is_not_in_a_title() -> None:
    lines = ["WARNING: CPU: 1 PID: 80 at /home/me/kmod/core.c:12 dmirror_open+0x1a/0x90 [dmirror]"]
    assert splats.parse(lines)[0].title == "WARNING: core.c:12 at dmirror_open"
    lines = ["BUG: sleeping function called from invalid context at /home/me/kmod/core.c:13"]
    assert splats.parse(lines)[0].title == "sleeping function called from invalid context at core.c:13"


def test_what_a_complaint_is_about_stands_before_its_stacks() -> None:
    warning, oops = splats.parse((WARN + OOPS).splitlines())
    assert warning.head.splitlines()[1:] == WARN.splitlines()[2:4]
    assert "dmirror_do_write" not in oops.head


def test_a_complaint_without_an_end_stops_at_the_next_test() -> None:
    (found,) = splats.parse(["BUG: something", "more", "dmirror-test: b", "fine"])
    assert found.lines == ("BUG: something", "more")


REFCOUNT = WARN.replace("a page is still mapped", "refcount_t: underflow; use-after-free.")


def test_a_warning_is_one_also_where_the_console_leaves_its_first_line_out() -> None:
    whole, bare = (splats.parse(REFCOUNT.splitlines()[start:]) for start in (0, 2))
    assert [(each.kind, each.title) for each in whole + bare] == [
        ("refcount", "refcount_t: underflow; use-after-free.")
    ] * 2
    assert bare[0].lines == whole[0].lines[1:]


DUMP = """\
page: refcount:1 mapcount:0 mapping:0000000000000000 index:0x7f pfn:0x1055f2
flags: 0x17ff80000000000(node=0|zone=2)
page dumped because: VM_WARN_ON_PAGE(is_zone_device_page(page))
"""


def test_a_page_that_is_shown_first_belongs_to_the_warning() -> None:
    bare = WARN.replace("a page is still mapped\n", "")
    (found,) = splats.parse((DUMP + bare.removeprefix("dmirror: loaded\n")).splitlines())
    assert (found.kind, found.lines[0][:15]) == ("WARNING", "page: refcount:")
    (found,) = splats.parse(DUMP.splitlines())
    assert (found.kind, len(found.lines)) == ("bad page state", 3)


def test_a_complaint_cut_off_by_the_end_is_one() -> None:
    for length in range(2, 10):
        (found,) = splats.parse(WARN.splitlines()[:length])
        assert found.kind == "WARNING"
        assert len(found.lines) == length - 1


PANIC = """\
Kernel panic - not syncing: Fatal exception
Kernel Offset: disabled
---[ end Kernel panic - not syncing: Fatal exception ]---
"""


def test_a_panic_after_an_oops_belongs_to_it() -> None:
    (found,) = splats.parse((OOPS + "an innocent line\n" + PANIC).splitlines())
    assert (found.kind, found.lines[-1]) == ("oops", PANIC.splitlines()[-1])


def test_a_panic_by_itself_is_one() -> None:
    log = "sysrq: Trigger a crash\n" + PANIC.replace("Fatal exception", "sysrq triggered crash")
    warning, panic = splats.parse((WARN + log).splitlines())
    assert (panic.kind, panic.title) == ("panic", "Kernel panic - not syncing: sysrq triggered crash")
    assert len(panic.lines) == 3
    assert warning.lines[-1].startswith("---[ end trace")


def test_an_oops_within_a_warning_is_one_more() -> None:
    cut = WARN.splitlines()[:6]
    warning, oops = splats.parse([*cut, *(OOPS + PANIC).splitlines()])
    assert [warning.kind, oops.kind] == ["WARNING", "oops"]
    assert oops.lines == tuple((OOPS + PANIC).splitlines())
    assert warning.lines[:5] == tuple(cut[1:])


def _woven(one: str, two: str) -> list[tuple[int, str]]:
    """Lines of both, by turns."""
    long = max(len(one.splitlines()), len(two.splitlines()))
    texts = [[*text.splitlines(), *[""] * long][:long] for text in (one, two)]
    return [(n, lines[at]) for at in range(long) for n, lines in enumerate(texts) if lines[at]]


OTHER = WARN.replace("mm/memremap.c:412 free_zone_device_folio", "mm/hmm.c:77 hmm_range_fault").replace(
    "a page is still mapped", "another"
)


def test_two_processors_that_speak_at_once_lose_nothing() -> None:
    lines = [line for _, line in _woven(WARN, OTHER)]
    one, two = splats.parse(lines)
    assert [one.title[:22], two.title[:17]] == ["WARNING: mm/memremap.c", "WARNING: mm/hmm.c"]
    said = [line for line in lines if line not in ("dmirror: loaded", "something else")]
    assert [line for line in said if line not in one.lines and line not in two.lines] == []


def test_two_processors_are_told_apart_by_who_speaks() -> None:
    lines = [f"[   12.345678][{'T92' if n else 'C1':>6}] {line}" for n, line in _woven(WARN, OTHER)]
    one, two = splats.parse(splats.messages("\n".join(lines)))
    assert one.lines == tuple(WARN.splitlines()[1:-1])
    assert two.lines == tuple(OTHER.splitlines()[1:-1])


def test_messages_are_without_what_the_console_adds() -> None:
    console = (
        "\x1b[1;31mred\x1b[0m\r\n[    0.000000] Linux version 7.3.4\r\n[   12.345678][  T123] a\n"
        "<4>[   12.345678][    C1]  </TASK>\n<6>[    1.5] b\n"
        "[ BUG: Invalid wait context ]\nof a\x85program\n[    1.5]\n"
    )
    assert splats.messages(console) == [
        "red",
        "Linux version 7.3.4",
        "a",
        " </TASK>",
        "b",
        "[ BUG: Invalid wait context ]",
        "of a\x85program",
        "",
    ]


def test_a_record_of_the_kernels_log_says_who_spoke() -> None:
    spoken = message(rb"4,1507,12345678,-,caller=T92; a tab\x09 and\x0a two lines" + b"\n SUBSYSTEM=x\n")
    assert (spoken, spoken.caller) == (" a tab\t and\n two lines", "T92")
    spoken = message(b"4,1508,12345678,-;Call Trace: a;b\n")
    assert (spoken, spoken.caller) == ("Call Trace: a;b", "")


RACE = """\
==================================================================
BUG: KCSAN: data-race in {one}{module} / {two}

write to 0xffff888103c4a018 of 8 bytes by task 92 on cpu 0:
 {one}+0x3c/0x70{module}
 dmirror_migrate+0x5e/0x90 [dmirror]
 entry_SYSCALL_64_after_hwframe+0x76/0x7e

read to 0xffff888103c4a018 of 8 bytes by task 93 on cpu 1:
 {two}+0x1c/0x70
==================================================================
"""


def test_a_race_of_the_kernel_alone_is_harmless() -> None:
    (its,) = splats.parse(RACE.format(one="next_uptodate_folio", two="folio_lock", module="").splitlines())
    assert its.kind == "KCSAN"
    assert "whoever called them" in (splats.harmless(its) or "")
    (ours,) = splats.parse(RACE.format(one="migrate_to", two="folio_lock", module=" [dmirror]").splitlines())
    assert splats.harmless(ours) is None


def test_the_list_of_the_harmless_leaves_complaints_alone() -> None:
    killed = [
        "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "Memory cgroup out of memory: Killed process 92 (python3) total-vm:1kB",
    ]
    (found,) = splats.parse(killed)
    assert (found.kind, found.title[:37]) == ("OOM", "Memory cgroup out of memory: Killed p")
    assert splats.complaints([*killed, *WARN.splitlines()]) == splats.parse(WARN.splitlines())


def test_no_bytes_raise() -> None:
    chosen = random.Random(6)
    logs = [WARN, OOPS, KASAN, PANIC, OTHER, RACE]
    for _ in range(300):
        text = "".join(chosen.choices(logs, k=chosen.randint(1, 8)))
        lines = text.splitlines(keepends=True)
        for _ in range(chosen.randint(0, 20)):
            at = chosen.randrange(len(lines))
            damage = chosen.randrange(5)
            if damage == 0:
                lines[at] = lines[at][: chosen.randrange(len(lines[at]) + 1)]
            elif damage == 1:
                lines[at] = bytes(chosen.choices(range(256), k=80)).decode(errors="replace")
            elif damage == 2:
                lines[at] = f"<{chosen.randrange(9)}>[  1.5][ T{chosen.randrange(3)}] " + lines[at]
            elif damage == 3:
                lines[at] *= chosen.randrange(3)
            else:
                lines[at] = lines[chosen.randrange(len(lines))]
        for found in splats.parse(splats.messages("".join(lines))):
            assert found.kind in splats.KINDS
            assert found.title == found.title.strip()
            assert found.lines
            splats.harmless(found)


def test_a_log_full_of_beginnings_does_not_grow() -> None:
    lines = ["------------[ cut here ]------------", "x" * 100] * 2000
    found = splats.parse(lines)
    assert len(found) == 2000
    assert sum(len(each.lines) for each in found) < 40000


def test_a_very_long_line_takes_no_time() -> None:
    splats.parse(["BUG: lock held INFO: task " * 100_000, "python invoked " * 100_000])


def test_every_kind_has_a_form() -> None:
    assert {form.kind for form in splats.splatforms.FORMS} == set(splats.KINDS)


def test_a_complaint_leaves_a_guest_in_plain_types() -> None:
    said = [splats.Message(line, "T80") for line in WARN.splitlines()]
    carried = as_property(splats.parse(said)[0])
    assert {type(line) for line in carried["lines"]} == {type(carried["title"])} == {str}
