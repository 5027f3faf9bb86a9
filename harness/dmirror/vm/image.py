# SPDX-License-Identifier: GPL-2.0
"""A disk image of the Python installation, so that a guest imports from a disk and not over 9p."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from dmirror.errors import CannotRun
from dmirror.paths import cache

_KEPT = 3


@dataclass(frozen=True)
class PythonImage:
    file: Path
    paths: tuple[Path, ...]  # absolute, symbolic links resolved: where the image's parts stand on the host and belong


def python_image() -> PythonImage | None:
    """The image of this interpreter, its standard library and its site-packages; made when one of their files
    changed.

    None without mksquashfs: the guest then imports over 9p, which works and is slow.
    The dmirror package itself, installed in place, is not in it, so that an edit is seen by the next guest.

    Raises CannotRun when mksquashfs fails (a full disk, mostly).
    """
    mksquashfs = shutil.which("mksquashfs")
    if mksquashfs is None:
        return None
    paths = _parts()
    folder = cache() / "python"
    file = folder / f"{_digest(paths)}.squashfs"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not file.exists():
                _make(mksquashfs, paths, file)
                _forget_old(folder)
    return PythonImage(file, paths)


def _parts() -> tuple[Path, ...]:
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    parts = {stdlib, Path(sys.executable).resolve()}
    parts |= {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    library = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere", sysconfig.get_config_var("INSTSONAME") or "-")
    if library.suffix != ".a" and library.is_file():
        parts.add(library.resolve())
    return tuple(sorted(p for p in parts if not any(q != p and q in p.parents for q in parts)))


def _excluded(paths: tuple[Path, ...]) -> list[Path]:
    """Large parts of a standard library that nothing in a guest imports."""
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    excluded = [stdlib / "test", *stdlib.glob("config-*")]
    if os.fspath(stdlib / "site-packages") not in sys.path and stdlib / "site-packages" not in paths:
        excluded.append(stdlib / "site-packages")
    return excluded


def _digest(paths: tuple[Path, ...]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    excluded = set(map(os.fspath, _excluded(paths)))
    for path in paths:
        stack = [os.fspath(path)]
        while stack:
            top = stack.pop()
            if not os.path.isdir(top):
                stat = os.stat(top)
                digest.update(f"{top} {stat.st_size} {stat.st_mtime_ns}\n".encode())
                continue
            for entry in sorted(os.scandir(top), key=lambda e: e.name):
                if entry.name == "__pycache__" or entry.path in excluded:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    stat = entry.stat(follow_symlinks=False)
                    digest.update(f"{entry.path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _make(mksquashfs: str, paths: tuple[Path, ...], file: Path) -> None:
    _warm()
    half_done = file.with_suffix(f".{os.getpid()}")
    # Uncompressed: the host's page cache holds it anyway, and an emulated processor unpacks slowly. The
    # compressor is named all the same, since the kernel refuses an image of one that it was built without.
    command = [mksquashfs, *(os.fspath(p.relative_to("/")) for p in paths), os.fspath(half_done)]
    command += [
        "-no-strip",
        "-quiet",
        "-no-progress",
        "-noI",
        "-noD",
        "-noF",
        "-noX",
        "-comp",
        "zstd",
        "-all-root",
        "-e",
    ]
    command += map(os.fspath, _excluded(paths))
    made = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode or not half_done.exists():
        half_done.unlink(missing_ok=True)
        reason = (made.stderr or made.stdout).strip().splitlines()
        raise CannotRun(
            f"mksquashfs could not write {file}: {reason[-1] if reason else made.returncode}",
            f"free about 200 MB in {file.parent}",
        )
    half_done.replace(file)


def _warm() -> None:
    """pytest compiles its plugins anew, for their assertions; a guest cannot keep the result and would do it
    every time.

    One run with a worker leaves the compiled files in site-packages. Where it cannot, guests are only slower.
    """
    with TemporaryDirectory(prefix="dmirror-") as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing(): pass\n")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n1",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            folder,
        ]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PYTEST_") and name != "PYTHONDONTWRITEBYTECODE"
        }
        quiet = subprocess.DEVNULL
        subprocess.run(command, cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, check=False)


def _forget_old(folder: Path) -> None:
    images = sorted(folder.glob("*.squashfs"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in images[_KEPT:]:
        old.unlink(missing_ok=True)
