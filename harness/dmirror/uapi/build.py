# SPDX-License-Identifier: GPL-2.0
"""Compiles the ioctl interface: kmod/uapi's headers and the helpers beside this file as a cffi extension (API mode).

The declarations are read off the headers and completed by the compiler, so numbers and layouts are the driver's own.
The extension lives in the cache under a digest of everything that goes into it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from dmirror import paths
from dmirror.errors import CannotRun

MODULE = "_dmirror_uapi"
_HERE = Path(__file__).parent
HEADERS = (
    paths.KMOD / "uapi" / "hmm_dmirror.h",
    paths.KMOD / "uapi" / "dmirror.h",
    _HERE / "torture.h",
    _HERE / "agent.h",
    _HERE / "look.h",
    _HERE / "play.h",
)
SOURCES = tuple(
    _HERE / f"{name}.c" for name in ("memory", "ledger", "calls", "steer", "mix", "quiet", "race", "look", "play")
)
FOLDER = "DMIRROR_UAPI"
"""The environment's name for the extension's folder, once that is known: to read what it is named by takes a guest
long."""
AGENT = "dmirror-agent"
"""The program of a scenario's processes, in the same folder."""
_AGENT_SOURCE = _HERE / "agent.c"


def declarations(header: str) -> str:
    """The cdef of one header: its structures, its constants and its enumerators, values left to the compiler."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    structs = re.findall(r"^struct \w+ \{.*?^\};", text, flags=re.DOTALL | re.MULTILINE)
    constants = re.findall(r"^#define[ \t]+(\w+)[ \t]+\S", text, flags=re.MULTILINE)
    enumerators = re.findall(r"^\t(\w+)\s*=", text, flags=re.MULTILINE)
    return "\n".join([*structs, *(f"#define {name} ..." for name in constants + enumerators)])


def _prototypes(source: str) -> str:
    """The prototypes of the functions of a source that are not static: each definition starts in the first column."""
    return "\n".join(f"{line};" for line in re.findall(r"^(?:int|long|void|uint64_t) \w+\([^)]*\)$", source, re.M))


@functools.cache
def _digest() -> str:
    inputs = [path.read_bytes() for path in (*HEADERS, *SOURCES, _AGENT_SOURCE, Path(__file__))]
    inputs.append(f"{sys.version} {sysconfig.get_platform()}".encode())
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]


def folder() -> Path:
    """The folder that holds the extension for this interpreter, whether it is built yet or not."""
    told = os.environ.get(FOLDER)
    return Path(told) if told else paths.cache() / "uapi" / _digest()


def _compiler() -> list[str]:
    return shlex.split(sysconfig.get_config_var("CC") or "cc")


def ensure() -> Path:
    """Build the extension unless it is there; returns its folder. Raises CannotRun when it does not compile."""
    target = folder()
    if any(target.glob(f"{MODULE}.*")):
        return target
    import cffi  # noqa: PLC0415  (costs 0.1 s, and only a build needs it)

    ffi = cffi.FFI()
    sources = "".join(source.read_text() for source in SOURCES)
    ffi.cdef("typedef uint16_t __u16; typedef int32_t __s32; typedef uint32_t __u32; typedef unsigned long long __u64;")
    for header in HEADERS:
        ffi.cdef(declarations(header.read_text()))
    ffi.cdef(_prototypes(sources))
    includes = "".join(f'#include "{header}"\n' for header in HEADERS)
    # Bound at once: race.c forks processes in which the linker's own memory is missing.
    ffi.set_source(MODULE, includes + sources, include_dirs=[str(_HERE)], extra_link_args=["-Wl,-z,now"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        try:
            built = Path(ffi.compile(tmpdir=work))
            agent = Path(work) / AGENT
            compile_agent = [*_compiler(), "-O2", "-pthread", "-o", os.fspath(agent), os.fspath(_AGENT_SOURCE)]
            # Two thirds of its start are the dynamic linker's. Some distributions have no libc.a.
            if subprocess.run([*compile_agent, "-static"], capture_output=True, check=False).returncode:
                subprocess.run(compile_agent, check=True)
        except (cffi.VerificationError, OSError, subprocess.CalledProcessError) as error:
            raise CannotRun(
                f"the client does not compile: {error}",
                "install gcc and the Python headers: scripts/setup.sh",
            ) from error
        target.mkdir(exist_ok=True)
        agent.rename(target / AGENT)  # first: whoever finds the extension has both
        built.rename(target / built.name)
    return target
