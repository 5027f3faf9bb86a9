# SPDX-License-Identifier: GPL-2.0
"""A cache of its own for every host test, and the miniature trees that several of them build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmirror.paths import ROOT, cache

# The user's own, before the tests get one each. It is read, for a kernel that has been built, and never written to.
USERS_CACHE = cache()

# What kbuild does, as far as the harness sees it: configures from KCONFIG_ALLCONFIG, says what it does in
# kbuild's way, and leaves the files that a build leaves. Each run is noted in O=/runs.
_MAKEFILE = """\
VERSION = 7
PATCHLEVEL = 3
SUBLEVEL = 4
EXTRAVERSION =

allnoconfig:
	@echo allnoconfig >>$(O)/runs
	@grep -v -x -f $(CURDIR)/refused $(KCONFIG_ALLCONFIG) >$(O)/.config || true
olddefconfig:
	@:
bzImage: $(O)/arch/x86/boot/bzImage
$(O)/arch/x86/boot/bzImage: $(CURDIR)/mm/hmm.c
	@echo "  CC      mm/hmm.o"
	@echo bzImage >>$(O)/runs
	@mkdir -p $(O)/arch/x86/boot $(O)/include/config $(O)/include/generated
	@gcc -c -o $(O)/hmm.o $<
	@$(SLOWLY)
	@cp $< $@
	@echo 7.3.4 >$(O)/include/config/kernel.release
modules:
	@echo "  LD [M]  lib/test_hmm.ko"
	@printf '0x00000000\\t_printk\\tvmlinux\\tEXPORT_SYMBOL\\t\\n' >$(O)/Module.symvers
"""

_KCONFIG = """\
config EXPERT
	bool "Expert"

menu "Memory"
	depends on MMU

config ZONE_DEVICE
	bool "Device memory"
	depends on MEMORY_HOTPLUG && (SPARSEMEM || FLATMEM)
	help
		config NOT_AN_OPTION is only a word in here.

		depends on NOTHING

if ZONE_DEVICE
source "mm/Kconfig"
endif

endmenu

config HMM_MIRROR
	bool
	depends on MMU

config TUNED
	bool "Tuned" if EXPERT
	default y
	depends on !PREEMPT_RT
	depends on BIG if SMALL

config NET_9P
	tristate "9P"

config 9P_FS
	tristate "Plan 9"
	depends on INET && NET_9P
"""

_MM_KCONFIG = """\
config DEVICE_PRIVATE
	bool "Private device memory"
	depends on NR_CPUS >= 2 && \\
		!ODD
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that only this test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DMIRROR_CACHE", str(folder))
    return folder


@pytest.fixture
def guest_cache(cache_folder: Path) -> Path:
    """The same, with what a guest needs and the user's has already."""
    cache_folder.mkdir()
    for name in ("accelerator.json", "uapi"):
        there = USERS_CACHE / name
        if there.is_dir():
            shutil.copytree(there, cache_folder / name)
        elif there.exists():
            shutil.copy(there, cache_folder)
    (cache_folder / "python").mkdir()
    for image in (USERS_CACHE / "python").glob("*.squashfs"):
        (cache_folder / "python" / image.name).symlink_to(image)
    return cache_folder


@pytest.fixture(autouse=True, scope="session")
def _the_users_cache_has_no_run_of_a_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    folder = os.fspath(tmp_path_factory.getbasetemp())
    assert not [file for file in USERS_CACHE.glob("runs/*/guest.json") if folder in file.read_text()]


def use_our_settings(folder: Path) -> None:
    """Have pytest run there as it does in this project: what its settings forbid is forbidden there, too."""
    shutil.copy(ROOT / "pyproject.toml", folder)


@pytest.fixture(autouse=True)
def _our_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pytester" in request.fixturenames:
        use_our_settings(request.getfixturevalue("pytester").path)
        # A session of its own, also where this one is a worker's.
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A miniature kernel tree, which make can configure and build in no time."""
    top = tmp_path / "linux"
    for folder in ("mm", "include", "scripts", "arch/x86"):
        (top / folder).mkdir(parents=True)
    (top / "Makefile").write_text(_MAKEFILE)
    (top / "Kbuild").write_text("")
    (top / "Kconfig").write_text(_KCONFIG)
    (top / "mm/Kconfig").write_text(_MM_KCONFIG)
    (top / "mm/hmm.c").write_text("int hmm;\n")
    (top / "refused").write_text("CONFIG_NONE_SUCH=y\n")
    return top


@pytest.fixture
def git_tree(tree: Path) -> Path:
    """The same, under git."""
    (tree / ".gitignore").write_text("*.o\n")
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "first")
    return tree


def git(tree: Path, *arguments: str) -> None:
    """Run git there, under a name of its own."""
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", *who, "-C", str(tree), *arguments], check=True)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """A shell's background job begins with SIGINT ignored and would pass that on to what the tests interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
