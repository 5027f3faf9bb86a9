# SPDX-License-Identifier: GPL-2.0
"""Reports of runs: their records as KTAP, as JUnit's XML, and as a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dmirror.journal import Journal, Run, Subject, load
from dmirror.report.junit import junit
from dmirror.report.ktap import ktap
from dmirror.report.summary import duration, printable, summaries
from dmirror.results import CAUSES, DEFECT, FAILED, PASSED, SKIPPED, Complaint, Verdict

FILE, OTHER, BAD = (f"tests/device/test_{name}.py" for name in ("one", "two", "bad"))
SPLAT = Complaint("kasan", "BUG: KASAN: bad <read> & more", "frob mm/frob.c:12\n  > 12  frob(<x>);", "raw frob+0x1/0x2")
BEHIND = Complaint("warning", "WARNING: mm/late.c:3", "late mm/late.c:3", "raw", between=True)

TESTS = {
    f"{FILE}::test_passes": Verdict(PASSED, ["M-01"], seconds=0.25),
    f"{FILE}::TestIt::test_skips[a#b]": Verdict(SKIPPED, [], "needs <CONFIG_SWAP> & more"),
    f"{FILE}::test_defect[x::y]": Verdict(DEFECT, ["M-02"], "the kernel forgets it\nat times"),
    f"{OTHER}::test_skips": Verdict(SKIPPED, [], "needs a kernel >=7.2"),
}


def failed(cause: str, **fields: Any) -> Verdict:
    said = {"kernel": "", "assertion": "    def test():\n>       assert '<b>' == 2\nE       assert '<b>' == 2"}
    text = said.get(cause, f"{cause}: no end within 60 s\x1b[0m\x00")
    return Verdict(FAILED, [], cause=cause, text=text, console="gw0/console.log", **fields)


def broken() -> dict[str, Verdict]:
    """A test for each cause."""
    return TESTS | {
        f"tests/device/test_bad.py::test_{cause}": failed(
            cause, complaints=[SPLAT, BEHIND] if cause == "kernel" else []
        )
        for cause in CAUSES
    }


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Run]:
    """Writes the record of a run and reads it again."""

    def make(
        tests: dict[str, Verdict],
        kernel: str = "7.3.4",
        *,
        planned: int | None = None,
        ended: bool = True,
        **fields: str,
    ) -> Run:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        folder.mkdir()
        subject = {"kernel": "7.3.4", "release": "7.3.4", "source": "8c1d", "config": "e3f1", "flavour": "default"}
        subject |= {"driver": "dmirror", "harness": "e1fe362+", "accelerator": "tcg"}
        journal = Journal(folder, Subject(**subject | fields))
        journal.plan(len(tests) if planned is None else planned)
        for nodeid, verdict in tests.items():
            journal.add(nodeid, verdict)
        if ended:
            journal.close()
        return load(folder)

    return make


def parsed(text: str) -> list[dict[str, Any]]:
    """Results of KTAP by the rules of ktap.rst, with their subtests; asserts that plans and numbers are right."""
    lines = text.splitlines()
    results, rest = _group(lines, 0)
    assert rest == []
    return results


def _group(lines: list[str], depth: int) -> tuple[list[dict[str, Any]], list[str]]:
    indent = "  " * depth
    assert lines[0] == f"{indent}KTAP version 1"
    lines = lines[1:]
    while lines[0].startswith(f"{indent}#"):
        lines = lines[1:]
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines[0])
    assert plan is not None, lines[0]
    lines, results = lines[1:], []
    for number in range(1, int(plan[1]) + 1):
        subtests: list[dict[str, Any]] = []
        if lines[0] == f"{indent}  KTAP version 1":
            subtests, lines = _group(lines, depth + 1)
        said = []
        while re.match(r"\s*#", lines[0]):
            said.append(lines[0].strip().removeprefix("#").strip())
            lines = lines[1:]
        result = re.fullmatch(rf"{indent}(not )?ok (\d+) ([^#]*?)(?: # (.*))?", lines[0])
        assert result is not None and int(result[2]) == number, lines[0]
        results.append(
            {"ok": not result[1], "name": result[3], "behind": result[4] or "", "said": said, "tests": subtests}
        )
        lines = lines[1:]
    return results, lines


class TestSummary:
    def test_it_counts_every_outcome(self, made):
        one = summaries([made(broken())])[0]
        assert one.counts == {PASSED: 1, FAILED: 6, DEFECT: 1, SKIPPED: 2}
        assert one.failed and one.cut_off == ""

    def test_runs_of_the_same_subject_are_told_apart(self, made):
        names = [one.name for one in summaries([made(TESTS), made(TESTS), made(TESTS, flavour="debug")])]
        assert names == ["7.3.4 (run-0)", "7.3.4 (run-1)", "7.3.4 debug"]

    @pytest.mark.parametrize(
        ("tests", "planned", "ended", "said"),
        [
            (TESTS, 9, True, "cut off after 4 of 9 tests"),
            (TESTS, 9, False, "cut off after 4 of 9 tests"),
            (TESTS, 4, False, "cut off after 4 of 4 tests"),
            ({}, 9, True, "ended before its first test"),
            (TESTS, 4, True, ""),
        ],
    )
    def test_what_was_cut_off_failed_and_says_how_far_it_came(self, made, tests, planned, ended, said):
        one = summaries([made(tests, planned=planned, ended=ended)])[0]
        assert one.cut_off == said
        assert one.failed == bool(said)

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (61, "61 s"), (754, "13 min"), (7500, "2 h 05 min")]
    )
    def test_a_time_is_for_people(self, seconds, text):
        assert duration(seconds) == text

    def test_what_cannot_be_printed_is_not(self):
        assert printable("a\x1b[1mb\x00\ud800\r\nö😀") == "ab#x00#xD800\nö😀"


class TestKtap:
    def test_plans_and_results_agree_on_three_levels(self, made):
        kernels = parsed(ktap([made(broken()), made(TESTS, flavour="debug")]))
        assert [kernel["name"] for kernel in kernels] == ["7.3.4", "7.3.4 debug"]
        assert [kernel["ok"] for kernel in kernels] == [False, True]
        assert [file["name"] for file in kernels[0]["tests"]] == [
            FILE,
            *(f"tests/device/test_{x}.py" for x in ("two", "bad")),
        ]
        assert [[test["ok"] for test in file["tests"]] for file in kernels[0]["tests"]] == [
            [True] * 3,
            [True],
            [False] * 6,
        ]
        assert [file["ok"] for file in kernels[0]["tests"]] == [True, True, False]

    def test_skips_and_defects_have_their_directive(self, made):
        one, two = parsed(ktap([made(TESTS)]))[0]["tests"]
        assert [(test["name"], test["behind"]) for test in one["tests"]] == [
            ("test_passes", ""),
            ("TestIt::test_skips[a_b]", "SKIP needs <CONFIG_SWAP> & more"),
            ("test_defect[x::y]", "XFAIL the kernel forgets it at times"),
        ]
        assert two["behind"] == "SKIP all of its tests"

    def test_each_cause_is_said(self, made):
        tests = parsed(ktap([made(broken())]))[0]["tests"][2]["tests"]
        behind = {test["name"].removeprefix("test_"): test["behind"] for test in tests}
        assert behind == {
            "assertion": "assertion: assert '<b>' == 2",
            "kernel": "kernel: BUG: KASAN: bad <read> & more",
            "crash": "ERROR crash: no end within 60 s#x00",
            "hang": "TIMEOUT hang: no end within 60 s#x00",
            "timeout": "TIMEOUT no end within 60 s#x00",
            "harness": "ERROR harness: no end within 60 s#x00",
        }
        said = next(test["said"] for test in tests if test["name"] == "test_kernel")
        assert said[:3] == [
            "cause: kernel",
            "kernel: BUG: KASAN: bad <read> & more",
            "kernel: WARNING: mm/late.c:3 (after the test, before the next)",
        ]

    def test_a_run_that_was_cut_off_is_not_ok(self, made):
        kernel = parsed(ktap([made(TESTS, planned=9, ended=False)]))[0]
        assert (kernel["ok"], kernel["behind"]) == (False, "ERROR cut off after 4 of 9 tests")

    def test_a_run_without_tests_has_an_empty_plan(self, made):
        assert parsed(ktap([made({}, planned=9)]))[0]["tests"] == []


class TestJunit:
    def test_counts_are_those_of_the_cases(self, made):
        root = ElementTree.fromstring(junit([made(broken()), made(TESTS, flavour="debug")]))
        first, second = root.findall("testsuite")
        numbers = {name: first.get(name) for name in ("name", "tests", "failures", "errors", "skipped")}
        assert numbers == {"name": "7.3.4", "tests": "10", "failures": "5", "errors": "1", "skipped": "3"}
        assert (second.get("name"), second.get("failures"), second.get("tests")) == ("7.3.4 debug", "0", "4")
        assert len(first.findall("testcase")) == 10

    def test_what_was_tested_is_in_the_properties(self, made):
        root = ElementTree.fromstring(junit([made(TESTS)]))
        properties = {one.get("name"): one.get("value") for one in root.iter("property")}
        assert properties == vars(made(TESTS).subject)

    def test_names_are_as_pytest_has_them(self, made):
        cases = ElementTree.fromstring(junit([made(TESTS)])).iter("testcase")
        assert [(case.get("classname"), case.get("name")) for case in cases] == [
            ("tests.device.test_one", "test_passes"),
            ("tests.device.test_one.TestIt", "test_skips[a#b]"),
            ("tests.device.test_one", "test_defect[x::y]"),
            ("tests.device.test_two", "test_skips"),
        ]

    def test_the_cause_is_the_type(self, made):
        root = ElementTree.fromstring(junit([made(broken())]))
        found = [(one.tag, one.get("type")) for case in root.iter("testcase") for one in case if one.get("type")]
        assert found == [
            ("skipped", SKIPPED),
            ("skipped", DEFECT),
            ("skipped", SKIPPED),
            *(("error" if cause == "harness" else "failure", cause) for cause in CAUSES),
        ]

    def test_a_failure_has_the_kernels_words(self, made):
        case = next(
            case
            for case in ElementTree.fromstring(junit([made(broken())])).iter("testcase")
            if case.get("name") == "test_kernel"
        )
        assert case.find("failure").get("message") == SPLAT.title
        assert SPLAT.decoded in case.findtext("system-out")
        assert "console: gw0/console.log" in case.findtext("system-out")

    def test_a_run_that_was_cut_off_has_an_error(self, made):
        suite = ElementTree.fromstring(junit([made(TESTS, planned=9)])).find("testsuite")
        assert (suite.get("tests"), suite.get("errors")) == ("5", "1")
        assert suite.find("testcase/error").get("message") == "cut off after 4 of 9 tests"
