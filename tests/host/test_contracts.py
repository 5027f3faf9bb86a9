# SPDX-License-Identifier: GPL-2.0
"""The catalogue of contracts, its tests, and what is kept of their verdicts."""

import re

import pytest

from dmirror import contracts
from dmirror.contracts import Contract, Section
from dmirror.paths import ROOT
from dmirror.results import DEFECT, FAILED, PASSED, SKIPPED, Results, Verdict, kept

SECTIONS = [
    Section(1, "One", (Contract("A-01", "holds", "no"), Contract("A-02", "too <b>", "yes", "nothing shows it")))
]
TESTS = {"A-01": ["test_a.py::test_one", "test_a.py::test_two"]}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DMIRROR_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def collected():
    return contracts.collected()


def test_every_contract_has_a_test_or_a_reason(collected):
    assert list(contracts.missing(contracts.catalogue(), collected)) == []


def test_the_page_is_what_the_tests_say(collected):
    """It is made by dmirror contracts --docs."""
    assert contracts.PAGE.read_text() == contracts.markdown(contracts.catalogue(), collected)


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ({}, ["A-01 has no test"]),
        (TESTS | {"A-02": ["test_b.py::test_it"]}, ["A-02 is untested"]),
        (TESTS | {"B-01": ["test_b.py::test_it"]}, ["B-01 is not in"]),
        (TESTS | {"D-01": ["test_b.py::test_it"]}, []),
    ],
)
def test_what_is_wrong_is_said(tests, said):
    found = list(contracts.missing(SECTIONS, tests))
    assert len(found) == len(said) and all(map(str.startswith, found, said))


def test_what_is_left_out_is_said_beside_the_tests():
    contract = Contract("A-01", "holds", "no", left_out="what no kernel survives")
    sections = [Section(1, "One", (contract,))]
    assert "test_two.py); not asked: what no kernel survives | no |" in contracts.markdown(
        sections, {"A-01": ["device/test_two.py::test_it"]}
    )
    assert list(contracts.missing(sections, TESTS)) == []
    assert any("say untested" in said for said in contracts.missing(sections, {}))
    (row,) = contracts.table(sections, TESTS, [])[0][1]
    assert row.reasons == ["what no kernel survives"]


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        ([], contracts.NOT_RUN),
        ([SKIPPED], contracts.NONE),
        ([SKIPPED, PASSED], contracts.PASS),
        ([PASSED, DEFECT], contracts.KNOWN),
        ([PASSED, DEFECT, FAILED], contracts.FAIL),
    ],
)
def test_the_worst_verdict_counts(outcomes, word):
    assert contracts.cell([Verdict(outcome, ["A-01"]) for outcome in outcomes]) == word


def test_verdicts_are_kept_by_kernel_and_driver(cache):
    Results("7.3.4", "default", "dmirror", {"one": Verdict(FAILED, ["A-01"]), "two": Verdict(PASSED, ["A-01"])}).add()
    Results("6.12.1", "default", "dmirror", {"one": Verdict(PASSED, ["A-01"])}).add()
    Results("7.3.4", "default", "test_hmm", {"one": Verdict(SKIPPED, ["A-01"], "cannot")}).add()
    Results("7.3.4", "default", "dmirror", {"one": Verdict(PASSED, ["A-01"])}).add()
    assert [run.name for run in kept()] == ["6.12.1", "7.3.4", "7.3.4 test_hmm"]
    assert kept()[1].tests == {"one": Verdict(PASSED, ["A-01"]), "two": Verdict(PASSED, ["A-01"])}


def test_the_table_says_what_each_run_said(cache):
    Results("7.3.4", "default", "dmirror", {"one": Verdict(DEFECT, ["A-01"], "the kernel <spins>")}).add()
    Results("6.1.2", "default", "dmirror", {"one": Verdict(SKIPPED, ["A-01"], "needs a kernel >=7.2")}).add()
    runs = kept()
    rows = contracts.table(SECTIONS, TESTS, runs)
    text = contracts.text(rows, runs)
    assert re.search(r"^A-01 +no +n/a +defect$", text, re.MULTILINE)
    assert re.search(r"^A-02 +yes +- +-$", text, re.MULTILINE)
    assert "7.3.4: 1 known defect, 1 not run" in text
    page = contracts.html(rows, runs)
    assert "the kernel &lt;spins&gt;" in page and "too &lt;b&gt;" in page and "nothing shows it" in page
    assert page.count('<td class="verdict known">known defect') == 1


def test_a_known_defect_is_in_the_findings(cache):
    Results("7.3.4", "default", "dmirror", {"one": Verdict(DEFECT, ["A-01"])}).add()
    rows = contracts.table(SECTIONS, TESTS, kept())
    assert ["A-01" in line for line in contracts.unlisted(rows, kept())] == [
        "A-01" not in contracts.FINDINGS.read_text()
    ]


def test_every_finding_has_a_short_program():
    findings = contracts.FINDINGS.read_text()
    programs = sorted((ROOT / "docs" / "findings").glob("*.py"))
    assert programs
    for program in programs:
        assert f"(findings/{program.name})" in findings
        assert len(program.read_text().splitlines()) <= 30
