# SPDX-License-Identifier: GPL-2.0
"""Builds the driver for a kernel: incremental, cached by kernel and driver sources, checked before use."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import config, disk, locks, make, progress
from dmirror.kernel.build import Kernel
from dmirror.paths import KMOD, cache

_SUFFIXES = (".c", ".h", ".sh")
_NAMES = ("Kbuild", "Makefile")
_PROBED = Path("compat/probes.h")
_SYNCED = ".synced"


def driver_module(kernel: Kernel, driver: str) -> Path:
    """The module of a driver: our own, built if it is not yet, or one that the tree keeps in lib/, such as test_hmm.

    Raises CannotRun when ours cannot be built, or when the kernel was built without the tree's.
    """
    if driver == "dmirror":
        return build_module(kernel)
    module = kernel.build / "lib" / f"{driver}.ko"
    if not module.exists():
        raise CannotRun(f"no {module}", f"build the kernel with CONFIG_{driver.upper()}=m")
    return module


def build_module(kernel: Kernel) -> Path:
    """dmirror.ko for that kernel, checked against it; the cache's when the driver's sources have not changed.

    Only files that differ are copied to the work folder, so an edited line compiles one file again.
    Raises CannotRun with the compiler's first error, or with what the kernel lacks.
    """

    def build(work: Path, what: str) -> None:
        where = kernel.build / ".config"
        config.check_built(config.read_config(where), where=where, who="driver")
        log = work / "build.log"
        where_to = ["-C", str(work), f"KDIR={kernel.build}", *kernel.toolchain.words, make.jobs()]
        make.run(where_to, what=what, log=log)
        for line in log.read_text(errors="replace").splitlines():
            if "warning:" in line:
                progress.say(line)
        preflight(work / "dmirror.ko", kernel)

    return cached(kernel, "dmirror", driver_sources(KMOD), build)


def cached(
    kernel: Kernel, name: str, sources: dict[Path, bytes], build: Callable[[Path, str], None], *, prefix: str = ""
) -> Path:
    """NAME.ko for that kernel; the cache's when its sources have not changed. `prefix` is that of its folders there.

    `build` makes it in the work folder that it is given, which holds the sources, and is told what to call that.
    """
    folder = cache() / "modules" / kernel.key[:12]
    module = folder / f"{prefix}{_digest(sources)[:12]}" / f"{name}.ko"
    if not module.exists():
        what = f"building {name}.ko for {kernel.label}"
        with locks.exclusive(folder, what), disk.watched(folder):
            if not module.exists():
                work = folder / f"{prefix}work"
                kernel.toolchain.check()
                sync(sources, work)
                with progress.step(what):
                    build(work, what)
                module.parent.mkdir(exist_ok=True)
                fresh = module.with_suffix(".tmp")
                shutil.copyfile(work / module.name, fresh)
                fresh.replace(module)
    return module


def driver_sources(kmod: Path) -> dict[Path, bytes]:
    """The driver's own files by relative path; what a build in place left there is not one of them."""
    found = {}
    for path in sorted(kmod.rglob("*")):
        name = path.relative_to(kmod)
        generated = path.name.endswith(".mod.c") or path.name.startswith(".") or name == Path("compat/probes.h")
        if path.is_file() and not generated and (path.suffix in _SUFFIXES or path.name in _NAMES):
            found[name] = path.read_bytes()
    return found


def sync(sources: dict[Path, bytes], work: Path) -> list[Path]:
    """Make `work` hold these files and none of an earlier sync, and return those that changed."""
    changed = []
    listing = work / _SYNCED
    before = {Path(name) for name in listing.read_text().split("\0")} if listing.exists() else set()
    work.mkdir(parents=True, exist_ok=True)
    listing.write_text("\0".join(str(name) for name in {*before, *sources}))
    for name in before - sources.keys():
        (work / name).unlink(missing_ok=True)
        changed.append(name)
    for name, content in sources.items():
        path = work / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            changed.append(name)
    listing.write_text("\0".join(str(name) for name in sources))
    return changed


def preflight(module: Path, kernel: Kernel) -> None:
    """Raise CannotRun, in words, unless that kernel would load the module and has what the driver needs."""
    options = config.read_config(kernel.build / ".config")
    config.check_built(options, where=kernel.build / ".config", who="driver")
    sibling = kernel.build / "lib/test_hmm.ko"
    from dmirror.kernel import elf  # noqa: PLC0415  (elftools, and most runs have a module that was checked)

    elf.check(
        module,
        release=kernel.release,
        config=options,
        symvers=kernel.build / "Module.symvers",
        sibling=sibling if sibling.exists() else None,
    )


def _digest(sources: dict[Path, bytes]) -> str:
    seen = hashlib.sha256()
    for name, content in sources.items():
        seen.update(f"{name}\0{len(content)}\0".encode() + content)
    return seen.hexdigest()
