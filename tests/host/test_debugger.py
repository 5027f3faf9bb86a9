# SPDX-License-Identifier: GPL-2.0
"""Which guest gdb and the log are of, and what gdb is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dmirror import cli
from dmirror.errors import CannotRun
from dmirror.paths import cache
from dmirror.vm import console, debugger, symbols
from dmirror.vm.command import PID, SECTIONS, STUB, TEXT
from dmirror.vm.spec import DESCRIPTION, GuestSpec


def guest(where: str, *, started: int = 1) -> Path:
    """The folder of a guest that was started then."""
    folder = cache() / where
    folder.mkdir(parents=True)
    image = cache() / "kernels/7.3/arch/x86/boot/bzImage"
    (folder / DESCRIPTION).write_text(GuestSpec(image, "7.3.4", modules=("/m/some-mod.ko spm=1",)).to_json())
    (folder / f"{SECTIONS}some-mod").write_text(".text:0xffffffffa0000000\n.data:0xffffffffa0200000\n.symtab:0x1\n")
    for name in (PID, STUB, console.LOG):
        (folder / name).write_text("[    1.5] up\n")
        os.utime(folder / name, (started, started))
    return folder


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of guests that run."""
    folders: list[Path] = []
    monkeypatch.setattr(debugger, "is_running", folders.__contains__)
    monkeypatch.setattr(debugger.shutil, "which", lambda name: f"/usr/bin/{name}")
    return folders


def test_gdb_has_the_symbols_of_kernel_and_module_and_the_stub(running: list[Path]) -> None:
    folder = guest("runs/one")
    running.append(folder)
    words = debugger.command(None, ["-batch"])
    assert words[:3] == ["gdb", "-q", str(cache() / "kernels/7.3/vmlinux")]
    assert "add-symbol-file /m/some-mod.ko -s .text 0xffffffffa0000000 -s .data 0xffffffffa0200000" in words
    assert words[-2:] == [f"target remote {folder / STUB}", "-batch"]


_SYMBOLS = """
.section .text
.globl _text
_text: ret
"""


def test_gdb_is_told_by_how_much_the_kernel_has_moved(running: list[Path]) -> None:
    folder = guest("runs/one")
    running.append(folder)
    spec = GuestSpec.from_json((folder / DESCRIPTION).read_text())._replace(kaslr=True)
    (folder / DESCRIPTION).write_text(spec.to_json())
    vmlinux = cache() / "kernels/7.3/vmlinux"
    vmlinux.parent.mkdir(parents=True)
    command = ["gcc", "-x", "assembler", "-nostdlib", "-static", "-Wl,-Ttext=0x1000000", "-Wl,-e,_text", "-", "-o"]
    subprocess.run([*command, vmlinux], input=_SYMBOLS, text=True, check=True)
    with pytest.raises(CannotRun, match="has not come up yet"):
        debugger.command(None, [])
    (folder / TEXT).write_text("0000000003a00000 T _text\n")
    assert f"symbol-file {vmlinux} -o 0x2a00000" in debugger.command(None, [])


def test_it_is_the_last_guest_that_runs_wherever_runs_are_kept(running: list[Path]) -> None:
    old, last, ended = guest("runs/a/guest-1"), guest("matrix/b/7.3/guest-2", started=2), guest("runs/c", started=3)
    running += [old, last]
    assert str(last / STUB) in debugger.command(None, [])[-1]
    with pytest.raises(CannotRun, match=f"no guest runs in {ended}; start one"):
        debugger.command(ended, [])


def test_without_a_guest_a_module_or_gdb_it_says_what_to_do(
    running: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotRun, match="no guest runs; start one: make shell"):
        debugger.command(None, [])
    folder = guest("runs/one")
    running.append(folder)
    (folder / f"{SECTIONS}some-mod").write_text("")
    with pytest.raises(CannotRun, match="not loaded some-mod yet"):
        debugger.command(None, [])
    monkeypatch.setattr(debugger.shutil, "which", lambda name: None)
    with pytest.raises(CannotRun, match=r"apt-get install .* gdb"):
        debugger.command(None, [])


def test_the_log_is_the_last_guests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["log"]) == 2
    assert "no guest has run yet; boot one: make" in capsys.readouterr().err
    guest("runs/a")
    last = guest("series/k/runs/01/guest-4", started=2)
    (last / console.LOG).write_text("[    2.5] \x1b[1mlast\x1b[0m\n")
    monkeypatch.setattr(symbols, "source_of", lambda build: build)
    assert cli.main(["log"]) == 0
    assert capsys.readouterr().out == "[    2.5] last\n"
    assert cli.main(["log", "--folder", str(cache())]) == 2
