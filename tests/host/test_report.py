# SPDX-License-Identifier: GPL-2.0
"""Reports of runs: their records as KTAP, as JUnit's XML, and as a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_picture import log_of

from dmirror import cli
from dmirror.journal import Journal, Run, Subject, load
from dmirror.report import html as page_of
from dmirror.report.html import html
from dmirror.report.junit import junit
from dmirror.report.ktap import ktap
from dmirror.report.problems import problems
from dmirror.report.summary import duration, headline, printable, summaries, words
from dmirror.results import CAUSES, DEFECT, FAILED, PASSED, SKIPPED, Complaint, Verdict

FILE, OTHER, BAD = (f"tests/device/test_{name}.py" for name in ("one", "two", "bad"))
SPLAT = Complaint(
    "kasan", "BUG: KASAN: bad <read> & more", "frob mm/frob.c:12\n  > 12  frob(<x>);\n", "raw frob+0x1/0x2"
)
BEHIND = Complaint("warning", "WARNING: mm/late.c:3", "late mm/late.c:3", "raw", between=True)

TESTS = {
    f"{FILE}::test_passes": Verdict(PASSED, ["M-01"], seconds=0.25),
    f"{FILE}::TestIt::test_skips[a#b]": Verdict(SKIPPED, [], "needs <CONFIG_SWAP> & more"),
    f"{FILE}::test_defect[x::y]": Verdict(DEFECT, ["M-02"], "the kernel forgets it\nat times"),
    f"{OTHER}::test_skips": Verdict(SKIPPED, [], "needs a kernel >=7.2"),
}


def failed(cause: str, **fields: Any) -> Verdict:
    said = {
        "kernel": f"[gw0] linux -- Python 3.11\nit complained\n\n{SPLAT.decoded.strip()}",
        "assertion": "    def test():\n>       assert '<b>' == 2\nE       assert '<b>' == 2",
    }
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

    def make(tests: dict[str, Verdict], *, planned: int | None = None, ended: bool = True, **fields: str) -> Run:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        folder.mkdir()
        subject = {"kernel": "7.3.4", "release": "7.3.4", "source": "8c1d", "config": "e3f1", "flavour": "default"}
        subject |= {"driver": "dmirror", "harness": "e1fe362+", "accelerator": "tcg"}
        journal = Journal(folder, Subject(**subject | fields))
        journal.plan(len(tests) if planned is None else planned)
        for nodeid, verdict in tests.items():
            journal.add(nodeid, verdict)
        if ended:
            journal.end()
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

    def test_a_complaint_is_not_said_twice(self):
        assert words(failed("kernel", complaints=[SPLAT])) == "it complained"

    @pytest.mark.parametrize("cause", CAUSES)
    def test_the_kernel_says_why_where_it_is_the_cause(self, cause):
        verdict = failed(cause, complaints=[SPLAT])
        assert (headline(verdict) == SPLAT.title) == (cause in ("kernel", "crash", "hang"))
        assert headline(verdict)

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
        assert said == [
            "cause: kernel",
            "kernel: BUG: KASAN: bad <read> & more",
            "frob mm/frob.c:12",
            "> 12  frob(<x>);",
            "kernel: WARNING: mm/late.c:3 (after the test, before the next)",
            "late mm/late.c:3",
            "it complained",
            "console: gw0/console.log",
        ]

    def test_of_long_texts_there_are_the_first_lines_of_the_kernels_and_the_last_of_pytests(self, made):
        long = "\n".join(f"line {number}" for number in range(100))
        verdict = failed("kernel", complaints=[Complaint("bug", "BUG: it", long, long)])
        verdict.text = f"{long}\nend"
        said = parsed(ktap([made({"a.py::t": verdict})]))[0]["tests"][0]["tests"][0]["said"]
        assert said[2:32] == [f"line {number}" for number in range(30)]
        assert said[32:] == ["... 70 more lines", "end", "console: gw0/console.log"]

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


class Page(HTMLParser):
    """A page: its text by tag, attributes of all tags; raises for a tag that is not closed, or closed twice."""

    VOID = ("meta", "input", "br")
    OPTIONAL = ("td", "th")  # their end may be left out

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.OPTIONAL:
            self._leave_out()
            self.handle_data(" ")
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.OPTIONAL:
            self._leave_out()
        assert self.open.pop() == tag, self.getpos()

    def _leave_out(self) -> None:
        while self.open and self.open[-1] in self.OPTIONAL:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def text(self, tag: str) -> str:
        """The text of all such tags, with single spaces."""
        return " ".join(" ".join(self.texts.get(tag, [])).split())


def page(*runs: Run) -> Page:
    return Page(html(runs))


class TestHtml:
    def test_it_stands_alone_and_every_link_leads_somewhere(self, made):
        shown = page(made(broken()), made(TESTS, flavour="debug"))
        ids = {attributes["id"] for _, attributes in shown.tags if "id" in attributes}
        links = [attributes["href"] for tag, attributes in shown.tags if tag == "a"]
        assert len(links) >= 12 and {link[1:] for link in links} <= ids
        assert {tag for tag, _ in shown.tags} & {"link", "img", "iframe", "object", "base"} == set()
        assert not any("src" in attributes for _, attributes in shown.tags)
        assert re.findall(r"https?://|url\(|@import|//[a-z]+\.", html([made(broken())])) == []

    def test_the_heading_says_what_to_know(self, made):
        assert page(made(TESTS)).text("h1") == "✓ Everything passed"
        assert page(made(TESTS), made(TESTS)).text("h1") == "✓ All 2 runs passed"
        assert page(made(TESTS), made(TESTS, planned=9)).text("h1") == "✂ 1 of 2 runs cut off"
        assert page(made(TESTS), made(broken())).text("h1") == "✗ 6 failures, in 1 of 2 runs"
        assert page(made(broken())).text("h1") == "✗ 6 of 10 tests failed"
        assert page(made(TESTS, planned=9)).text("h1") == "✂ Cut off"

    def test_what_was_skipped_has_not_passed(self, made):
        shown = page(made({f"{OTHER}::test_skips": TESTS[f"{OTHER}::test_skips"]}))
        assert shown.text("h1") == "○ Every test was skipped"
        assert "passed" not in shown.text("table").replace("0 passed", "")

    def test_what_was_cut_off_is_said_on_top(self, made):
        assert "7.3.4: cut off after 4 of 9 tests" in page(made(TESTS, planned=9, ended=False)).text("header")

    def test_the_matrix_has_words_for_every_run(self, made):
        text = page(made(broken()), made(TESTS, flavour="debug"), made({}, kernel="6.1", planned=3)).text("main")
        for part in ("✗ 6 failed", "✓ passed", "✂ cut off", "not run", "1 known defect, 2 skipped"):
            assert part in text

    def test_a_failure_shows_everything_that_was_said(self, made):
        run = made(broken())
        (run.folder / "gw0").mkdir()
        lines = ["boot", f"dmirror-test: {BAD}::test_kernel", "a <word> & more", "dmirror-test: another", "not this"]
        (run.folder / "gw0/console.log").write_text("\n".join(lines))
        text = "\n".join(page(run).texts["pre"])
        for part in (SPLAT.decoded, SPLAT.raw, BEHIND.decoded, "assert '<b>' == 2", "a <word> & more"):
            assert part in text
        kernel = next(pre for pre in page(run).texts["pre"] if "a <word>" in pre)
        assert "not this" not in kernel and "boot" not in kernel

    def test_nothing_of_a_test_is_markup(self, made):
        evil = "</pre></details><script>alert(1)</script><b>"
        verdict = failed("kernel", complaints=[Complaint("warning", evil, evil, evil + "x")])
        verdict.text = f"E {evil}\n> {evil}\n{evil}"
        verdict.logs = [log_of(["MIGRATE_PAGES", 0, 4, "", 4], name=evil)]
        tests = {f"a.py::test[{evil}]": verdict, "a.py::skip": Verdict(SKIPPED, [], evil)}
        text = html([made(tests, kernel=evil, driver=evil)])
        assert "alert(1)" in text
        assert text.count("<script>") == 1
        Page(text)

    def test_reasons_come_once_with_the_tests_that_have_them(self, made):
        shown = page(made(TESTS), made(TESTS, flavour="debug"))
        reasons = [one for one in shown.texts["summary"] if "forgets" in one]
        assert [" ".join(one.split()) for one in reasons] == [
            "the kernel forgets it at times 1 test on 7.3.4, 7.3.4 debug"
        ]

    def test_tests_are_by_file_with_a_word_for_each_run(self, made):
        other = made({f"{FILE}::test_passes": Verdict(FAILED, [], cause="assertion", text="E no")}, kernel="6.1")
        rows = [" ".join(row.split()) for row in page(made(TESTS), other).texts["tr"]]
        none = "\N{EN DASH}"
        assert {"test_passes pass FAIL", f"test_defect[x::y] defect {none}", f"test_skips skip {none}"} <= set(rows)

    def test_a_log_without_events_has_no_picture(self, made):
        tests = {"a.py::t": failed("assertion", logs=[log_of(areas=[])])}
        assert page(made(tests)).texts.get("svg") is None

    def test_what_does_not_fit_is_left_out_and_said(self, made, monkeypatch):
        monkeypatch.setattr(page_of, "_FAILURES_ROOM", 50_000)
        text = "E " + "x" * 30_000
        tests = {f"a.py::test_{n}": Verdict(FAILED, [], cause="assertion", text=text) for n in range(10)}
        shown = html([made(tests)])
        assert 32_000 < len(shown) < 90_000
        assert shown.count("The page would be too long") == 7
        assert shown.count('<details class="failure"') == 10

    def test_of_many_alike_there_are_the_names_of_the_rest(self, made):
        tests = {f"a.py::test[{n}]": failed("assertion") for n in range(20)}
        shown = page(made(tests))
        folds = [attributes["id"] for tag, attributes in shown.tags if tag == "details" and "id" in attributes]
        names = [attributes["id"] for tag, attributes in shown.tags if tag == "li" and "id" in attributes]
        assert (len(folds), len(names)) == (12, 8)
        assert shown.text("h1") == "✗ 20 of 20 tests failed"
        assert "8 more like these" in shown.text("summary")


class TestProblems:
    def test_failures_that_look_alike_are_one_with_the_worst_first(self, made):
        def oops(number: int) -> Verdict:
            title = f"BUG: at mm/hmm.c:{number} frob+0x{number:x}/0x400"
            return failed("kernel", complaints=[Complaint("bug", title, title, title)])

        one = made({"a.py::t[1]": failed("assertion"), "a.py::t[2]": failed("assertion"), "b.py::t": oops(1)})
        other = made(
            {"a.py::t[1]": failed("assertion"), "c.py::u": oops(77), "c.py::v": failed("assertion")}, kernel="6.1"
        )
        found = problems(summaries([one, other]))
        assert [(problem.cause, len(problem.failures), problem.subject) for problem in found] == [
            ("kernel", 2, ""),
            ("assertion", 3, "t"),
            ("assertion", 1, "v"),
        ]
        assert found[0].runs == ["7.3.4", "6.1"]


class TestVerb:
    @pytest.fixture
    def runs(self, made, tmp_path, monkeypatch):
        """The cache's folder of runs has those that are made."""
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache/runs").symlink_to(tmp_path)
        return made

    def test_without_a_record_it_says_what_leaves_one(self, capsys):
        assert cli.main(["report"]) == 2
        assert "make test" in capsys.readouterr().err

    def test_a_folder_without_a_record_is_named(self, tmp_path, capsys):
        assert cli.main(["report", str(tmp_path)]) == 2
        assert f"{tmp_path} has no record of a run" in capsys.readouterr().err

    def test_the_last_run_of_each_kernel_flavour_and_driver_counts(self, runs, capsys):
        runs(broken())
        runs(TESTS, flavour="debug")
        runs(TESTS, kernel="6.12.1", driver="test_hmm")
        runs(TESTS, kernel="6.9")
        runs(TESTS)
        assert cli.main(["report"]) == 0
        lines = [line.split()[:8] for line in capsys.readouterr().out.splitlines()]
        assert lines[1:] == [
            ["6.9", "default", "dmirror", "1", "0", "1", "2", "0.0"],
            ["6.12.1", "default", "test_hmm", "1", "0", "1", "2", "0.0"],
            ["7.3.4", "debug", "dmirror", "1", "0", "1", "2", "0.0"],
            ["7.3.4", "default", "dmirror", "1", "0", "1", "2", "0.0"],
        ]

    def test_a_failure_or_a_run_that_was_cut_off_ends_with_1(self, runs, capsys):
        assert cli.main(["report", str(runs(broken()).folder)]) == 1
        assert cli.main(["report", str(runs(TESTS, planned=9).folder)]) == 1
        assert "7.3.4: cut off after 4 of 9 tests" in capsys.readouterr().out

    def test_files_are_written(self, runs, tmp_path):
        run = runs(broken())
        names = {name: tmp_path / f"out.{name}" for name in ("html", "junit", "ktap")}
        options = [f"--{name}={file}" for name, file in names.items()]
        assert cli.main(["report", *options, str(run.folder)]) == 1
        assert names["ktap"].read_text() == ktap([run])
        assert names["junit"].read_text() == junit([run])
        assert names["html"].read_text() == html([run])
        assert cli.main(["report", f"--html={tmp_path}/none/page.html", str(run.folder)]) == 2
