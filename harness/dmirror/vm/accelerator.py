# SPDX-License-Identifier: GPL-2.0
"""Which accelerator QEMU can really use here: tried once with a kernel, then remembered."""

from __future__ import annotations

import json
import os
import platform
import re
import selectors
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from dmirror import packages
from dmirror.errors import CannotRun
from dmirror.paths import cache

# A kernel on working KVM prints its first line within 0.2 s and reaches its root mount within 1.5 s.
_FIRST_LINE_S = 5.0
_ROOT_MOUNT_S = 15.0

_KVM = Path("/dev/kvm")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Accelerator:
    name: str  # "kvm" or "tcg", as QEMU calls them
    reason: str

    def __str__(self) -> str:
        return f"accelerator: {self.name} ({self.reason})"


def find_qemu() -> Path:
    """QEMU's path. Raises CannotRun when there is none."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise CannotRun("no qemu-system-x86_64 on PATH", packages.install("qemu-system-x86"))
    return Path(found)


def choose(image: Path) -> Accelerator:
    """The accelerator to use, by experience: a guest with `image` (a bzImage) is booted under KVM with a
    short limit.

    That /dev/kvm opens, and even that KVM_CREATE_VM succeeds, says nothing about a guest running: inside some
    clouds both do and every kernel hangs. The answer is kept per QEMU version, host kernel and processor.
    """
    qemu = find_qemu()
    if platform.machine() != "x86_64":
        return Accelerator("tcg", f"an x86-64 guest on {platform.machine()}")
    if not _KVM.exists():
        return Accelerator("tcg", f"no {_KVM}")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_KVM} may not be opened by this user; to use it: adduser {_user()} kvm")
    key = " | ".join((_version(qemu), platform.release(), _processor()))
    file = cache() / "accelerator.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        known = _read(file)
        if key not in known:
            known[key] = asdict(_try_kvm(qemu, image))
            half_done = file.with_suffix(".new")
            half_done.write_text(json.dumps(known, indent=1))
            half_done.replace(file)
        return Accelerator(**known[key])


def tsc_khz() -> int | None:
    """How fast the host's time stamp counter counts, which an emulated processor has for its own.

    Linux takes an x86 processor's loops per jiffy from it, and BogoMIPS are those in 500,000 a second
    (arch/x86/kernel/tsc.c, cpu/proc.c). None where /proc/cpuinfo does not tell.
    """
    if "constant_tsc" not in (_cpuinfo("flags") or "").split():
        return None
    bogomips, mhz = float(_cpuinfo("bogomips") or 0), float(_cpuinfo("cpu MHz") or 0)
    # gVisor, which is no Linux, says the frequency for both.
    return round(bogomips * 500) if abs(bogomips - mhz) > 1 else None


def _try_kvm(qemu: Path, image: Path) -> Accelerator:
    # As virtme-ng would start it: q35 or the default machine makes no difference, the processor does.
    command = [os.fspath(qemu), "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio", "-kernel", os.fspath(image)]
    command += ["-append", "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1"]
    # A test kernel without a root ends in a panic about its root file system: by then it has run for long
    # enough.
    started = time.monotonic()
    text = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        with selectors.PollSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"Kernel panic" not in text:
                booting = b"Linux version" in text
                left = started + (_ROOT_MOUNT_S if booting else _FIRST_LINE_S) - time.monotonic()
                if left <= 0 or not selector.select(left):
                    break
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                text += chunk
        process.kill()
    took = time.monotonic() - started
    if re.search(rb"Kernel panic[^\n]*root", text) or b"Unable to mount root" in text:
        return Accelerator("kvm", f"a kernel reached its root mount in {took:.1f} s")
    return Accelerator("tcg", f"kvm: {_why_not(text)}")


def _why_not(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    if any("Linux version" in line for line in lines):
        return f"a kernel started and did not reach its root mount within {_ROOT_MOUNT_S:.0f} s"
    asserted = re.search(r"(\w+): Assertion `.*' failed", "\n".join(lines))
    if asserted:
        return f"QEMU fails an assertion in {asserted.group(1)}"
    # Warnings about missing features precede the hang and the assertion alike; the last line is what ended
    # it.
    fatal = [line for line in lines if "warning" not in line.lower()]
    if fatal:
        return re.sub(r"^\S*qemu-system-x86_64: ", "", fatal[-1])[:100]
    return f"no output from a kernel within {_FIRST_LINE_S:.0f} s"


def _version(qemu: Path) -> str:
    out = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    return out.splitlines()[0] if out else "?"


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(name: str) -> str | None:
    match = re.search(rf"^{name}\s*: (.*)$", _CPUINFO.read_text(), re.MULTILINE)
    return match.group(1) if match else None


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        known = json.loads(file.read_text())
        return {key: {"name": value["name"], "reason": value["reason"]} for key, value in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a damaged memory costs one more try
