# SPDX-License-Identifier: GPL-2.0
"""Guests on other hosts, by ssh: what they need there, and a guest there as a command here.

`python -m dmirror.vm.remote HOST ARGUMENTS...` is to execnet what dmirror.vm.interpreter is: it has ssh run that on the
host, at the same place and with the same arguments, and fetches the guest's folder once it has ended. It is an execnet
popen spec on purpose: for its ssh specs xdist copies packages to the worker's folder, which in a guest is read-only.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.paths import INSTALLED, ROOT, cache
from dmirror.vm import command, console
from dmirror.vm.guest import DIED
from dmirror.vm.interpreter import FOLDER, OUTCOME, run_dir

HERE = "here"
"""The name of this machine among hosts."""

CONFIG = "DMIRROR_SSH_CONFIG"
"""The environment's name for ssh's -F."""

_NOT_SENT = (".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache")
# ssh's own failure has the status that an interpreter has whose guest died: that one gets another.
_LOST = 255
_DIED_THERE = 254
_MODULE = "dmirror.vm.remote"


def interpreter(host: str) -> list[str]:
    """The command of a Python interpreter in a guest on that host; its arguments follow."""
    # setpriv: the guest ends with this process even if that is killed.
    local = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m"]
    return [*local, "dmirror.vm.interpreter"] if host == HERE else [*local, _MODULE, host]


def host_of(python: str) -> str:
    """The host of what interpreter() made, as one word of a shell's."""
    words = shlex.split(python)
    return words[words.index(_MODULE) + 1] if _MODULE in words else HERE


def send(host: str, files: Sequence[Path]) -> None:
    """Put these files, and this checkout without its .venv, on the host in the same places, and see that it can run
    guests. What is the very same file or folder there, by a file system that both have, is left alone; so is what was
    installed. Raises CannotRun."""
    reached = _ssh(host, "true")
    if reached.returncode:
        raise CannotRun(f"no ssh to {host}: {_reason(reached)}", f"see that `ssh {host} true` works without a password")
    wanted = _not_shared(host, [*files] if INSTALLED else [ROOT, *files])
    if wanted:
        named = [os.fspath(path.relative_to("/")) for path in wanted]
        excluded = [f"--exclude={name}" for name in _NOT_SENT]
        with subprocess.Popen(["tar", "-C", "/", *excluded, "-cf", "-", *named], stdout=subprocess.PIPE) as pack:
            unpacked = subprocess.run(
                [*_command(host), "tar -C / --no-same-owner -xf -"],
                stdin=pack.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
        if pack.returncode or unpacked.returncode:
            raise CannotRun(f"{host} does not take the files: {_reason(unpacked)}", f"its user has to own {ROOT} there")
    checked = _ssh(host, _python("from dmirror.uapi.build import ensure; ensure()"))
    if checked.returncode:
        mend = f"install dmirror in {sys.prefix} there, too" if INSTALLED else f"ssh {host} sh {ROOT}/scripts/setup.sh"
        raise CannotRun(f"{host} is not set up: {_reason(checked)}", mend)


def _not_shared(host: str, paths: Sequence[Path]) -> list[Path]:
    """Those that are not the same inode there. To unpack one over itself would cut off what is being written to it."""
    there = _ssh(host, shlex.join(["stat", "-c", "%i %Y %n", *map(os.fspath, paths)])).stdout.splitlines()
    return [path for path in paths if f"{path.stat().st_ino} {int(path.stat().st_mtime)} {path}" not in there]


def fitting(host: str, cpus: int, memory_mib: int) -> int:
    """How many guests of that size the host has room for. Raises CannotRun."""
    asked = _ssh(host, _python(f"from dmirror.vm.room import fitting; print(fitting({cpus}, {memory_mib}))"))
    if asked.returncode:
        raise CannotRun(f"{host} does not say how many guests fit: {_reason(asked)}", f"say it: {host}:N")
    return int(asked.stdout)


def fetch(host: str, folder: Path, *names: str) -> None:
    """Copy files of a guest's folder to the same place here, or all but its disks; what is not there is passed over."""
    chosen = names or (".",)
    excluded = [f"--exclude=./{disk}" for disk in command.DISKS]
    there = shlex.join(["tar", "-C", os.fspath(folder), "--ignore-failed-read", *excluded, "-cf", "-", *chosen])
    packed = subprocess.run([*_command(host), there], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    folder.mkdir(parents=True, exist_ok=True)
    unpack = ["tar", "-C", os.fspath(folder), "-xf", "-"]
    subprocess.run(unpack, input=packed.stdout, stderr=subprocess.DEVNULL, check=False)


def main() -> int:
    host, *arguments = sys.argv[1:]
    folder = run_dir(Path(os.environ["DMIRROR_RUN"]), os.getpid())
    given = {name: value for name, value in os.environ.items() if name.startswith("DMIRROR_")}
    given |= {"DMIRROR_CACHE": os.fspath(cache()), FOLDER: os.fspath(folder)}
    words = ["env", *(f"{name}={value}" for name, value in sorted(given.items()))]
    words += [sys.executable, "-m", "dmirror.vm.interpreter", *arguments]
    script = f"cd {shlex.quote(os.getcwd())} || exit; {shlex.join(words)}; status=$?; "
    script += f"[ $status != {DIED} ] || exit {_DIED_THERE}; exit $status"
    there = shlex.join(["sh", "-c", script])
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *_command(host), there])
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        # There, the guest ends with its standard input.
        signal.signal(number, lambda *_: process.terminate())
    status = process.wait()
    if not (folder / console.LOG).exists():  # else the folder is the same one
        fetch(host, folder)
    if status < 0 or status == _LOST:
        # The guest ended since we were gone, which is nothing that it died of.
        (folder / OUTCOME).unlink(missing_ok=True)
        return DIED
    return DIED if status == _DIED_THERE else status


def _python(code: str) -> str:
    return shlex.join(["env", f"DMIRROR_CACHE={cache()}", sys.executable, "-c", code])


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["it gives no reason"])[-1]


def _ssh(host: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_command(host), script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _command(host: str) -> list[str]:
    config = ["-F", os.environ[CONFIG]] if CONFIG in os.environ else []
    return ["ssh", *config, "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", host]


if __name__ == "__main__":
    sys.exit(main())
