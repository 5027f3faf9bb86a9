# SPDX-License-Identifier: GPL-2.0
"""The table contract by kernel: the catalogue of tests/contracts.toml, the tests that name its ids, their verdicts."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from dmirror.errors import CannotRun
from dmirror.paths import GUEST_TESTS, ROOT
from dmirror.results import DEFECT, FAILED, PASSED, Results, Verdict

CATALOGUE = ROOT / "tests" / "contracts.toml"
PAGE = ROOT / "docs" / "contracts.md"
FINDINGS = ROOT / "docs" / "findings.md"

PASS, FAIL, KNOWN, NONE, NOT_RUN = "pass", "fail", "known defect", "not applicable", "-"


@dataclass(frozen=True)
class Contract:
    """A row of the catalogue. `upstream`: whether the kernel's own suite would notice: "yes", "part" or "no"."""

    id: str
    text: str
    upstream: str
    untested: str = ""  # why there is no test
    left_out: str = ""  # what of it no test asks, and why


@dataclass(frozen=True)
class Section:
    """Contracts of one theme."""

    number: int
    title: str
    contracts: tuple[Contract, ...]


@dataclass(frozen=True)
class Row:
    """One contract: what says so on each kernel, and why where it does not hold or apply."""

    contract: Contract
    tests: list[str]
    cells: list[str]
    reasons: list[str]


def catalogue() -> list[Section]:
    """The contracts, by section."""
    with CATALOGUE.open("rb") as file:
        words = tomllib.load(file)
    return [
        Section(
            section["number"],
            section["title"],
            tuple(Contract(name, **fields) for name, fields in section["contracts"].items()),
        )
        for section in words["section"]
    ]


def collected() -> dict[str, list[str]]:
    """The tests of each id, by file and function. Raises CannotRun where they cannot be collected."""
    command = [sys.executable, "-m", "pytest", *GUEST_TESTS, "--collect-only", "-qq", "--dmirror-list-contracts"]
    command += ["-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        raise CannotRun("the device tests cannot be collected", f"try {' '.join(command[1:6])}:\n{listed.stdout}")
    tests: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        if line.startswith("contract "):
            _, name, nodeid = line.split(" ", 2)
            function = nodeid.partition("[")[0].removeprefix("tests/")
            if function not in tests.setdefault(name, []):
                tests[name].append(function)
    return tests


def missing(sections: Iterable[Section], tests: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with the catalogue, a sentence each: ids without a test, with both, or unknown."""
    known = {contract.id: contract for section in sections for contract in section.contracts}
    for name, contract in known.items():
        if name not in tests and not contract.untested:
            yield f"{name} has no test: mark one contract({name!r}), or say in {CATALOGUE.name} why it is untested"
        if name in tests and contract.untested:
            yield f"{name} is untested in {CATALOGUE.name}, but {tests[name][0]} tests it"
        if name not in tests and contract.left_out:
            yield f"{name} has no test, so all of it is left out: say untested in {CATALOGUE.name}, not left_out"
        if contract.upstream not in ("yes", "part", "no"):
            yield f"{name}: upstream = {contract.upstream!r} is not yes, part or no"
    for name in tests.keys() - known.keys():
        if not name.startswith("D-"):  # defects of the kernel's own driver have ids of their own
            yield f"{name} is not in {CATALOGUE.name}, but {tests[name][0]} tests it"


def unlisted(rows: Iterable[tuple[Section, list[Row]]], runs: list[Results]) -> Iterator[str]:
    """Known defects of which docs/findings.md does not speak, a sentence each."""
    findings = FINDINGS.read_text()
    for _, of_section in rows:
        for row in of_section:
            kernels = [run.name for run, word in zip(runs, row.cells, strict=True) if word == KNOWN]
            if kernels and row.contract.id not in findings:
                yield f"{row.contract.id} is a known defect of {', '.join(kernels)} that docs/findings.md does not list"


def cell(verdicts: list[Verdict]) -> str:
    """What several tests say of one contract on one kernel."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if not verdicts:
        return NOT_RUN
    for outcome, word in ((FAILED, FAIL), (DEFECT, KNOWN), (PASSED, PASS)):
        if outcome in outcomes:
            return word
    return NONE


def table(
    sections: Iterable[Section], tests: dict[str, list[str]], runs: list[Results]
) -> list[tuple[Section, list[Row]]]:
    """A row for each contract, a cell for each run."""
    by_run = [run.of_contracts() for run in runs]
    return [
        (
            section,
            [
                Row(
                    contract,
                    tests.get(contract.id, []),
                    [cell(verdicts.get(contract.id, [])) for verdicts in by_run],
                    _reasons(contract, runs, [verdicts.get(contract.id, []) for verdicts in by_run]),
                )
                for contract in section.contracts
            ],
        )
        for section in sections
    ]


def _reasons(contract: Contract, runs: list[Results], verdicts: list[list[Verdict]]) -> list[str]:
    said: dict[str, list[str]] = {}
    for run, of_run in zip(runs, verdicts, strict=True):
        for verdict in of_run:
            if verdict.outcome == DEFECT or cell(of_run) == NONE:
                names = said.setdefault(verdict.reason, [])
                if run.name not in names:
                    names.append(run.name)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in said.items()]
    return [*filter(None, (contract.untested, contract.left_out)), *reasons]


def markdown(sections: list[Section], tests: dict[str, list[str]]) -> str:
    """docs/contracts.md: which tests pin down which contract. It does not depend on what has run."""
    files = {name: Counter(test.partition("::")[0] for test in of_one) for name, of_one in tests.items()}
    return _template("contracts.md.j2").render(sections=sections, files=files)


def html(rows: list[tuple[Section, list[Row]]], runs: list[Results]) -> str:
    """The table as a page that stands alone."""
    return _template("contracts.html.j2").render(table=rows, runs=runs, count=_count(rows))


def text(rows: list[tuple[Section, list[Row]]], runs: list[Results]) -> str:
    """The table for a terminal, with a line of sums for each run."""
    words = {PASS: "pass", FAIL: "FAIL", KNOWN: "defect", NONE: "n/a", NOT_RUN: "-"}
    heads = [run.name for run in runs]
    widths = [max(len(head), 6) for head in heads]
    lines = ["contract  upstream  " + "  ".join(map(str.ljust, heads, widths))]
    for _, of_section in rows:
        for row in of_section:
            cells = "  ".join(words[word].ljust(width) for word, width in zip(row.cells, widths, strict=True))
            lines.append(f"{row.contract.id:<10}{row.contract.upstream:<10}{cells}".rstrip())
    for head, count in zip(heads, _count(rows), strict=True):
        sums = ", ".join(f"{number} {word}" for word, number in count.items() if number)
        lines.append(f"{head}: {sums}")
    return "\n".join(lines)


def _count(rows: list[tuple[Section, list[Row]]]) -> list[dict[str, int]]:
    columns = zip(*(row.cells for _, of_section in rows for row in of_section), strict=True)
    return [
        {("not run" if word == NOT_RUN else word): column.count(word) for word in (PASS, FAIL, KNOWN, NONE, NOT_RUN)}
        for column in columns
    ]


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    source = resources.files("dmirror").joinpath("templates", name).read_text()
    return environment.from_string(source)


def write(file: Path, content: str) -> None:
    """Replace a file whole. Raises CannotRun where it cannot be written."""
    try:
        file.write_text(content)
    except OSError as error:
        raise CannotRun(f"cannot write {file}: {error.strerror}", "name a file in a folder that is there") from error
