# SPDX-License-Identifier: GPL-2.0
"""A test has its verdict when it is over, and one that has none fails: whatever ends a worker, and whenever. The
workers are processes of the host, without guests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dmirror import journal
from dmirror.results import FAILED, PASSED
from dmirror.trial import ALL_SKIPPED

pytest_plugins = ["pytester"]

# What a session in guests registers, but for the guests.
CONFTEST = """
import os, pytest
from pathlib import Path
from dmirror.journal import Run, Subject

worker = "PYTEST_XDIST_WORKER" in os.environ

def pytest_configure(config):
    if worker:
        from dmirror.plugin.transport import Transport
        config.pluginmanager.register(Transport())
        return
    from dmirror.plugin.guests import Guests
    from dmirror.plugin.record import Recorder
    folder = Path("run").absolute()
    folder.mkdir()
    subject = Subject(*"kernel release source config flavour driver harness accelerator".split())
    config.pluginmanager.register(Guests(config, folder, [], 1.0, None))
    config.pluginmanager.register(Recorder(Run(folder, subject, 0.0)))

"""

TESTS = """
import os, pytest

@pytest.fixture
def torn():
    yield
    {teardown}

def test_first(): pass
def test_last(torn, record_property):
    {body}
"""


def hook(name: str, statement: str) -> str:
    """Of the worker."""
    return f"def pytest_{name}():\n    if worker:\n        {statement}\n"


def of_last(name: str, statement: str) -> str:
    """A hook of the worker that is called with a report of the last test."""
    return f"def pytest_{name}(report):\n    if worker and 'test_last' in report.nodeid:\n        {statement}\n"


WORKER = (f"--tx=popen//python={sys.executable}", "--dist=load", "-p", "no:cacheprovider")
RAISE = "raise ValueError('of a hook')"
DIE = "os._exit(0)"


@pytest.mark.parametrize(
    ("conftest", "body", "teardown", "reason"),
    [
        ("", DIE, "", "harness: "),
        ("", "", DIE, "harness: "),
        ("", "pytest.exit('enough', returncode=3)", "", "harness: .*its session ended with status 3"),
        ("", "pytest.exit('enough')", "", "harness: .*its session ended with status 2"),
        (of_last("runtest_logreport", RAISE), "", "", "harness: .* error: .*ValueError: of a hook"),
        (of_last("runtest_logreport", "if report.when == 'teardown': " + RAISE), "", "", "ValueError: of a hook"),
        (of_last("runtest_logreport", "if report.when == 'teardown': " + DIE), "", "", "harness: "),
        (of_last("report_to_serializable", RAISE), "assert False", "", "harness: .* error: .*ValueError: of a hook"),
        (hook("sessionfinish", RAISE), "", "", "after the test had ended"),
        (hook("sessionfinish", "raise SystemExit(3)"), "", "", "after the test had ended"),
        (hook("sessionfinish", DIE), "", "", "after the test had ended"),
        (
            "def pytest_runtest_protocol(item):\n    return True if worker and 'last' in item.name else None\n",
            "",
            "",
            "nothing came back",
        ),
    ],
    ids=[
        "dies",
        "dies-in-teardown",
        "exits",
        "exits-without-a-status",
        "raises",
        "raises-at-the-last-report",
        "dies-at-the-last-report",
        "raises-while-sending",
        "raises-at-the-end",
        "exits-at-the-end",
        "dies-at-the-end",
        "runs-without-a-report",
    ],
)
def test_what_ends_a_worker_fails_the_test_that_ran(
    pytester: pytest.Pytester, conftest: str, body: str, teardown: str, reason: str
) -> None:
    pytester.makeconftest(CONFTEST + conftest)
    pytester.makepyfile(test_it=TESTS.format(body=body or "pass", teardown=teardown or "pass"))
    result = pytester.runpytest_subprocess(*WORKER, "--dmirror-limit=30")
    said = result.stdout.str()
    assert result.ret in (1, 2), said  # 2: the worker that followed ended the same way
    run = journal.load(pytester.path / "run")
    verdicts = {nodeid.partition("::")[2]: verdict for nodeid, verdict in run.tests.items()}
    assert verdicts.keys() == {"test_first", "test_last"}, said
    assert run.planned == 2
    assert verdicts["test_first"].outcome == PASSED
    assert verdicts["test_last"].outcome == FAILED, said
    assert verdicts["test_last"].cause == "harness"
    result.stdout.re_match_lines([f".*{reason}.*"])
    assert "Traceback (most recent call last):\n  File" not in result.stderr.str()


def test_what_the_host_cannot_go_on_with_leaves_no_verdict(pytester: pytest.Pytester) -> None:
    """An error of the controller itself: the run is cut off, and says of which test."""
    raises = of_last("runtest_logreport", f"if report.when == 'call': {RAISE}").replace("worker", "not worker")
    pytester.makeconftest(CONFTEST + raises)
    pytester.makepyfile(test_it=TESTS.format(body="pass", teardown="pass"))
    result = pytester.runpytest_subprocess(*WORKER)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    run = journal.load(pytester.path / "run")
    assert [nodeid.partition("::")[2] for nodeid in run.tests] == ["test_first"]
    assert run.ended is None
    kept = (Path(os.environ["DMIRROR_CACHE"]) / "results").glob("*.json")
    assert not any("test_last" in file.read_text() for file in kept)


def session(pytester: pytest.Pytester, *options: str, **files: str) -> tuple[int, journal.Run, str]:
    """Its status, its record, and what it said."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(**files)
    result = pytester.runpytest_subprocess(*WORKER, *options)
    return int(result.ret), journal.load(pytester.path / "run"), result.stdout.str()


