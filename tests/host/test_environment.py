# SPDX-License-Identifier: GPL-2.0
"""Variables of the user's environment that change Python and pytest: each works, or is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmirror import cli, environment
from dmirror.paths import ROOT
from dmirror.vm import command
from dmirror.vm.spec import GuestSpec

SESSION = ["-m", "dmirror.session", "-q", "-p", "no:cacheprovider", "tests/host/test_runs.py"]


def run(arguments: list[str], **variables: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("level", ["1", "2"])
@pytest.mark.parametrize("arguments", [["-m", "dmirror", "check", "tests/scenarios/told_fork.dms"], SESSION])
def test_a_python_without_assertions_is_refused(level: str, arguments: list[str]) -> None:
    status, output, errors = run(arguments, PYTHONOPTIMIZE=level)
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert "leaves out assertions" in errors and "unset PYTHONOPTIMIZE" in errors


def test_so_it_is_by_pytest_alone() -> None:
    status, _, errors = run(["-m", "pytest", *SESSION[2:]], PYTHONOPTIMIZE="1")
    assert status == 2
    assert "Exit: this Python leaves out assertions" in errors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONDEVMODE", "1"),
        ("PYTHONINSPECT", ""),
        ("PYTHONMALLOC", "debug"),
        ("PYTHONSAFEPATH", "1"),
        ("PYTHONWARNINGS", "error"),
        ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"),
    ],
)
def test_with_these_a_session_works(name: str, value: str) -> None:
    status, output, errors = run(SESSION, **{name: value})
    assert (status, errors) == (0, "")
    assert "passed" in output


@pytest.mark.parametrize("arguments", [["-m", "dmirror", "--help"], SESSION])
def test_a_module_that_is_ours_is_not_taken_from_pythonpath(arguments: list[str], tmp_path: Path) -> None:
    for name in ("pytest", "execnet", "ply"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign')")
    status, _, errors = run(arguments, PYTHONPATH=os.fspath(tmp_path))
    assert (status, errors) == (0, "")


def test_a_module_that_is_not_ours_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_user.py").write_text("")
    status, _, errors = run(
        [*SESSION, "-p", "of_the_user"],
        PYTHONPATH=os.fspath(tmp_path),
    )
    assert (status, errors) == (0, "")


def test_a_session_without_the_plugins_that_it_is_made_of_is_refused() -> None:
    for plugin in ("xdist", "dmirror"):
        status, output, errors = run(["-m", "dmirror", "test", "--kernel=9.9"], PYTEST_ADDOPTS=f"-v -p no:{plugin}")
        assert (status, output, len(errors.splitlines())) == (2, "", 1)
        assert f"PYTEST_ADDOPTS has '-p no:{plugin}'" in errors
    options = ["tests/device", "-p", "no:xdist", "--dmirror-kernel=9.9"]
    status, _, errors = run(["-m", "pytest", *options])
    assert status == pytest.ExitCode.USAGE_ERROR
    assert errors.strip() == (
        "ERROR: guests are workers of pytest-xdist: leave out -p no:xdist (PYTEST_ADDOPTS has it, too)"
    )


def test_what_must_not_reach_a_guest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = ["OPTIMIZE", "WARNINGS", "SAFEPATH", "MALLOC", "DEVMODE", "TRACEMALLOC", "INSPECT", "PYCACHEPREFIX"]
    for name in left_out:
        monkeypatch.setenv(f"PYTHON{name}", "1")
    for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_XDIST_WORKER", "LD_PRELOAD", "MALLOC_PERTURB_"):
        monkeypatch.setenv(name, "1")
    passed_on = ["PYTHONPATH", "PYTHONHASHSEED", "PYTEST_ADDOPTS", "LC_ALL", "LANG", "DMIRROR_SEED"]
    for name in passed_on:
        monkeypatch.setenv(name, "C")
    job = command.job_script(GuestSpec(Path("bzImage"), "7.3"), ["true"], tmp_path, interactive=False)
    assert not [name for name in left_out if f"PYTHON{name}=" in job]
    assert not [name for name in ("AUTOLOAD", "XDIST", "LD_PRELOAD", "PERTURB") if name in job]
    assert [name for name in passed_on if f"{name}=C" in job] == passed_on


def test_settled_twice_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment.settle()
    once = os.environ["PYTHONPATH"]
    assert once.endswith(f"{os.pathsep}/somewhere")
    environment.settle()
    assert os.environ["PYTHONPATH"] == once


@pytest.mark.parametrize("verb", [["demo"], ["peer"], ["run", "tests/scenarios/told_fork.dms"]])
def test_a_module_of_ours_imports_nothing_from_the_current_folder(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('foreign')")
    given: list[list[str]] = []
    monkeypatch.setattr(cli, "_prepare", lambda args: None)
    monkeypatch.setattr(cli, "build_peer", lambda kernel: "hmm-tests")
    monkeypatch.setattr(cli, "_in_guest", lambda args, kernel, words, **more: given.append(words) or 0)
    assert cli.main(verb) == 0
    ((python, *words),) = given
    options = words[: words.index("-m")]
    done = subprocess.run([python, *options, "-c", "import json"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
