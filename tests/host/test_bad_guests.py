# SPDX-License-Identifier: GPL-2.0
"""Real guests that go wrong in every way: each costs one verdict of the right class, and no other test is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import USERS_CACHE, use_our_settings

from dmirror import journal
from dmirror.kernel import prepare
from dmirror.kernel.bad import build_bad
from dmirror.results import FAILED, PASSED

_IMAGES = sorted(USERS_CACHE.glob("kernels/*-default-*/arch/x86/boot/bzImage"), key=lambda path: path.stat().st_mtime)

pytestmark = [
    pytest.mark.skipif(not _IMAGES, reason=f"no kernel is built yet in {USERS_CACHE} (make builds one)"),
    pytest.mark.usefixtures("guest_cache"),
]

CONFTEST = """
import os, signal, time
from pathlib import Path

def pytest_runtest_logstart(nodeid):
    if "DMIRROR_IN_GUEST" in os.environ or "killed_qemu" not in nodeid:
        return
    its = []
    while not its:  # the other guest is left alone, and nothing tells of a longer file
        logs = Path(os.environ["DMIRROR_RUN"]).glob("*/console.log")
        its = [log.parent for log in logs if b"::test_killed_qemu" in log.read_bytes()]
        time.sleep(0.1)
    os.kill(int((its[0] / "qemu.pid").read_text()), signal.SIGKILL)

def pytest_runtest_logfinish(nodeid):
    if "DMIRROR_IN_GUEST" in os.environ and "after_its_end" in nodeid:
        Path("/dev/kmsg").write_text("<4>BUG: Bad rss-counter state mm:1")
"""
TESTS = """
import os, subprocess, time
from pathlib import Path
import pytest

DO = Path("/sys/kernel/debug/dmirror_bad/do")

def bad(word):
    if not DO.exists():
        subprocess.run(["insmod", MODULE], check=True)
    DO.write_text(word)

def put(value, name): Path("/proc/sys/kernel", name).write_text(str(value))

def test_good_0(): pass
def test_warning(): bad("warn")
def test_good_1(): pass
def test_garbage(): bad("garbage")
def test_good_2(): pass
def test_after_its_end(): pass
def test_good_3(): pass
def test_null(): bad("null")
def test_good_4(): pass
def test_sysrq(): Path("/proc/sysrq-trigger").write_text("c")
def test_good_5(): pass
@pytest.mark.limit(15)
def test_soft_lockup():
    put(3, "watchdog_thresh")
    bad("softlockup 100")
def test_good_6(): pass
@pytest.mark.limit(15)
def test_hung_task():
    put(3, "hung_task_timeout_secs")
    bad("hung 100")
