# SPDX-License-Identifier: GPL-2.0
"""KASLR is given to the kernels that can obey, and by its own option alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import Kernel, kaslr
from dmirror.kernel.tools import Toolchain
from dmirror.vm import command
from dmirror.vm.spec import GuestSpec

BOTH = "CONFIG_RANDOMIZE_BASE=y\nCONFIG_RANDOMIZE_MEMORY=y\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel("7.3.4", "7.3.4", "7.3", "default", tmp_path, tmp_path, tmp_path / "bzImage", "", "", "", Toolchain())


def test_a_kernel_without_it_is_refused_with_what_it_lacks(kernel: Kernel) -> None:
    (kernel.build / ".config").write_text("CONFIG_RANDOMIZE_BASE=y\n# CONFIG_RANDOMIZE_MEMORY is not set\n")
    with pytest.raises(CannotRun, match=r"--kaslr is not for this kernel: .*\.config lacks CONFIG_RANDOMIZE_MEMORY;"):
        kaslr.wanted(kernel, True)
    (kernel.build / ".config").write_text(BOTH)
    assert kaslr.wanted(kernel, True)


def test_nobody_who_does_not_ask_needs_it(kernel: Kernel) -> None:
    assert not kaslr.wanted(dataclasses.replace(kernel, build=kernel.build / "none"), False)


def kernel_words(spec: GuestSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the command line."""
    monkeypatch.setattr(command.accelerator, "choose", lambda image: command.accelerator.Accelerator("kvm", "it works"))
    words = command.virtme_run_command(spec, folder, folder / "qemu", None, {}, interactive=False)
    return [word.removeprefix("--kopt=") for word in words if word.startswith("--kopt=")]


def test_two_boots_are_alike_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = GuestSpec(tmp_path / "bzImage", "7.3.4")
    assert "nokaslr" in kernel_words(spec, tmp_path, monkeypatch)
    assert "nokaslr" not in kernel_words(spec._replace(kaslr=True), tmp_path, monkeypatch)
    with pytest.raises(CannotRun, match=r"APPEND=kaslr .*; give --kaslr"):
        kernel_words(spec._replace(append="quiet kaslr"), tmp_path, monkeypatch)
