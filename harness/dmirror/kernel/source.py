# SPDX-License-Identifier: GPL-2.0
"""Where a kernel tree comes from: the distribution's source package, or a user's own tree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import apt, disk, locks, progress, tools
from dmirror.kernel.catalogue import KnownKernel
from dmirror.paths import cache

_UNPACK_MIB = 2200  # 1.8 GB of tree, the package, and its parts in flight
_PARTS = ("Makefile", "Kconfig", "Kbuild", "mm", "include", "scripts", "arch/x86")
_TOP = "give the top folder of a kernel tree"
_VERSION = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)\s*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A kernel tree that can be built. It is never written to."""

    tree: Path
    label: str  # "7.3.4", for people
    series: str  # "7.3"
    identity: str  # names every byte of the tree
    place: str  # names the tree across edits, so that an edited tree is rebuilt and not built anew


def packaged(known: KnownKernel) -> Source:
    """The pinned source of a known kernel, fetched and unpacked if there is none yet.

    Raises CannotRun when apt, the network or the disk fails.
    """
    pin = _read_pin(known.series)
    if pin is None:
        with locks.exclusive(_pin(known.series), f"fetching {known.package}"):
            pin = _read_pin(known.series) or _fetch(known)
    return _pinned(known, pin)


def refresh(known: KnownKernel) -> Source:
    """Look a known kernel up again, and fetch it if the suites hold a newer version. Raises CannotRun."""
    with locks.exclusive(_pin(known.series), f"fetching {known.package}"):
        return _pinned(known, _fetch(known))


def given(tree: Path) -> Source:
    """A user's tree, git or not. Raises CannotRun when it is none, or was built in place."""
    tree = tree.expanduser().resolve()
    check_tree(tree, f"KDIR={tree}")
    if (tree / ".config").exists() or (tree / "include/config").exists():
        mend = f"make -C {tree} mrproper"
        if (tree / "Module.symvers").exists() and (tree / "vmlinux").exists():
            mend = f"KBUILD={tree} uses that build as it is, or {mend}"
        raise CannotRun(f"KDIR={tree} was configured in place, kbuild refuses to build it elsewhere", mend)
    with progress.step(f"looking at what {tree} holds"):
        identity = _git_identity(tree) or _files_identity(tree)
    label = version(tree)
    return Source(tree, label, _series(label), identity, place=f"tree:{tree}")


def check_tree(tree: Path, name: str) -> None:
    """Raise CannotRun unless `tree` looks like a kernel tree."""
    if not tree.is_dir():
        raise CannotRun(f"{name} is not a folder", _TOP)
    missing = [part for part in _PARTS if not (tree / part).exists()]
    if missing or not _versions(tree):
        what = missing[0] if missing else "VERSION in its Makefile"
        raise CannotRun(f"{name} is not a kernel tree: it has no {what}", _TOP)


def version(tree: Path) -> str:
    """The version that the tree's Makefile states, such as 7.3.4 or 7.3.0-rc7."""
    found = _versions(tree)
    numbers = [found.get("VERSION", "0"), found.get("PATCHLEVEL", "0")]
    if found.get("SUBLEVEL", "0") != "0" or found.get("EXTRAVERSION"):
        numbers.append(found.get("SUBLEVEL", "0"))
    return ".".join(numbers) + found.get("EXTRAVERSION", "")


def _versions(tree: Path) -> dict[str, str]:
    with (tree / "Makefile").open(errors="replace") as makefile:
        found = dict(_VERSION.findall(makefile.read(2000)))
    return found if found.get("VERSION") else {}


def _series(label: str) -> str:
    return ".".join(label.split(".")[:2])


# -- packages: sources/<series>.json pins the version, sources/<package>_<version>/ is its tree


def _pin(series: str) -> Path:
    return cache() / "sources" / f"{series}.json"


def _read_pin(series: str) -> apt.Package | None:
    try:
        pin = json.loads(_pin(series).read_text())
        package = apt.Package(pin["package"], pin["version"])
    except (OSError, ValueError, KeyError):
        return None
    return package if _tree(package).is_dir() else None


def _tree(package: apt.Package) -> Path:
    return cache() / "sources" / f"{package.name}_{package.version}"