def test_good_7(): pass
def test_out_of_memory(): bad("memory")
def test_good_8(): pass
def test_killed_qemu(): time.sleep(50)
def test_good_9(): pass
def test_exit(): os._exit(3)
def test_good_10(): pass
@pytest.mark.limit(4)
def test_too_long(): time.sleep(50)
def test_good_11(): pass
"""
# The cause of each failure, and what is said of it.
BAD = {
    "test_warning": ("kernel", r"dmirror_bad: asked to warn"),
    "test_after_its_end": ("kernel", r"after this test, before the next: Bad rss-counter"),
    "test_null": ("crash", r"panicked: Fatal exception"),
    "test_sysrq": ("crash", r"panicked: sysrq triggered crash"),
    "test_soft_lockup": ("hang", r"no end within 15 s.*soft lockup"),
    "test_hung_task": ("hang", r"no end within 15 s.*blocked .*for more than"),
    "test_out_of_memory": ("crash", r"memory"),
    "test_killed_qemu": ("harness", r"QEMU was ended by SIGKILL"),
    "test_exit": ("crash", r"the interpreter in the guest ended with status 3"),
    "test_too_long": ("timeout", r"no end within 4 s"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    use_our_settings(tmp_path)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    kernel = prepare(kbuild=_IMAGES[-1].parents[3])
    (tmp_path / "test_inner.py").write_text(f"MODULE = {os.fspath(build_bad(kernel))!r}\n{TESTS}")
    return tmp_path


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", f"--dmirror-kbuild={_IMAGES[-1].parents[3]}", "--dmirror-run=run"]
    command += ["--dmirror-driver=none", "--dmirror-guests=2", "--dmirror-memory=1024", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def _pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    """Status, and what was said."""
    with _start(folder, *arguments) as process:
        said, _ = process.communicate(timeout=480)
    return process.returncode, said


def _left(folder: Path) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if os.fspath(folder / "run") in words:
            yield words.replace("\0", " ")[:200]


def test_each_bad_guest_costs_one_verdict_of_its_class(folder: Path) -> None:
    status, said = _pytest(folder, "test_inner.py", "--junitxml=out.xml")
    run = journal.load(folder / "run")
    names = re.findall(r"^def (test_\w+)", TESTS, re.MULTILINE)
    verdicts = {nodeid.partition("::")[2]: verdict for nodeid, verdict in run.tests.items()}
    assert sorted(verdicts) == sorted(names), said
    for name, verdict in verdicts.items():
        if name in BAD:
            cause, text = BAD[name]
            assert (verdict.outcome, verdict.cause) == (FAILED, cause), (name, verdict.text)
            assert re.search(text, verdict.text, re.DOTALL), (name, verdict.text)
        else:
            assert verdict.outcome == PASSED, (name, verdict.text)
    counts = Counter(verdict.outcome for verdict in verdicts.values())
    assert (run.planned, run.ended is not None, status) == (len(names), True, 1), said
    # What came after a test passed is an error of it.
    assert f"{counts[FAILED] - 1} failed, {counts[PASSED] + 1} passed, 1 error" in said
    properties = ET.parse(folder / "out.xml").getroot().iter("property")
    assert {one.get("name"): one.get("value") for one in properties}["release"] == run.subject.release
    # With file and line, and the line itself.
    assert re.search(r"vfs_write\+.*\n +fs/read_write\.c:\d+.*\n +\d+: ", verdicts["test_null"].text)
    assert not list(_left(folder))


def test_what_a_kernel_says_that_stands_elsewhere_is_decoded_all_the_same(folder: Path) -> None:
    status, said = _pytest(folder, "test_inner.py", "--dmirror-kaslr", "--dmirror-guests=1", "-k", "null or good_0")
    assert status == 1, said
    run = journal.load(folder / "run")
    assert run.subject.flavour.endswith("+kaslr")
    (log,) = {verdict.console for verdict in run.tests.values() if verdict.outcome == FAILED}
    moved = re.search(r"Kernel Offset: 0x([0-9a-f]+) from", (folder / "run" / log).read_text(errors="replace"))
    assert moved and int(moved.group(1), 16) != 0, said
    assert re.search(r"vfs_write\+.*\n +fs/read_write\.c:\d+.*\n +\d+: ", said), said


def test_a_guest_that_never_boots_is_said_and_nothing_runs(folder: Path) -> None:
    status, said = _pytest(folder, "test_inner.py", "--dmirror-append=root=nothing rootfstype=ext4")
    assert status == 2
    assert "the guest did not come up" in said
    assert journal.load(folder / "run").tests == {}
    assert not list(_left(folder))


def test_an_interrupted_run_has_its_verdicts_and_goes_on(folder: Path) -> None:
    (folder / "test_inner.py").write_text(
        "import time\nfrom pathlib import Path\n"
        f"def test_one(): pass\ndef test_two(): time.sleep(0 if Path({os.fspath(folder / 'on')!r}).exists() else 50)\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        begun = _begun(folder)
        with _start(folder, "test_inner.py", "--dmirror-guests=1") as process:
            assert process.stdout is not None
            while _begun(folder) == begun:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.1)  # nothing tells of a longer file
            process.send_signal(number)
            process.communicate(timeout=60)
        assert process.returncode == 2
        run = journal.load(folder / "run")
        assert {name.partition("::")[2]: verdict.outcome for name, verdict in run.tests.items()} == {"test_one": PASSED}
        assert (run.planned, run.ended) == (2, None)
        assert not list(_left(folder))
    (folder / "on").touch()
    status, said = _pytest(folder, "test_inner.py")
    assert status == 0, said
    assert "1 passed" in said
    run = journal.load(folder / "run")
    assert len(run.tests) == run.planned == 2
    assert run.ended is not None


def _begun(folder: Path) -> int:
    """How often the second test has begun."""
    return sum(log.read_text(errors="replace").count("::test_two") for log in folder.glob("run/*/console.log"))
