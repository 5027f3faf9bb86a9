# SPDX-License-Identifier: GPL-2.0
"""The plugin on the host: what it refuses, in words, before it boots anything."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dmirror.errors import CannotRun
from dmirror.journal import Journal
from dmirror.kernel import Kernel
from dmirror.kernel.tools import Toolchain
from dmirror.plugin import guests, options
from dmirror.results import PASSED, Verdict
from dmirror.vm.spec import GuestSpec

pytest_plugins = ["pytester"]


def test_without_options_pytest_stays_plain(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "guest" not in result.stdout.str() + result.stderr.str()


@pytest.mark.skipif(options.device_present(), reason="this machine has the device")
def test_device_tests_without_a_device_end_the_session_in_words(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(mirror): pass\ndef test_two(mirror): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret == 2
    said = result.stdout.str() + result.stderr.str()
    assert said.count("no /dev/hmm_dmirror0 here: make test") == 1


def test_collecting_device_tests_needs_no_device(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(mirror): pass")
    assert pytester.runpytest_subprocess("--collect-only", "--dmirror-kernel=7.3").ret == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n2"], "for more guests give --dmirror-guests=N"),
        (["--tx=popen", "--dist=load"], "for more guests give --dmirror-guests=N"),
        (["--pdb"], "make shell"),
        (["absent.py::test"], "file or directory not found: absent.py::test"),
        (["--dmirror-guests=0"], "'0' is not a whole number above 0"),
        (["--dmirror-memory=lots"], "'lots' is not a whole number above 0"),
        (["--dmirror-torture=0"], "'0' is not a whole number above 0"),
        (["--dmirror-seed=-1"], "'-1' is not a whole number"),
        (["--dmirror-driver=other"], "invalid choice: 'other'"),
    ],
)
def test_options_that_cannot_work_are_refused(pytester: pytest.Pytester, arguments: list[str], says: str) -> None:
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_subprocess("--dmirror-kbuild=/nonexistent", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()


def test_a_kernel_that_cannot_be_had_is_status_2_in_one_line(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_subprocess(f"--dmirror-kbuild={tmp_path}/none")
    assert result.ret == 2
    said = result.stdout.str() + result.stderr.str()
    assert said.count(f"KBUILD={tmp_path}/none is not a folder") == 1
    assert "Traceback" not in said


def test_the_contract_of_a_test_goes_into_its_report(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.contract('M-06')\n@pytest.mark.limit(9)\ndef test(): pass")
    result = pytester.runpytest("--strict-markers", "--junitxml=out.xml")
    result.assert_outcomes(passed=1)
    assert '<property name="contract" value="M-06"' in (pytester.path / "out.xml").read_text()


def test_a_test_is_found_by_its_contract(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.contract('Z-02')\ndef test_one(): pass\n"
        "@pytest.mark.contract('Z-04')\ndef test_two(): pass\n"
    )
    pytester.runpytest_inprocess("-k", "Z-02", "--count=3").assert_outcomes(passed=3, deselected=3)


def test_what_guests_collect_is_chosen_by_file_and_function(pytester: pytest.Pytester) -> None:
    one = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_one(n): pass\ndef test_two(): pass"
    pytester.makepyfile(test_first=one, test_second="class TestOf:\n def test_one(self): pass", test_third="x = 1")

    def chosen(*arguments: str) -> list[str]:
        given = SimpleNamespace(args=("-v", *arguments, "--count=3"))
        return guests._Chosen(cast("pytest.Config", SimpleNamespace(invocation_params=given))).tests

    assert chosen("-k", "one") == ["test_first.py::test_one", "test_second.py::TestOf::test_one"]
    assert chosen("test_first.py::test_two") == ["test_first.py::test_two"]
    with pytest.raises(pytest.exit.Exception, match="no tests collected") as ended:
        chosen("-k", "three")
    assert ended.value.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    with pytest.raises(pytest.exit.Exception, match=r"not found: .*test_first\.py::nope") as ended:
        chosen("test_first.py::nope")
    assert ended.value.returncode == pytest.ExitCode.USAGE_ERROR
    pytester.makepyfile(test_fourth="import none_such")
    assert chosen("-k", "one") == []


def test_a_run_goes_on_with_the_build_that_it_began_with(tmp_path: Path) -> None:
    kernel = Kernel(
        "7.3.4", "7.3.4", "7.3", "default", tmp_path, tmp_path, tmp_path / "bzImage", "aa", "bb", "cc", Toolchain()
    )
    spec = GuestSpec(kernel.image, kernel.release)
    began = guests._record(tmp_path, kernel, spec, "dmirror", "tcg")
    with closing(Journal(tmp_path, began.subject)) as kept:
        kept.add("test_one", Verdict(PASSED, []))
    assert list(guests._record(tmp_path, kernel, spec, "dmirror", "kvm").tests) == ["test_one"]
    others = [
        (replace(kernel, identity="dd"), spec, "dmirror"),
        (kernel, spec, "test_hmm"),
        (kernel, spec._replace(kaslr=True), "dmirror"),
    ]
    for other, its_spec, driver in others:
        with pytest.raises(CannotRun, match="another build"):
            guests._record(tmp_path, other, its_spec, driver, "tcg")