def _pinned(known: KnownKernel, package: apt.Package) -> Source:
    tree = _tree(package)
    identity = f"deb:{package.name}:{package.version}"
    return Source(tree, version(tree), known.series, identity, place=identity)


def _fetch(known: KnownKernel) -> apt.Package:
    uris = apt.system_archives()
    tools.check_unpackers()
    disk.need(cache(), _UNPACK_MIB, f"unpacking {known.package}")
    root = cache() / "apt" / known.series
    try:
        private = apt.PrivateApt(root, apt.sources_list(known.suites, uris))
        package = private.find(known.package, candidates=known.candidate)
        if package is None:
            raise CannotRun(
                f"{', '.join(known.suites)} hold no {known.package}",
                "correct qemu/kernels.toml, or give KDIR=<a kernel tree>",
            )
        if not _tree(package).is_dir():
            with _scratch(cache() / "sources") as scratch:
                deb = private.fetch(package, scratch)
                with progress.step(f"unpacking {package.name} {package.version}"):
                    tree = unpack(deb, package, scratch)
                tree.rename(_tree(package))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    fresh = _pin(known.series).with_suffix(".tmp")
    fresh.write_text(json.dumps({"package": package.name, "version": package.version}) + "\n")
    fresh.replace(_pin(known.series))
    return package


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; what a killed run left behind is removed first."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("unpacking-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=folder, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def unpack(deb: Path, package: apt.Package, scratch: Path) -> Path:
    """Unpack the tarball inside a source package, without a copy of it on disk in between."""
    tree = scratch / "tree"
    tree.mkdir()
    member = f"./usr/src/{package.name}.tar.xz"
    command = (
        'dpkg-deb --fsys-tarfile "$1" | tar --extract --to-stdout --file=- "$2" |'
        ' xz --decompress --stdout -T0 | tar --extract --strip-components=1 --file=- --directory="$3"'
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "unpack", str(deb), member, str(tree)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise disk.full(scratch.parent)
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise CannotRun(f"cannot unpack {package.name} {package.version}: {reason}", "is xz-utils installed?")
    return tree


# -- a user's tree


def _git_identity(tree: Path) -> str | None:
    """HEAD, what differs from it, and untracked files with their content; None when it is no git checkout."""
    head = _git(tree, "rev-parse", "HEAD")
    top = _git(tree, "rev-parse", "--show-toplevel")
    index = _git(tree, "rev-parse", "--path-format=absolute", "--git-path", "index")
    if head is None or top is None or index is None or Path(os.fsdecode(top.strip())).resolve() != tree:
        return None
    seen = hashlib.sha256()
    with tempfile.TemporaryDirectory() as scratch:
        # `git diff` notes in the index which files are unchanged, even when told to leave locks alone.
        copy = Path(scratch) / "index"
        shutil.copyfile(os.fsdecode(index.strip()), copy)
        seen.update(_git(tree, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", index=copy) or b"")
        untracked = _git(tree, "ls-files", "-z", "--others", "--exclude-standard", index=copy) or b""
    for name in sorted(untracked.split(b"\0")):
        path = tree / os.fsdecode(name)
        if name and path.is_file():
            seen.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"git:{head.decode().strip()}:{seen.hexdigest()}"


def _git(tree: Path, *arguments: str, index: Path | None = None) -> bytes | None:
    try:
        done = subprocess.run(
            # A tree of another user: it is only read, and safe.directory guards what would be run.
            ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(tree), *arguments],
            env={**os.environ, "LC_ALL": "C"} | ({"GIT_INDEX_FILE": str(index)} if index else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _files_identity(tree: Path) -> str:
    """Path, size and time of every file: to read a whole tree would take longer than it is worth."""
    seen = hashlib.sha256()
    for path, status in files(tree):
        line = f"{path.relative_to(tree)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        seen.update(line.encode(errors="surrogateescape"))
    return f"files:{seen.hexdigest()}"


def files(tree: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file of a tree, in a fixed order; documentation and version control are no input of a build."""
    for folder, folders, names in os.walk(tree):
        if Path(folder) == tree:
            folders[:] = [name for name in folders if name not in (".git", "Documentation")]
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # an editor's temporary file may go at any time
                yield path, path.lstat()
