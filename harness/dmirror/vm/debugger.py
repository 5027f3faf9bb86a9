# SPDX-License-Identifier: GPL-2.0
"""gdb on a guest that runs: QEMU's stub, symbols of the kernel and of its modules."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from dmirror import packages
from dmirror.errors import CannotRun
from dmirror.vm import runs
from dmirror.vm.command import PID, SECTIONS, STUB, TEXT
from dmirror.vm.guest import is_running
from dmirror.vm.spec import DESCRIPTION, GuestSpec

_TABLES = (".symtab", ".strtab")  # of the module loader, in no file


def command(folder: Path | None, arguments: list[str]) -> list[str]:
    """gdb's command line for the guest of that folder, or for the one that was started last.

    Raises CannotRun when no such guest runs, it has no stub, or there is no gdb.
    """
    if shutil.which("gdb") is None:
        raise CannotRun("no gdb on PATH", packages.install("gdb"))
    folder = folder.absolute() if folder else runs.newest(PID, of=is_running)
    if folder is None or not is_running(folder):
        raise CannotRun("no guest runs" + (f" in {folder}" if folder else ""), "start one: make shell")
    if not (folder / STUB).exists():
        raise CannotRun(f"the guest in {folder} has no stub: the name is too long for a socket", "set DMIRROR_CACHE")
    spec = GuestSpec.from_json((folder / DESCRIPTION).read_text())
    vmlinux = spec.image.parents[3] / "vmlinux"
    words = ["gdb", "-q", os.fspath(vmlinux)]
    if spec.kaslr:
        words[2:] = ["-ex", f"symbol-file {shlex.quote(os.fspath(vmlinux))} -o {_moved(folder, vmlinux):#x}"]
    for module in (Path(shlex.split(line)[0]) for line in spec.modules):
        words += ["-ex", f"add-symbol-file {shlex.quote(os.fspath(module))} {_addresses(folder, module.stem)}"]
    return [*words, "-ex", f"target remote {folder / STUB}", *arguments]


def _moved(folder: Path, vmlinux: Path) -> int:
    """Bytes from where vmlinux has the kernel to where this guest has it."""
    with vmlinux.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        linked = symbols.get_symbol_by_name("_text") if isinstance(symbols, SymbolTableSection) else None
        if not linked:
            raise CannotRun(f"no symbol _text in {vmlinux}", "give a kernel that has not been stripped")
        try:
            there = (folder / TEXT).read_text().split()[0]
        except (OSError, IndexError) as error:
            raise CannotRun(f"the guest in {folder} has not come up yet", "try again in a moment") from error
        return int(there, 16) - int(linked[0]["st_value"])


def _addresses(folder: Path, module: str) -> str:
    file = folder / f"{SECTIONS}{module}"
    sections = dict(line.split(":") for line in file.read_text().splitlines()) if file.exists() else {}
    if ".text" not in sections:
        raise CannotRun(f"the guest in {folder} has not loaded {module} yet", "try again in a moment")
    return " ".join(f"-s {name} {address}" for name, address in sections.items() if name not in _TABLES)
