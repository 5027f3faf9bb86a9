# SPDX-License-Identifier: GPL-2.0
"""Builds, with a miniature tree and a real make: cached, incremental, resumable, and never two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import build, config, disk, make, prepare, progress, tools
from dmirror.kernel.build import Kernel

_PREPARE = """
import sys
from pathlib import Path
from dmirror.kernel import prepare
print(prepare(kdir=Path(sys.argv[1])).key)
"""


@pytest.fixture(autouse=True)
def fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fragments that the miniature tree can meet."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "base.config").write_text("CONFIG_EXPERT=y\nCONFIG_INET=y  # only if 9P_FS depends on INET\n")
    (folder / "debug.config").write_text("CONFIG_TUNED=y\n")
    original = config.options
    monkeypatch.setattr(config, "options", lambda flavour, given=(): original(flavour, folder, given=given))
    return folder


def _build(tree: Path, flavour: str = "default") -> Kernel:
    return prepare(kdir=tree, flavour=flavour)


def _runs(kernel: Kernel) -> list[str]:
    return (kernel.build / "runs").read_text().split()


def test_a_tree_is_built_beside_it(tree: Path, cache_folder: Path) -> None:
    before = sorted(tree.rglob("*"))
    kernel = _build(tree)
    assert (kernel.label, kernel.release, kernel.series, kernel.flavour) == (
        "7.3.4",
        "7.3.4",
        "7.3",
        "default",
    )
    assert kernel.source == tree
    assert kernel.build.parent == cache_folder / "kernels"
    assert kernel.image.read_text() == "int hmm;\n"
    assert config.read_config(kernel.build / ".config") == {"EXPERT": "y", "INET": "y"}
    assert sorted(tree.rglob("*")) == before


def test_what_is_built_is_not_built_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _build(tree)
    monkeypatch.setattr(make, "run", None)
    assert _build(tree) == first


def test_an_edited_tree_is_rebuilt_in_its_folder_under_another_key(tree: Path) -> None:
    first = _build(tree)
    (tree / "mm/hmm.c").write_text("int patched;\n")
    second = _build(tree)
    assert second.build == first.build
    assert second.key != first.key
    assert second.image.read_text() == "int patched;\n"


def test_a_file_that_came_in_with_an_old_time_is_not_missed(tree: Path) -> None:
    _build(tree)
    (tree / "mm/hmm.c").write_text("int older;\n")
    os.utime(tree / "mm/hmm.c", (1, 1))
    assert _build(tree).image.read_text() == "int older;\n"


def test_flavours_are_built_apart(tree: Path) -> None:
    default, debug = _build(tree), _build(tree, "debug")
    assert default.build != debug.build
    assert default.key != debug.key
    assert "TUNED" in config.read_config(debug.build / ".config")


def test_another_compiler_is_another_build(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _build(tree)
    monkeypatch.setattr(tools.Toolchain, "identity", lambda toolchain: "gcc of next year")
    second = _build(tree)
    assert (first.build, first.key) != (second.build, second.key)


def test_an_option_that_did_not_take_ends_the_build(tree: Path, cache_folder: Path) -> None:
    (tree / "refused").write_text("CONFIG_INET=y\n")
    with pytest.raises(CannotRun, match=r"base\.config:2: CONFIG_INET=y did not take.*no option INET"):
        _build(tree)
    assert not list(cache_folder.glob("kernels/*/.dmirror.json"))


def test_a_config_that_somebody_changed_is_made_again(tree: Path) -> None:
    kernel = _build(tree)
    (kernel.build / ".config").write_text("CONFIG_EXPERT=y\n")
    _build(tree)
    assert config.read_config(kernel.build / ".config") == {"EXPERT": "y", "INET": "y"}


def test_a_failed_build_tells_the_compilers_error_and_goes_on_once_mended(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "mm/hmm.c").write_text("int hmm\n")
    with pytest.raises(CannotRun, match=r"building 7\.3\.4 default failed: .*mm/hmm\.c:\d.* error: .*build\.log"):
        _build(tree)
    assert "mm/hmm.c" in capsys.readouterr().err
    (tree / "mm/hmm.c").write_text("int hmm;\n")
    assert _build(tree).image.exists()


def test_an_interrupted_build_leaves_no_process_and_resumes(tree: Path, cache_folder: Path) -> None:
    slow = "sleep 31.4159"
    makefile = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(f"SLOWLY = {slow}\n{makefile}")
    run = subprocess.Popen([sys.executable, "-c", _PREPARE, str(tree)], stderr=subprocess.PIPE)
    try:
        _until(lambda: _processes(slow))
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=10)
    finally:
        run.kill()
        run.wait()
    assert run.returncode != 0
    _until(lambda: not _processes(slow))
    assert not list(cache_folder.glob("kernels/*/.dmirror.json"))
    (tree / "Makefile").write_text(makefile)
    assert _build(tree).image.exists()


def test_a_killed_run_takes_make_with_it(tree: Path) -> None:
    slow = "sleep 27.1828"
    (tree / "Makefile").write_text(f"SLOWLY = {slow}\n{(tree / 'Makefile').read_text()}")
    run = subprocess.Popen([sys.executable, "-c", _PREPARE, str(tree)], stderr=subprocess.DEVNULL)
    _until(lambda: _processes(slow))
    run.kill()
    run.wait()
    _until(lambda: not _processes(slow))


def test_of_two_runs_at_once_the_second_waits_and_builds_nothing(tree: Path, cache_folder: Path) -> None:
    (tree / "Makefile").write_text(f"SLOWLY = sleep 2\n{(tree / 'Makefile').read_text()}")
    command = [sys.executable, "-c", _PREPARE, str(tree)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    outcomes = [run.communicate(timeout=30) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outcomes[0][0] == outcomes[1][0]
    assert sum("waiting for another run that is building 7.3.4" in said for _, said in outcomes) == 1
    (made,) = cache_folder.glob("kernels/*/runs")
    assert made.read_text().split() == ["allnoconfig", "bzImage"]


def test_a_disk_that_fills_up_is_one_clear_line(tree: Path) -> None:
    says = "echo 'cc1: error: writing to /x.s: No space left on device'; false"
    (tree / "Makefile").write_text(f"SLOWLY = {says}\n{(tree / 'Makefile').read_text()}")
    with pytest.raises(CannotRun, match=r"the disk of .* is full; .*DMIRROR_CACHE"):
        _build(tree)


def test_too_little_room_is_said_before_anything_is_done(tmp_path: Path) -> None:
    disk.need(tmp_path / "not/there/yet", 1, "a build")
    with pytest.raises(CannotRun, match=r"a build needs 999999999 MiB .* \d+ MiB are free; .*DMIRROR_CACHE"):
        disk.need(tmp_path, 999999999, "a build")


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("make", "ld", "objcopy", "bc", "perl", "gzip", "bison"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match=r"gcc, flex not found; apt-get install .* gcc flex$"):
        tools.Toolchain().check()


@pytest.mark.parametrize(
    ("words", "packages"),
    [
        (("LLVM=1",), "clang lld llvm"),
        (("LLVM=-16",), "clang-16 lld-16 llvm-16"),
        (("CC=clang",), "clang"),
        (("CC=gcc-13", "W=1"), "gcc-13"),
        (("LLVM=1", "LD=ld"), "clang llvm"),
    ],
)
def test_a_toolchain_of_choice_is_looked_for_by_its_own_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], packages: str
) -> None:
    for name in ("make", "gcc", "ld", "objcopy", "flex", "bc", "perl", "gzip", "bison"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match=rf"not found; apt-get install [-\w ]* {packages}$"):
        tools.Toolchain(words).check()


@pytest.mark.parametrize("word", ["LLVM", "=1", "O=/tmp", "ARCH=arm64", "a b=1", "CC=", "CC=ccache gcc"])
def test_a_word_that_is_not_for_make_is_refused(word: str) -> None:
    with pytest.raises(CannotRun, match=f"--make {word} "):
        tools.Toolchain((word,))


def test_a_toolchain_of_choice_builds_kernel_and_modules(tree: Path, tmp_path: Path) -> None:
    """Under a name of its own, beside the build that there is."""
    compiler = tmp_path / "my-cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = -v ] && echo mine 3\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    word = f"CC={compiler}"
    usual, own = prepare(kdir=tree), prepare(kdir=tree, words=[word])
    assert own.build != usual.build
    assert own.toolchain.words == (word,)
    assert own.flavour == f"default+{word}"
    assert prepare(kdir=tree, words=[word]) == own
    compiler.write_text(compiler.read_text().replace("mine 3", "mine 4"))
    assert prepare(kdir=tree, words=[word]).key != own.key
    assert prepare(kdir=tree, words=["KCFLAGS=-O1"]).key != usual.key


def test_nothing_that_our_make_was_given_reaches_kbuild(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "KDIR",
        "KBUILD",
        "KERNEL",
        "T",
        "ARCH",
        "KBUILD_OUTPUT",
        "CFLAGS",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("TMPDIR", "/somewhere")
    passed = tools.environment()
    assert "x" not in passed.values()
    assert passed["TMPDIR"] == "/somewhere"


def test_progress_that_is_no_terminal_is_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.bar("building", total=1000) as bar:
        for done in range(1000):
            bar.at(done, "mm/hmm.o")
        later = time.monotonic() + 16
        monkeypatch.setattr(time, "monotonic", lambda: later)
        bar.at(500, "mm/hmm.o")
    said = capsys.readouterr().err.splitlines()
    assert said == ["dmirror: building", "dmirror: building: 50 %, 16 s mm/hmm.o"]


@pytest.fixture
def built(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that somebody else built from the tree, with all that is required."""
    folder = tmp_path / "theirs"
    (folder / "arch/x86/boot").mkdir(parents=True)
    (folder / "include/config").mkdir(parents=True)
    (folder / "arch/x86/boot/bzImage").write_text("image")
    (folder / "include/config/kernel.release").write_text("7.3.4-theirs+\n")
    (folder / "Module.symvers").write_text("")
    (folder / ".config").write_text("CONFIG_EXPERT=y\n")
    (folder / "Makefile").write_text(f"# Automatically generated\nexport KBUILD_OUTPUT = .\ninclude {tree}/Makefile\n")
    return folder


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch, fragments: Path) -> None:
    (fragments / "required.config").write_text("CONFIG_EXPERT=y  # driver: a test\n")
    monkeypatch.setattr(config, "_FRAGMENTS", fragments)


