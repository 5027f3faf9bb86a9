# SPDX-License-Identifier: GPL-2.0
"""What in a kernel log is a complaint, where it begins and ends, and what it does to a test's verdict."""

from __future__ import annotations

import pytest

from dmirror.plugin import splat

pytest_plugins = ["pytester"]

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
LOCKDEP = """\
======================================================
WARNING: possible circular locking dependency detected
7.3.4 #1 Tainted: G           O
------------------------------------------------------
python3/92 is trying to acquire lock:
stack backtrace:
 <TASK>
 </TASK>
later
"""
BAD_PAGE = """\
BUG: Bad page state in process python3  pfn:1055f2
page: refcount:0 mapcount:0 mapping:0000000000000000 index:0x7f
page dumped because: nonzero mapcount
Call Trace:
 <TASK>
 </TASK>
later
"""
STALL = """\
rcu: INFO: rcu_preempt self-detected stall on CPU
rcu: 	1-....: (2099 ticks this GP)
 <TASK>
 </TASK>
later
"""
HUNG = """\
INFO: task python3:92 blocked for more than 20 seconds.
      Tainted: G           O        7.3.4 #1
 <TASK>
 </TASK>
later
"""


@pytest.mark.parametrize(
    ("log", "title", "lines"),
    [
        pytest.param(WARN, "a page is still mapped", 9, id="warning"),
        pytest.param(OOPS, "BUG: unable to handle page fault for address: ffffea0004000034", 9, id="oops"),
        pytest.param(KASAN, "BUG: KASAN: slab-use-after-free in dmirror_release+0x3c/0x70", 8, id="kasan"),
        pytest.param(LOCKDEP, "WARNING: possible circular locking dependency detected", 8, id="lockdep"),
        pytest.param(BAD_PAGE, "BUG: Bad page state in process python3  pfn:1055f2", 6, id="bad page"),
        pytest.param(STALL, "rcu: INFO: rcu_preempt self-detected stall on CPU", 4, id="stall"),
        pytest.param(HUNG, "INFO: task python3:92 blocked for more than 20 seconds.", 4, id="hung task"),
    ],
)
def test_a_complaint_has_a_title_and_ends(log: str, title: str, lines: int) -> None:
    (found,) = splat.parse(log.splitlines())
    assert (found.title, len(found.lines)) == (title, lines)


@pytest.mark.parametrize(
    "line",
    [
        "BUG: Bad rss-counter state mm:00000000d5c9f3b4 type:MM_ANONPAGES val:512",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "refcount_t: underflow; use-after-free.",
        "percpu ref (free_pgmap) <= 0 (-1) after switching to atomic",
        "list_add corruption. next->prev should be prev",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [python3:92]",
        "kernel BUG at mm/migrate_device.c:612!",
        "Unable to handle kernel NULL pointer dereference at virtual address 0",
        "UBSAN: array-index-out-of-bounds in x.c:5:6",
        "kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "INFO: rcu_preempt detected stalls on CPUs/tasks:",
    ],
)
def test_complaints_are_known_by_their_first_line(line: str) -> None:
    assert [found.title for found in splat.parse([line])] == [line]


@pytest.mark.parametrize(
    "line",
    [
        "dmirror: 2 devices, private memory, kernel 7.3.4",
        "mtrr: your CPUs had inconsistent fixed MTRR settings",
        "9p: Bad value for 'source'",
        "dmirror: loading out-of-tree module taints kernel.",
        "sysrq: Show Blocked State",
        "debug: unmapping init memory",
    ],
)
def test_ordinary_messages_are_no_complaints(line: str) -> None:
    assert splat.parse([line]) == []


def test_several_complaints_are_kept_apart() -> None:
    log = WARN + "BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1\n" * 2 + OOPS
    assert len(splat.parse(log.splitlines())) == 4


def test_a_complaint_without_an_end_stops_at_the_next_test() -> None:
    (found,) = splat.parse(["BUG: something", "more", "dmirror-test: b", "fine"])
    assert found.lines == ["BUG: something", "more"]


CONFTEST = """
import pytest
from dmirror.plugin import splat

LOG = []

class Scripted(splat.KernelLog):
    def _new(self):
        new, LOG[:] = LOG[:], []
        self.spoke = bool(new)
        return new
    def _say(self, message, level=5):
        pass
    def _warn_again(self):
        pass
    def _new_taints(self):
        return []

def pytest_configure(config):
    config.pluginmanager.register(Scripted())

@pytest.fixture
def kernel():
    return LOG

@pytest.fixture
def complains_late(kernel):
    yield
    kernel.append("WARNING: late")
"""

