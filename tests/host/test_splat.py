# SPDX-License-Identifier: GPL-2.0
"""What a complaint in the kernel log does to a test's verdict."""

from __future__ import annotations

import pytest

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
            "*the kernel complained during this test: Bad rss-counter state",
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
            "*complained during this test: WARNING: mm/hmm.c:1 at hmm_range_fault",
            "*complained during this test: WARNING: mm/memremap.c:412 at free_zone_device_folio: a page*",
            "*complained during this test: Bad rss-counter state",
        ]
    )


LOCKS = """\
WARNING: possible circular locking dependency detected
7.2.13 #1 Tainted: G        W  O
------------------------------------------------------
python/74 is trying to acquire lock:
ff110001c03ae7d0 (&hugetlb_fault_mutex_table[i]){+.+.}-{4:4}, at: hugetlb_fault+0x23d/0xf00

but task is already holding lock:
ff110001c875c870 (&vma_lock->rw_sema){++++}-{4:4}, at: __walk_page_range+0x373/0x810
"""
WATCHED = """
from pathlib import Path
from dmirror.plugin.locks import Unwatched

splat._LOCKDEP = Path(__file__).with_name("lockdep_stats")

def pytest_sessionstart(session):
    session.config.pluginmanager.register(Unwatched())
"""
SILENCING = f"""
from pathlib import Path
def test_first(kernel): pass
def test_oom(kernel): kernel.append("python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0")
def test_unshared(kernel):
    kernel.extend({LOCKS.splitlines()!r})
    Path(__file__).with_name("lockdep_stats").write_text(" debug_locks:                 0\\n")
def test_third(kernel): pass
def test_fourth(kernel): pass
"""


@pytest.mark.parametrize(
    ("watches", "test", "after"),
    [(1, "test_unshared", 2), (0, "test_first", 4)],
    ids=["from a test on", "from the boot on"],
)
def test_which_tests_ran_without_lockdep_is_said(
    pytester: pytest.Pytester, watches: int, test: str, after: int
) -> None:
    pytester.makeconftest(CONFTEST + WATCHED)
    pytester.makepyfile(SILENCING)
    pytester.path.joinpath("lockdep_stats").write_text(f" lock-classes:  1812 [max: 8192]\n debug_locks:  {watches}\n")
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines([f"lockdep is silent since *::{test}; tests without it after that: {after}"])


def test_nothing_is_said_where_lockdep_watches_or_is_not(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST + WATCHED)
    pytester.makepyfile("def test_oom(kernel): kernel.append('python invoked oom-killer: gfp_mask=0xcc0, order=0')")
    pytester.runpytest("-p", "no:cacheprovider").stdout.no_fnmatch_line("*lockdep is silent*")
    pytester.path.joinpath("lockdep_stats").write_text(" debug_locks:                 1\n")
    pytester.runpytest("-p", "no:cacheprovider").stdout.no_fnmatch_line("*lockdep is silent*")
