# SPDX-License-Identifier: GPL-2.0
"""Kernels: where a tree comes from, how it is configured and built, and the modules built for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import build as _build
from dmirror.kernel import catalogue, config, disk, source, tools
from dmirror.kernel.build import Kernel, source_of
from dmirror.kernel.module import build_module, driver_module
from dmirror.kernel.peer import build_peer
from dmirror.paths import cache

__all__ = ["Kernel", "base", "build_module", "build_peer", "driver_module", "prepare", "refresh", "source_of"]


def prepare(
    *,
    kernel: str | None = None,
    kdir: Path | None = None,
    kbuild: Path | None = None,
    flavour: str = "default",
    options: Sequence[str] = (),
    words: Sequence[str] = (),
) -> Kernel:
    """A built kernel: of a known series, of a tree to build, or a build used as it is. Cached.

    `options` are lines of a fragment, such as CONFIG_KSM=n, over those of the flavour; `words` are what make is told
    for kernel and modules, such as LLVM=1.

    Raises CannotRun with what was wrong and the mend. Progress goes to standard error.
    """
    given = {"KERNEL": kernel, "KDIR": kdir, "KBUILD": kbuild}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise CannotRun(f"{' and '.join(named)} name two kernels", "give one of them")
    wanted = config.options(flavour, given=options)  # a wrong name is said before anything is fetched
    toolchain = tools.Toolchain(tuple(words))
    with disk.watched(cache()):
        if kbuild is not None:
            changes = [*([f"FLAVOUR={flavour}"] if flavour != "default" else []), *options]
            if changes:
                raise CannotRun(f"{' '.join(changes)} cannot change KBUILD={kbuild}", "give its tree as KDIR=")
            return _build.use(kbuild, toolchain)
        name = "+".join([flavour, *(line.removeprefix("CONFIG_") for line in options), *words])
        return _build.build(base(kernel=kernel, kdir=kdir, flavour=flavour), flavour, wanted, toolchain, name=name)


def base(*, kernel: str | None = None, kdir: Path | None = None, flavour: str = "default") -> source.Source:
    """A source to work on a copy of: of a known series, or a tree. Raises CannotRun, also for an unknown flavour."""
    if kernel is not None and kdir is not None:
        raise CannotRun(f"KERNEL={kernel} and KDIR={kdir} name two kernels", "give one of them")
    config.options(flavour)
    with disk.watched(cache()):
        return source.given(kdir) if kdir is not None else source.packaged(catalogue.load().find(kernel))


def refresh(kernel: str | None = None) -> str:
    """Look a known kernel up again and fetch it if there is a newer one; its version. Raises CannotRun."""
    with disk.watched(cache()):
        return source.refresh(catalogue.load().find(kernel)).label
