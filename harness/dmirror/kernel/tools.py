# SPDX-License-Identifier: GPL-2.0
"""The host's tools for building a kernel: which are missing, and the packages that have them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dmirror import packages
from dmirror.errors import CannotRun

_COMMANDS = {
    "make": "make",
    "gcc": "gcc",  # also of a tree that clang builds: of its host's programs
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "gzip": "gzip",
}
# What kbuild is told by us alone.
_OURS = (
    "ARCH",
    "CROSS_COMPILE",
    "KBUILD_EXTMOD",
    "KBUILD_OUTPUT",
    "KCONFIG_ALLCONFIG",
    "KCONFIG_CONFIG",
    "KDIR",
    "M",
    "MO",
    "O",
)
_HEADERS = {"gelf.h": "libelf-dev", "openssl/evp.h": "libssl-dev"}
_UNPACKERS = {"xz": "xz-utils", "dpkg-deb": "dpkg", "tar": "tar"}

# What `make test KDIR=... T=...` or the user's shell would otherwise pass on to kbuild.
_NOT_KBUILDS = re.compile(
    r"MAKE.*|MFLAGS|GNUMAKEFLAGS|KERNEL|KDIR|CONFIG|KASLR|KBUILD.*|KCONFIG_.*|FLAVOUR|DRIVER|APPEND|[TOMVWC]|CF|OUT|LOCALVERSION"
    r"|ARCH|SUBARCH|SRCARCH|CROSS_COMPILE|LLVM|LLVM_IAS|CC|CPP|LD|AR|NM|K?CFLAGS.*|K?AFLAGS.*|K?CPPFLAGS|LDFLAGS.*"
    r"|HOSTCC|HOSTCFLAGS|HOSTLDFLAGS|INSTALL_.*"
)


def environment() -> dict[str, str]:
    """The environment for kbuild: nothing of ours reaches it, messages are in English."""
    kept = {name: value for name, value in os.environ.items() if not _NOT_KBUILDS.fullmatch(name)}
    return {**kept, "LC_ALL": "C"}


def check_unpackers() -> None:
    """The same for what unpacks a source package."""
    refuse({package: command for command, package in _UNPACKERS.items() if shutil.which(command) is None})


def refuse(missing: dict[str, str]) -> None:
    """Raise CannotRun if a package is missing; `missing` maps its name to what was looked for."""
    if missing:
        raise CannotRun(
            f"{', '.join(missing.values())} not found",
            packages.install(*missing),
        )


@dataclass(frozen=True)
class Toolchain:
    """What compiles a kernel and its modules. `words` are make's, such as LLVM=1 or CC=gcc-12
    (Documentation/kbuild/llvm.rst). Raises CannotRun for a word that is none."""

    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in self.words:
            name, equals, _ = word.partition("=")
            if not equals or not name.isidentifier():
                raise CannotRun(f"--make {word} sets no variable of make's", "write NAME=VALUE, such as LLVM=1")
            if (name in ("CC", "LD") and len(word.split()) != 1) or word.endswith("="):
                raise CannotRun(f"--make {word} names no one command", "give that alone; ccache is used by itself")
            if name in _OURS:
                raise CannotRun(f"--make {word} is not yours to choose", f"leave out {name}")

    def check(self) -> None:
        """Raise CannotRun naming the packages of the tools and headers that are missing."""
        own = (self._compiler, self._linker, self._tool(clang="llvm-objcopy", gnu="objcopy"))
        commands = _COMMANDS | {command: _package(command) for command in own}
        missing = {package: command for command, package in commands.items() if shutil.which(command) is None}
        if shutil.which("gcc"):
            missing |= {package: header for header, package in _HEADERS.items() if not _has_header(header)}
        refuse(missing)

    def identity(self) -> str:
        """Names the compiler and the linker, by all they say of their versions. Raises CannotRun without them."""
        said = ""
        for command in ([self._compiler, "-v"], [self._linker, "--version"]):
            if shutil.which(command[0]) is None:
                refuse({_package(command[0]): command[0]})
            out, both = subprocess.PIPE, subprocess.STDOUT
            said += subprocess.run(command, env=environment(), stdout=out, stderr=both, text=True, check=False).stdout
        return hashlib.sha256(said.encode()).hexdigest()

    def cached(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        """What to tell kbuild so that ccache is used, where there is one: arguments and environment."""
        if shutil.which("ccache") is None:
            return [], {}
        settings = {"CCACHE_DIR": str(folder), "CCACHE_MAXSIZE": "5G", "CCACHE_DEPEND": "1"}
        return [f"CC=ccache {self._compiler}"], {**settings, "CCACHE_NOHASHDIR": "1"}

    @property
    def is_chosen(self) -> bool:
        """Whether a word names the compiler."""
        return bool(self._value("CC") or self._value("LLVM"))

    @property
    def _compiler(self) -> str:
        return self._value("CC") or self._tool(clang="clang", gnu="gcc")

    @property
    def _linker(self) -> str:
        return self._value("LD") or self._tool(clang="ld.lld", gnu="ld")

    def _tool(self, *, clang: str, gnu: str) -> str:
        llvm = self._value("LLVM")  # 1, a suffix such as -16, or a folder with a slash behind it
        if llvm.startswith("-"):
            return f"{clang}{llvm}"
        if llvm.endswith("/"):
            return f"{llvm}{clang}"
        return clang if llvm else gnu

    def _value(self, name: str) -> str:
        values = [word.partition("=")[2] for word in self.words if word.partition("=")[0] == name]
        return values[-1] if values else ""


# The package of a command that begins so; a suffix of the one is a suffix of the other.
_PROGRAMS = {"clang": "clang", "ld.lld": "lld", "llvm-objcopy": "llvm", "ld": "binutils", "objcopy": "binutils"}


def _package(command: str) -> str:
    name = Path(command).name
    for start, package in _PROGRAMS.items():
        if name.startswith(start):
            suffix = name.removeprefix(start)
            return package if package == "binutils" else package + suffix
    return name


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
