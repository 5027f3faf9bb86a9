# SPDX-License-Identifier: GPL-2.0
"""The accelerator is chosen by what QEMU does with a kernel, and the choice is remembered."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.vm import accelerator

BOOTS = """\
echo '[    0.000000] Linux version 7.3.4'
echo '[    0.812000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'
"""
HANGS = 'echo "qemu-system-x86_64: warning: host doesn\'t support requested feature: x" >&2\nexec sleep 60\n'
ASSERTS = """\
echo "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x0" >&2
echo "qemu: ../kvm.c:3183: kvm_buf_set_msrs: Assertion \\`ret == nmsrs' failed." >&2
exit 134
"""
STOPS = "echo '[    0.000000] Linux version 7.3.4'\nexec sleep 60\n"


class FakeQemu:
    """A qemu-system-x86_64 on PATH that does what `body` says and counts how often it was asked to boot."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"
        self._program = folder / "qemu-system-x86_64"

    def does(self, body: str, *, version: str = "7.2.22") -> None:
        self._program.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo QEMU emulator version {version}; exit; fi\n'
            f"echo >>{self._runs}\n{body}"
        )
        self._program.chmod(0o755)

    @property
    def boots(self) -> int:
        return len(self._runs.read_text()) if self._runs.exists() else 0


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "_KVM", device)
    monkeypatch.setattr(accelerator, "_FIRST_LINE_S", 0.5)
    monkeypatch.setattr(accelerator, "_ROOT_MOUNT_S", 0.8)
    return FakeQemu(folder)


@pytest.mark.parametrize(
    ("body", "name", "reason"),
    [
        pytest.param(BOOTS, "kvm", "a kernel reached its root mount in", id="boots"),
        pytest.param(HANGS, "tcg", "kvm: no output from a kernel within", id="hangs"),
        pytest.param(ASSERTS, "tcg", "kvm: QEMU fails an assertion in kvm_buf_set_msrs", id="asserts"),
        pytest.param(STOPS, "tcg", "did not reach its root mount within", id="stops half-way"),
        pytest.param("echo 'qemu-system-x86_64: -accel kvm: no' >&2; exit 1", "tcg", "-accel kvm: no", id="refuses"),
    ],
)
def test_kvm_is_used_only_if_a_kernel_runs_on_it(qemu: FakeQemu, body: str, name: str, reason: str) -> None:
    qemu.does(body)
    started = time.monotonic()
    chosen = accelerator.choose(Path("bzImage"))
    assert (chosen.name, reason in chosen.reason) == (name, True), chosen
    assert str(chosen).startswith(f"accelerator: {name} (")
    assert time.monotonic() - started < 3


def test_the_choice_is_remembered_until_qemu_changes(qemu: FakeQemu) -> None:
    qemu.does(ASSERTS)
    first = accelerator.choose(Path("bzImage"))
    assert accelerator.choose(Path("another")) == first
    assert qemu.boots == 1
    qemu.does(BOOTS, version="10.0.0")
    assert accelerator.choose(Path("bzImage")).name == "kvm"
    assert qemu.boots == 2


def test_a_damaged_memory_costs_one_more_try(qemu: FakeQemu, cache_folder: Path) -> None:
    cache_folder.mkdir()
    (cache_folder / "accelerator.json").write_text('{"x": [')
    qemu.does(BOOTS)
    assert accelerator.choose(Path("bzImage")).name == "kvm"


def test_without_the_device_nothing_is_tried(qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_KVM", tmp_path / "none")
    qemu.does(BOOTS)
    assert accelerator.choose(Path("bzImage")).name == "tcg"
    assert qemu.boots == 0


def test_no_qemu_is_said_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match=r"apt-get install .* qemu-system-x86"):
        accelerator.choose(Path("bzImage"))


@pytest.mark.parametrize(
    ("said", "khz"),
    [
        ("flags\t\t: fpu tsc constant_tsc\nbogomips\t: 5192.24\ncpu MHz\t\t: 2596.122\n", 2596120),
        ("flags\t\t: fpu tsc constant_tsc\nbogomips\t: 5192.24\ncpu MHz\t\t: 3891.500\n", 2596120),
        ("flags\t\t: fpu tsc constant_tsc\nbogomips\t: 2596.12\ncpu MHz\t\t: 2596.122\n", None),
        ("flags\t\t: fpu tsc\nbogomips\t: 5192.24\ncpu MHz\t\t: 2596.122\n", None),
        ("Features\t: fp asimd\nBogoMIPS\t: 50.00\n", None),
    ],
    ids=["usual", "clocked up", "gVisor", "varying", "arm64"],
)
def test_the_host_says_how_fast_its_counter_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, khz: int | None
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(said)
    monkeypatch.setattr(accelerator, "_CPUINFO", file)
    assert accelerator.tsc_khz() == khz