TESTS = """
import pytest
def test_quiet(kernel): kernel.append("all is well")
def test_loud(kernel): kernel.append("BUG: Bad rss-counter state mm:1")
def test_late(complains_late): pass
def test_failing(kernel):
    kernel.append("WARNING: while failing")
    assert 0
@pytest.mark.xfail(strict=True)
def test_expected(kernel):
    kernel.append("WARNING: while failing as expected")
    assert 0
def test_skipping(kernel):
    pytest.skip("why not")
def test_innocent(): pass
"""


def test_each_complaint_costs_exactly_one_verdict(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest("-rA", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=4, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*the kernel complained during this test: BUG: Bad rss-counter state mm:1",
            "*the kernel complained during this test: WARNING: late",
            "*assert 0",
            "*- kernel log -*",
            "*the kernel complained during this test: WARNING: while failing",
        ]
    )


def test_taint_without_a_line_in_the_log_fails_too(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.replace("return []", 'return ["bad page"]'))
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tainted during this test: bad page*"])


def test_what_a_complaint_is_about_stands_before_its_stacks() -> None:
    (found,) = splat.parse(WARN.splitlines())
    assert found.head.splitlines()[1:] == WARN.splitlines()[2:4]
    (found,) = splat.parse(OOPS.splitlines())
    assert "dmirror_do_write" not in found.head


EXPECTING = """
import pytest

@pytest.mark.complains(r"WARNING: .* at mm/memremap")
def test_right(kernel): kernel.extend(LOG_OF_A_WARNING)
@pytest.mark.complains("mm/memremap")
def test_silent(kernel): kernel.append("all is well")
@pytest.mark.complains("mm/memremap")
def test_other(kernel): kernel.append("WARNING: CPU: 1 PID: 80 at mm/hmm.c:1 hmm_range_fault+0x1a/0x90")
@pytest.mark.complains("dmirror_fault")
def test_only_in_the_stack(kernel): kernel.extend(LOG_OF_A_WARNING)
@pytest.mark.complains("mm/memremap")
def test_more_than_that(kernel): kernel.extend([*LOG_OF_A_WARNING, "BUG: Bad rss-counter state mm:1"])
@pytest.mark.complains("mm/memremap")
@pytest.mark.complains("Bad rss-counter")
def test_both(kernel): kernel.extend([*LOG_OF_A_WARNING, "BUG: Bad rss-counter state mm:1"])
@pytest.mark.complains("mm/memremap")
def test_failing(kernel):
    kernel.extend(LOG_OF_A_WARNING)
    assert 0
@pytest.mark.complains("mm/memremap")
@pytest.mark.xfail(strict=True)
def test_failing_as_expected(kernel): assert 0
@pytest.mark.skip(reason="why not")
@pytest.mark.complains("mm/memremap")
def test_skipping(kernel): pass
"""
VERDICTS = {
    "test_right": "PASSED",
    "test_silent": "FAILED",
    "test_other": "FAILED",
    "test_only_in_the_stack": "FAILED",
    "test_more_than_that": "FAILED",
    "test_both": "PASSED",
    "test_failing": "FAILED",
    "test_failing_as_expected": "XFAIL",
}


def test_a_complaint_that_is_expected_has_to_come_and_no_other(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.replace("return []", 'return ["warning"] if self.spoke else []'))
    pytester.makepyfile(f"LOG_OF_A_WARNING = {WARN.splitlines()!r}\n{EXPECTING}")
    result = pytester.runpytest("-rA", "-p", "no:cacheprovider")
    said = result.stdout.str()
    for name, verdict in VERDICTS.items():
        assert f"{verdict} test_a_complaint_that_is_expected_has_to_come_and_no_other.py::{name}" in said
    reports = said.partition("short test summary info")[0]
    assert reports.count("did not complain during this test, as it should, of") == 3
    result.stdout.fnmatch_lines(
        [
            "*did not complain during this test, as it should, of 'mm/memremap'",
            "*complained during this test: WARNING: CPU: 1 PID: 80 at mm/hmm.c:1 *",
            "*complained during this test: a page is still mapped",
            "*complained during this test: BUG: Bad rss-counter state mm:1",
        ]
    )
