# SPDX-License-Identifier: GPL-2.0
"""Building the driver: only what changed is compiled, nothing stale is used, a misfit is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import build_module, module
from dmirror.kernel.build import Kernel
from dmirror.kernel.tools import Toolchain
from dmirror.paths import QEMU

# The part of kbuild that a module needs: each object by its own command, then the module.
_KBUILD = """\
objects := $(patsubst $(M)/%.c,$(M)/%.o,$(wildcard $(M)/*.c))
modules: $(M)/dmirror.ko
$(M)/dmirror.ko: $(objects)
	@ld -r -o $@ $^
$(M)/%.o: $(M)/%.c
	@echo "  CC [M]  $@"
	@echo $(notdir $@) >>$(M)/compiled
	@gcc -Wall -c -o $@ $<
"""

_CORE = """\
static const char a[] __attribute__((section(".modinfo"), used)) = "license=GPL";
static const char b[] __attribute__((section(".modinfo"), used)) = "vermagic=7.3.4 SMP mod_unload ";
void _printk(void);
void start(void) { _printk(); }
"""


@pytest.fixture
def kmod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver of two files."""
    folder = tmp_path / "kmod"
    (folder / "uapi").mkdir(parents=True)
    (folder / "Makefile").write_text('all:\n\t@$(MAKE) -C "$(KDIR)" M="$(CURDIR)" modules\n')
    (folder / "Kbuild").write_text("obj-m := dmirror.o\n")
    (folder / "core.c").write_text(_CORE)
    (folder / "fault.c").write_text("int fault;\n")
    (folder / "uapi/dmirror.h").write_text("\n")
    monkeypatch.setattr(module, "KMOD", folder)
    return folder


@pytest.fixture
def kernel(tmp_path: Path, tree: Path) -> Kernel:
    """What a built kernel leaves for the modules of others."""
    folder = tmp_path / "build"
    folder.mkdir()
    required = (QEMU / "config/required.config").read_text().splitlines()
    options = [line.split("#")[0].strip() for line in required if line.startswith("CONFIG_")]
    (folder / ".config").write_text("\n".join([*options, "CONFIG_MODULE_UNLOAD=y", ""]))
    (folder / "Makefile").write_text(_KBUILD)
    (folder / "Module.symvers").write_text("0x00000000\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n")
    return Kernel(
        "7.3.4", "7.3.4", "7.3", "default", tree, folder, folder / "bzImage", "", "", "0123456789abcdef", Toolchain()
    )


def _compiled(path: Path) -> list[str]:
    """What was compiled since the last call."""
    note = path.parents[1] / "work/compiled"
    names = note.read_text().split() if note.exists() else []
    note.unlink(missing_ok=True)
    return sorted(names)


def test_the_driver_is_built_in_the_cache(kmod: Path, kernel: Kernel, cache_folder: Path) -> None:
    before = sorted(kmod.rglob("*"))
    path = build_module(kernel)
    assert path.name == "dmirror.ko"
    assert path.is_relative_to(cache_folder / "modules" / kernel.key[:12])
    assert path.read_bytes().startswith(b"\x7fELF")
    assert sorted(kmod.rglob("*")) == before


def test_an_edited_line_compiles_one_file(kmod: Path, kernel: Kernel) -> None:
    first = build_module(kernel)
    assert _compiled(first) == ["core.o", "fault.o"]
    (kmod / "fault.c").write_text("int faults;\n")
    second = build_module(kernel)
    assert second != first
    assert _compiled(second) == ["fault.o"]


def test_what_is_built_is_not_built_again(kmod: Path, kernel: Kernel) -> None:
    first = build_module(kernel)
    _compiled(first)
    os.utime(kmod / "core.c")
    assert build_module(kernel) == first
    assert _compiled(first) == []


def test_each_kernel_has_its_own(kmod: Path, kernel: Kernel) -> None:
    assert build_module(kernel) != build_module(replace(kernel, key="fedcba9876543210"))


def test_a_file_that_was_taken_out_is_not_compiled_any_more(kmod: Path, kernel: Kernel) -> None:
    (kmod / "broken.c").write_text("not C\n")
    with pytest.raises(CannotRun):
        build_module(kernel)
    (kmod / "broken.c").unlink()
    assert build_module(kernel).exists()


def test_the_compilers_error_is_told(kmod: Path, kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    (kmod / "fault.c").write_text("int fault = missing;\n")
    with pytest.raises(CannotRun, match=r"building dmirror\.ko for 7\.3\.4 failed: .*fault\.c:1:13: error: .*missing"):
        build_module(kernel)
    assert "fault.c:1:13" in capsys.readouterr().err


def test_a_warning_is_shown(kmod: Path, kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    (kmod / "fault.c").write_text("static int unused;\n")
    build_module(kernel)
    assert "fault.c:1:12: warning:" in capsys.readouterr().err


def test_a_driver_that_the_kernel_would_refuse_is_not_kept(kmod: Path, kernel: Kernel, cache_folder: Path) -> None:
    (kernel.build / "Module.symvers").write_text("")
    with pytest.raises(CannotRun, match=r"dmirror\.ko needs _printk"):
        build_module(kernel)
    assert not list(cache_folder.glob("modules/*/*/dmirror.ko")) or [
        path.parent.name for path in cache_folder.glob("modules/*/*/dmirror.ko")
    ] == ["work"]


def test_a_kernel_without_what_the_driver_needs_is_refused_before_compiling(kmod: Path, kernel: Kernel) -> None:
    path = kernel.build / ".config"
    path.write_text(path.read_text().replace("CONFIG_DEVICE_PRIVATE=y\n", ""))
    with pytest.raises(CannotRun, match=r"CONFIG_DEVICE_PRIVATE=n, y is needed by the driver"):
        build_module(kernel)


def test_what_a_build_in_place_left_is_no_source(kmod: Path) -> None:
    for name in ("dmirror.mod.c", "core.o", ".core.o.cmd", "compat/probes.h", "dmirror.ko"):
        (kmod / name).parent.mkdir(exist_ok=True)
        (kmod / name).write_text("")
    (kmod / "compat/compat.h").write_text("")
    names = {str(name) for name in module.driver_sources(kmod)}
    assert names == {"Makefile", "Kbuild", "core.c", "fault.c", "uapi/dmirror.h", "compat/compat.h"}


def test_unchanged_files_keep_their_time(tmp_path: Path) -> None:
    work = tmp_path / "work"
    sources = {Path("a.c"): b"1", Path("sub/b.c"): b"2"}
    assert module.sync(sources, work) == [Path("a.c"), Path("sub/b.c")]
    os.utime(work / "a.c", (1, 1))
    (work / "a.o").write_text("ours to keep")
    assert module.sync({Path("a.c"): b"1"}, work) == [Path("sub/b.c")]
    assert (work / "a.c").stat().st_mtime == 1
    assert sorted(path.name for path in work.rglob("*") if path.is_file()) == [".synced", "a.c", "a.o"]
