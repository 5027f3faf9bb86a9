# SPDX-License-Identifier: GPL-2.0
"""Builds the tree's own hmm-tests, without writing to the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import disk, locks, make, progress, tools
from dmirror.kernel.build import Kernel
from dmirror.paths import cache


def build_peer(kernel: Kernel) -> Path:
    """The tree's hmm-tests binary, in the cache. Raises CannotRun when it does not compile."""
    folder = cache() / "peer" / kernel.key[:12]
    binary = folder / "hmm-tests"
    if not binary.exists():
        with locks.exclusive(folder, f"building hmm-tests of {kernel.label}"), disk.watched(folder):
            if not binary.exists():
                _build(kernel, folder, binary)
    return binary


def _build(kernel: Kernel, folder: Path, binary: Path) -> None:
    tools.Toolchain().check()
    suite = _suite(kernel)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "hmm-tests.tmp"
    with progress.step(f"building hmm-tests of {kernel.label}"):
        flags = _flags(kernel.source, suite, _headers(kernel, folder))
        done = subprocess.run(
            ["gcc", *flags, *_files(suite), "-o", str(fresh), "-lrt", "-lpthread", "-lm"],
            cwd=suite,
            env=tools.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    log = folder / "build.log"
    log.write_text(done.stderr)
    if done.returncode != 0:
        found = make.errors(done.stderr)
        for line in found:
            progress.say(line)
        reason = found[0] if found else "gcc gave no reason"
        raise CannotRun(f"hmm-tests of {kernel.label} does not compile: {reason}", f"the full log is {log}")
    fresh.replace(binary)


def _suite(kernel: Kernel) -> Path:
    selftests = kernel.source / "tools/testing/selftests"
    for name in ("mm", "vm"):  # "vm" before v6.3
        if (selftests / name / "hmm-tests.c").exists():
            return selftests / name
    raise CannotRun(f"{kernel.source} has no hmm-tests.c", "give a complete kernel tree")


def _headers(kernel: Kernel, folder: Path) -> Path:
    """The tree's user-space headers, by a build folder of their own: a KBUILD= is not written to either."""
    if (kernel.source / ".config").exists():  # built in place: kbuild refuses any other folder for it
        present = kernel.source / "usr/include"
        if not (present / "linux/types.h").exists():
            raise CannotRun(f"{kernel.source} has no user-space headers", f"make -C {kernel.source} headers")
        return present
    target, scratch = folder / "usr", folder / "headers"
    where = ["-C", str(kernel.source), f"O={scratch}", f"INSTALL_HDR_PATH={target}"]
    make.run(
        [*where, make.jobs(), "headers_install"],
        what=f"installing the headers of {kernel.label}",
        log=folder.with_name(f"{folder.name}-headers.log"),
    )
    shutil.rmtree(scratch)
    return target / "include"


def _flags(source: Path, suite: Path, headers: Path) -> list[str]:
    """What the suite's own Makefile and lib.mk compile with."""
    flags = ["-Wall", "-U_FORTIFY_SOURCE", "-D_GNU_SOURCE=", "-I", str(source), "-I", str(suite.parent)]
    if re.search(r"^CFLAGS\s*\+?=.*-O2", (suite / "Makefile").read_text(), re.MULTILINE):
        flags.append("-O2")
    return [*flags, "-isystem", str(headers), "-isystem", str(source / "tools/include/uapi")]


def _files(suite: Path) -> list[str]:
    """hmm-tests.c and the helpers that the Makefile links into every test."""
    helpers = re.search(r"^\$\(TEST_GEN_FILES\): *(.*)$", (suite / "Makefile").read_text(), re.MULTILINE)
    return [
        "hmm-tests.c",
        *(name for name in (helpers.group(1).split() if helpers else []) if name.endswith(".c")),
    ]