def test_a_file_that_cannot_be_collected_has_a_verdict_and_is_not_skipped(pytester: pytest.Pytester) -> None:
    skips = "import pytest\ndef test_skips(): pytest.skip('a')\n"
    status, run, said = session(pytester, "--dmirror-fail-on-empty", test_bad="import none_such", test_it=skips)
    assert status == pytest.ExitCode.TESTS_FAILED, said
    assert "nothing was tested" not in said
    (bad,) = [verdict for test, verdict in run.tests.items() if "::" not in test]
    assert (bad.outcome, bad.cause) == (FAILED, "harness")
    assert "No module named 'none_such'" in bad.text


def test_a_run_that_goes_on_with_other_tests_plans_them_too(pytester: pytest.Pytester) -> None:
    status, run, _ = session(pytester, test_it="def test_a(): pass\ndef test_b(): pass\n")
    assert (status, run.planned, run.ended is not None) == (0, 2, True)
    again = CONFTEST.replace("folder.mkdir()", "").replace("Run(folder, subject, 0.0)", "load(folder)")
    pytester.makeconftest(again.replace("import Run, Subject", "import load, Subject"))
    pytester.makepyfile(test_it="def test_c(): raise KeyboardInterrupt\ndef test_d(): pass\n")
    pytester.runpytest_subprocess(*WORKER, "-x")
    run = journal.load(pytester.path / "run")
    assert run.planned == 4
    assert run.ended is None


def test_a_test_that_is_only_set_up_has_not_passed(pytester: pytest.Pytester) -> None:
    status, run, _ = session(pytester, "--setup-only", test_it="def test_a(): pass\n")
    assert status != 0
    assert [verdict.outcome for verdict in run.tests.values()] == [FAILED]


def test_a_session_without_a_test_is_no_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it="def test_a(): pass\n")
    result = pytester.runpytest_subprocess(*WORKER, "-k", "typo")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (pytester.path / "run" / journal.NAME).exists()


@pytest.mark.parametrize(
    "value",
    [
        "-3_000_000_000",
        "object()",
        "{1: -2**40}",
        "3.5",
        "'text'",
        "2**70",
        "chr(0xd800)",
        "type('S', (str,), {})('s')",
    ],
)
def test_whatever_a_test_records_reaches_the_host(pytester: pytest.Pytester, value: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS.format(body=f"record_property('drift_ns', {value})", teardown="pass"))
    result = pytester.runpytest_subprocess(*WORKER, "--junitxml=out.xml")
    assert result.ret == 0, result.stdout.str()
    assert 'name="drift_ns"' in (pytester.path / "out.xml").read_text()


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--dmirror-fail-on-empty"], ALL_SKIPPED)])
@pytest.mark.parametrize("other", ["pytest.skip('b')", "pass"])
def test_a_run_that_skips_everything_says_that_it_tested_nothing(
    pytester: pytest.Pytester, options: list[str], status: int, other: str
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=f"import pytest\ndef test_a(): pytest.skip('a')\ndef test_b(): {other}\n")
    result = pytester.runpytest_subprocess(*WORKER, *options)
    empty = other != "pass"
    assert result.ret == (status if empty else 0)
    assert ("nothing was tested: all of 2 were skipped" in result.stdout.str()) == empty
