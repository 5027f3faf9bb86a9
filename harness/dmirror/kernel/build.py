# SPDX-License-Identifier: GPL-2.0
"""Builds a source's image and modules for a flavour, once: cached by source, config and compiler."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import config, disk, flavours, locks, make, progress, tools
from dmirror.kernel.config import Option
from dmirror.kernel.kconfig import Kconfig
from dmirror.kernel.source import Source, files
from dmirror.paths import cache

_IMAGE = "arch/x86/boot/bzImage"
_STAMP = ".dmirror.json"
_PAST = ".dmirror-past.json"  # the stamp of the build that this one replaces
_STEPS = 1850  # of a default build of 7.3: the estimate until a build has been counted here
_BUILD_MIB = 400  # measured: 265 MB without debug information
_DWARF_MIB = 2500


@dataclass(frozen=True)
class Kernel:
    """A built kernel, ready to boot and to build modules for."""

    label: str  # "7.3.4", for people
    release: str  # what uname -r will say in the guest
    series: str  # "7.3"
    flavour: str  # "default"
    source: Path  # the source tree, read only to us
    build: Path  # the O= folder: .config, Module.symvers, vmlinux
    image: Path  # bzImage
    identity: str  # hex digest of the source, or of the image where somebody else built it
    config: str  # hex digest of the options
    key: str  # hex digest that names source, config and compiler
    toolchain: tools.Toolchain  # modules need the same
    slowdown: float = 1.0  # by which time limits are multiplied


@dataclass(frozen=True)
class _Stamp:
    """Written last: a folder that has one holds a complete build of just this."""

    identity: str
    config: str
    compiler: str
    label: str
    release: str
    steps: int
    started_ns: int


def build(source: Source, flavour: str, wanted: Sequence[Option], toolchain: tools.Toolchain, *, name: str) -> Kernel:
    """The kernel of that source with these options, built now unless the cache has it; `name` is that of its flavour
    and what was changed of it.

    Raises CannotRun for a missing tool, an option that did not take, a failed build or a full disk.
    """
    compiler = toolchain.identity()
    variables = (*flavours.variables(flavour), *toolchain.words)
    request = _digest(source.place, config.request_digest(wanted), compiler, *variables)
    folder = cache() / "kernels" / f"{source.series}-{flavour}-{request[:12]}"
    stamp = _complete(folder, source)
    if stamp is None:
        with locks.exclusive(folder, f"building {source.label} {flavour}"), disk.watched(folder):
            stamp = _complete(folder, source) or _build(source, flavour, wanted, toolchain, folder)
    return Kernel(
        label=source.label,
        release=stamp.release,
        series=source.series,
        flavour=name,
        source=source.tree,
        build=folder,
        image=folder / _IMAGE,
        identity=stamp.identity,
        config=stamp.config,
        key=_digest(stamp.identity, stamp.config, stamp.compiler, *toolchain.words),
        toolchain=toolchain,
        slowdown=flavours.slowdown(config.read_config(folder / ".config")),
    )


def use(folder: Path, toolchain: tools.Toolchain) -> Kernel:
    """A kernel that somebody else built (KBUILD=), as it is, once its .config has been checked.

    Raises CannotRun when it is no complete build, its source cannot be found, or an option is not as needed.
    """
    folder = folder.expanduser().resolve()
    name = f"KBUILD={folder}"
    mend = f"build it: make -C {folder} bzImage modules"
    if not folder.is_dir():
        raise CannotRun(f"{name} is not a folder", "give the O= folder of a kernel build")
    for part in (".config", _IMAGE, "include/config/kernel.release", "Module.symvers"):
        if not (folder / part).exists():
            raise CannotRun(f"{name} is not a built kernel: it has no {part}", mend)
    given = config.read_config(folder / ".config")
    config.check_built(given, where=f"{name}/.config")
    if "CC_IS_CLANG" in given and not toolchain.is_chosen:  # modules need what the kernel was built with
        clang = "LLVM=1" if "LD_IS_LLD" in given else "CC=clang"
        toolchain = tools.Toolchain((clang, *toolchain.words))
    tree = source_of(folder)
    release = (folder / "include/config/kernel.release").read_text().strip()
    status = (folder / _IMAGE).stat()
    image = f"{status.st_size} {status.st_mtime_ns}"
    symvers = hashlib.sha256((folder / "Module.symvers").read_bytes()).hexdigest()
    options = config.digest(folder / ".config")
    return Kernel(
        label=release,
        release=release,
        series=".".join(release.split("-")[0].split(".")[:2]),
        flavour="given",
        source=tree,
        build=folder,
        image=folder / _IMAGE,
        identity=_digest(image, symvers),
        config=options,
        key=_digest(str(folder), image, symvers, options, toolchain.identity(), *toolchain.words),
        toolchain=toolchain,
        slowdown=flavours.slowdown(given),
    )


def _build(source: Source, flavour: str, wanted: Sequence[Option], toolchain: tools.Toolchain, folder: Path) -> _Stamp:
    toolchain.check()
    started_ns = _now_ns(folder)
    _discard_if_stale(source, folder)
    dwarf = any(option.name.startswith("DEBUG_INFO_DWARF") for option in wanted)
    if not (folder / "vmlinux").exists():
        disk.need(folder, _DWARF_MIB if dwarf else _BUILD_MIB, f"building {source.label} {flavour}")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _STAMP).exists():
        (folder / _STAMP).replace(folder / _PAST)

    arguments = ["-C", str(source.tree), f"O={folder}", *toolchain.words]
    compile_with, environment = toolchain.cached(cache() / "ccache")
    what = f"{source.label} {flavour}"
    with progress.step(f"configuring {what}"):
        _configure(source, wanted, folder, arguments, what)
    with progress.bar(f"building {what}", total=_expected_steps(flavour)) as bar:
        steps = make.run(
            [*arguments, make.jobs(), *compile_with, *flavours.variables(flavour), "bzImage", "modules"],
            what=f"building {what}",
            log=folder / "build.log",
            bar=bar,
            environment=environment,
        )

    stamp = _Stamp(
        identity=source.identity,
        config=config.digest(folder / ".config"),
        compiler=toolchain.identity(),
        label=source.label,
        release=(folder / "include/config/kernel.release").read_text().strip(),
        steps=steps,
        started_ns=started_ns,
    )
    fresh = folder / f"{_STAMP}.tmp"
    fresh.write_text(json.dumps(stamp.__dict__, indent=1) + "\n")
    fresh.replace(folder / _STAMP)
    (folder / _PAST).unlink(missing_ok=True)
    return stamp


def _configure(source: Source, wanted: Sequence[Option], folder: Path, arguments: list[str], what: str) -> None:
    kconfig = Kconfig(source.tree)
    counting = [option for option in wanted if option.counts(kconfig)]
    fragment = folder / "dmirror.config"
    fragment.write_text("".join(option.line() + "\n" for option in counting))
    make.run(
        [*arguments, "allnoconfig", "olddefconfig"],
        what=f"configuring {what}",
        log=folder / "config.log",
        environment={"KCONFIG_ALLCONFIG": str(fragment)},
    )
    config.verify(counting, config.read_config(folder / ".config"), kconfig)


def _complete(folder: Path, source: Source) -> _Stamp | None:
    """The stamp of a build that is whole, of this very source, and whose .config nobody has changed since."""
    stamp = _read_stamp(folder)
    if stamp is None or stamp.identity != source.identity or not (folder / _IMAGE).exists():
        return None
    return stamp if config.digest(folder / ".config") == stamp.config else None


def _read_stamp(folder: Path, name: str = _STAMP) -> _Stamp | None:
    try:
        return _Stamp(**json.loads((folder / name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _discard_if_stale(source: Source, folder: Path) -> None:
    """Make trusts modification times: where a file came in with an old one (rsync -t, tar), start over."""
    stamp = _read_stamp(folder) or _read_stamp(folder, _PAST)
    if stamp is None or stamp.identity == source.identity:
        return
    for _, status in files(source.tree):
        if status.st_mtime_ns < stamp.started_ns < status.st_ctime_ns:
            shutil.rmtree(folder)
            return


def _now_ns(folder: Path) -> int:
    """The file system's own time, which is what the times of source files are compared with."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".dmirror-started"
    probe.write_text("")
    probe.touch()
    return probe.stat().st_mtime_ns


def _expected_steps(flavour: str) -> int:
    """As many steps as a build of that flavour took: the longest one, since a resumed one is shorter."""
    stamps = (_read_stamp(path.parent) for path in (cache() / "kernels").glob(f"*-{flavour}-*/{_STAMP}"))
    return max((stamp.steps for stamp in stamps if stamp), default=_STEPS)


def source_of(folder: Path) -> Path:
    """The tree of an O= folder: its `source` link, the Makefile that kbuild put there, or itself."""
    candidates = [folder / "source"]
    makefile = folder / "Makefile"
    if makefile.exists():
        lines = makefile.read_text(errors="replace").splitlines()
        candidates += [
            Path(line.removeprefix("include ").strip()).parent for line in lines if line.startswith("include /")
        ]
    candidates.append(folder)
    for candidate in candidates:
        if (candidate / "Kconfig").exists() and (candidate / "mm").is_dir():
            return candidate.resolve()
    raise CannotRun(
        f"the source tree of KBUILD={folder} is not where it was when it was built",
        f"link it: ln -s <the tree> {folder}/source",
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
