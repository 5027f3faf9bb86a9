# SPDX-License-Identifier: GPL-2.0
"""Real guests: a test that panics one and a test that hangs one cost their own verdicts and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import USERS_CACHE, use_our_settings

from dmirror.journal import load
from dmirror.results import FAILED, PASSED


def _built_kernels() -> list[Path]:
    images = USERS_CACHE.glob("kernels/*/arch/x86/boot/bzImage")
    builds = [image.parents[3] for image in images]
    return sorted(build for build in builds if (build / "Module.symvers").exists())


pytestmark = [
    pytest.mark.skipif(not _built_kernels(), reason=f"no kernel is built yet in {USERS_CACHE} (make builds one)"),
    pytest.mark.usefixtures("guest_cache"),
]

TESTS = """
import os, signal, subprocess
import pytest

def test_first(): assert os.environ["DMIRROR_IN_GUEST"]
def test_second(tmp_path): (tmp_path / "x").write_text("x")

def test_panics():
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("c")

def test_third(): pass

@pytest.mark.limit(5)
def test_hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    while True:
        pass

def test_fourth(): pass

def test_complains():
    with open("/dev/kmsg", "w") as file:
        file.write("<4>WARNING: CPU: 0 PID: 1 at mm/hmm.c:1 hmm_range_fault+0x1/0x2")

def test_fifth(): pass

@pytest.mark.needs(kernel=">=999")
def test_skipped(): pass

def test_reads_only():
    with pytest.raises(OSError, match="Read-only"):
        open(os.path.join(FOLDER, "written"), "w")

def test_set_up():
    lines = {line.split()[1]: line.split()[2] for line in open("/proc/mounts")}
    assert lines["/tmp"] == lines["/dev/shm"] == "tmpfs"
    assert lines["/sys/kernel/debug"] == "debugfs"
    assert "memory" in open("/sys/fs/cgroup/cgroup.subtree_control").read()
    assert "[madvise]" in open("/sys/kernel/mm/transparent_hugepage/enabled").read()
    assert int(open("/proc/sys/vm/nr_hugepages").read()) == 64
    assert "dmirror.test=1" in open("/proc/cmdline").read()
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
"""
FAILING = {"test_panics": "crash: the guest's kernel panicked: sysrq triggered crash"}
FAILING |= {"test_hangs": "hang: no end within 5 s", "test_complains": "WARNING: CPU: 0 PID: 1 at mm/hmm.c:1"}


def _ours(run: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if run in words:
            yield words.replace("\0", " ")[:200]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A session in that folder, in a guest."""
    use_our_settings(folder)
    command = [sys.executable, "-m", "pytest", f"--dmirror-kbuild={_built_kernels()[-1]}", *arguments]
    command += ["--dmirror-driver=none", "--dmirror-append=dmirror.test=1", "--dmirror-guests=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_panic_and_a_hang_cost_one_verdict_each(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(TESTS.replace("FOLDER", repr(os.fspath(tmp_path))))
    ran = _run(tmp_path, "test_inner.py", "--junitxml=out.xml")
    said = ran.stdout + ran.stderr
    cases = list(ET.parse(tmp_path / "out.xml").getroot().iter("testcase"))
    names = [case.get("name", "").rpartition(".")[2] for case in cases]
    expected = [line.split("(")[0][4:] for line in TESTS.splitlines() if line.startswith("def test_")]
    assert sorted(names) == sorted(expected), said
    for case, name in zip(cases, names, strict=True):
        failures = case.findall("failure") + case.findall("error")
        if name in FAILING:
            (failure,) = failures
            assert FAILING[name] in f"{failure.get('message')} {failure.text}", said
        else:
            assert failures == [], said
    assert ran.returncode == 1
    assert "3 failed, 7 passed, 1 skipped" in said
    assert said.count("replacing crashed worker") == 2
    # The dead guests' last words.
    assert "sysrq: Trigger a crash" in said
    assert "in test_hangs" in said
    consoles = said.split("consoles in ")[1].split("\n")[0]
    assert not list(_ours(consoles))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (
            ["test_inner.py::test_two"],
            pytest.ExitCode.USAGE_ERROR,
            "ERROR: not found: {folder}/test_inner.py::test_two",
        ),
        (["test_inner.py", "-k", "typo"], pytest.ExitCode.NO_TESTS_COLLECTED, "no tests collected (1 deselected)"),
    ],
)
def test_a_test_that_is_not_there_is_named(tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    (tmp_path / "test_inner.py").write_text("def test_one(): pass\n")
    ran = _run(tmp_path, *arguments)
    assert says.format(folder=tmp_path) in ran.stdout
    assert ran.returncode == status


def test_a_file_that_cannot_be_imported_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text("def test_one(): pass\n")
    (tmp_path / "test_other.py").write_text("import no_such_module\n")
    ran = _run(tmp_path, ".", "-k", "one")
    assert "No module named 'no_such_module'" in ran.stdout
    assert ran.returncode not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)


LAST = """
def test_first(): pass
def test_last(record_property):
    record_property("drift_ns", -3_000_000_000)
    assert FINE
"""
HOOK = """
import os
def pytest_runtest_logreport(report):
    if "DMIRROR_IN_GUEST" in os.environ and "test_last" in report.nodeid:
        raise ValueError("of a hook")
"""


def test_a_hook_that_raises_in_the_last_test_fails_it(tmp_path: Path, guest_cache: Path) -> None:
    """xdist prints INTERNALERROR and ends with 0."""
    (tmp_path / "test_inner.py").write_text(LAST.replace("FINE", "True"))
    (tmp_path / "conftest.py").write_text(HOOK)
    ran = _run(tmp_path, "test_inner.py")
    assert ran.returncode == 1, ran.stdout
    assert "harness: pytest in the guest ended by an error: ValueError: of a hook" in ran.stdout
    assert "1 failed, 1 passed" in ran.stdout
    (file,) = guest_cache.glob("runs/*/journal.jsonl")
    outcomes = {test.partition("::")[2]: verdict.outcome for test, verdict in load(file.parent).tests.items()}
    assert outcomes == {"test_first": PASSED, "test_last": FAILED}


@pytest.mark.parametrize("fine", [True, False])
def test_what_a_test_records_does_not_end_its_guest(tmp_path: Path, fine: bool) -> None:
    (tmp_path / "test_inner.py").write_text(LAST.replace("FINE", str(fine)))
    ran = _run(tmp_path, "test_inner.py")
    assert ran.returncode == (not fine), ran.stdout
    assert ("2 passed" if fine else "1 failed, 1 passed") in ran.stdout