@pytest.mark.usefixtures("lenient")
def test_a_built_tree_is_used_as_it_is(built: Path, tree: Path) -> None:
    before = sorted(built.rglob("*"))
    kernel = prepare(kbuild=built)
    assert (kernel.release, kernel.series, kernel.source) == ("7.3.4-theirs+", "7.3", tree)
    assert kernel.image == built / "arch/x86/boot/bzImage"
    assert sorted(built.rglob("*")) == before
    assert prepare(kbuild=built).key == kernel.key


@pytest.mark.usefixtures("lenient")
def test_a_built_tree_built_again_has_another_key(built: Path) -> None:
    first = prepare(kbuild=built).key
    (built / "arch/x86/boot/bzImage").write_text("another image")
    assert prepare(kbuild=built).key != first


@pytest.mark.usefixtures("lenient")
def test_the_source_of_a_build_is_found_in_place_and_by_its_link(built: Path, tree: Path) -> None:
    (built / "Makefile").unlink()
    with pytest.raises(CannotRun, match=r"source tree of KBUILD=.*ln -s"):
        prepare(kbuild=built)
    (built / "source").symlink_to(tree)
    assert prepare(kbuild=built).source == tree


def test_a_built_tree_without_device_private_is_refused(built: Path) -> None:
    with pytest.raises(CannotRun, match=r"\.config has CONFIG_MODULES=n.*CONFIG_DEVICE_PRIVATE"):
        prepare(kbuild=built)


@pytest.mark.parametrize("part", [".config", "arch/x86/boot/bzImage", "Module.symvers"])
def test_a_tree_that_is_not_built_is_refused_naming_what_is_missing(built: Path, part: str) -> None:
    (built / part).unlink()
    with pytest.raises(CannotRun, match=f"it has no {part}; build it: make -C"):
        prepare(kbuild=built)


def test_two_kernels_at_once_are_refused(tree: Path) -> None:
    with pytest.raises(CannotRun, match=r"KERNEL=7\.3 and KDIR=.* name two kernels"):
        prepare(kernel="7.3", kdir=tree)


def test_the_estimate_of_a_build_is_the_last_one_counted(tree: Path) -> None:
    assert build._expected_steps("default") > 1000
    kernel = _build(tree)
    stamp = json.loads((kernel.build / ".dmirror.json").read_text())
    assert stamp["steps"] == build._expected_steps("default") == 2


def _processes(command: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if words == command:
            found.append(path.parent.name)
    return found


def _until(holds: object, limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
