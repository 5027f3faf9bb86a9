# SPDX-License-Identifier: GPL-2.0
"""The host's tools for building a kernel: which are missing, and the packages that have them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from dmirror.errors import CannotRun

_COMMANDS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "gzip": "gzip",
}
_HEADERS = {"gelf.h": "libelf-dev", "openssl/evp.h": "libssl-dev"}
_UNPACKERS = {"xz": "xz-utils", "dpkg-deb": "dpkg", "tar": "tar"}

# What `make test KDIR=... T=...` or the user's shell would otherwise pass on to kbuild.
_NOT_KBUILDS = re.compile(
    r"MAKE.*|MFLAGS|GNUMAKEFLAGS|KERNEL|KDIR|KBUILD.*|KCONFIG_.*|FLAVOUR|DRIVER|APPEND|[TOMVWC]|CF|OUT|LOCALVERSION"
    r"|ARCH|SUBARCH|SRCARCH|CROSS_COMPILE|LLVM|LLVM_IAS|CC|CPP|LD|AR|NM|K?CFLAGS.*|K?AFLAGS.*|K?CPPFLAGS|LDFLAGS.*"
    r"|HOSTCC|HOSTCFLAGS|HOSTLDFLAGS|INSTALL_.*"
)


def environment() -> dict[str, str]:
    """The environment for kbuild: nothing of ours reaches it, messages are in English."""
    kept = {name: value for name, value in os.environ.items() if not _NOT_KBUILDS.fullmatch(name)}
    return {**kept, "LC_ALL": "C"}


def check() -> None:
    """Raise CannotRun naming the packages of the tools and headers that are missing."""
    missing = {package: command for command, package in _COMMANDS.items() if shutil.which(command) is None}
    if shutil.which("gcc"):
        missing |= {package: header for header, package in _HEADERS.items() if not _has_header(header)}
    refuse(missing)


def check_unpackers() -> None:
    """The same for what unpacks a source package."""
    refuse({package: command for command, package in _UNPACKERS.items() if shutil.which(command) is None})


def refuse(missing: dict[str, str]) -> None:
    """Raise CannotRun if a package is missing; `missing` maps its name to what was looked for."""
    if missing:
        raise CannotRun(
            f"{', '.join(missing.values())} not found",
            f"apt-get install --no-install-recommends {' '.join(missing)}",
        )


def compiler() -> str:
    """Names the compiler and the linker, by all they say of their versions."""
    said = "".join(
        subprocess.run(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout
        for command in (["gcc", "-v"], ["ld", "-V"])
    )
    return hashlib.sha256(said.encode()).hexdigest()


def cached_compiler(folder: Path) -> tuple[list[str], dict[str, str]]:
    """What to tell kbuild so that ccache is used, where there is one: arguments and environment."""
    if shutil.which("ccache") is None:
        return [], {}
    settings = {"CCACHE_DIR": str(folder), "CCACHE_MAXSIZE": "5G", "CCACHE_DEPEND": "1"}
    return ["CC=ccache gcc"], {**settings, "CCACHE_NOHASHDIR": "1"}


def _has_header(name: str) -> bool:
    return (
        subprocess.run(
            ["gcc", "-E", "-x", "c", "-"],
            input=f"#include <{name}>\n",
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )
