# SPDX-License-Identifier: GPL-2.0
"""Module preflight: says on the host, in words, what insmod would refuse in the guest."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from dmirror.errors import CannotRun

# include/linux/license.h: the licences that may use EXPORT_SYMBOL_GPL symbols.
_GPL = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
_AGAIN = "remove it, it will be built again"
_VERSION_ENTRY = struct.Struct("<Q56s")  # struct modversion_info, 64-bit


@dataclass(frozen=True)
class Module:
    """What a .ko says of itself."""

    info: Mapping[str, tuple[str, ...]]  # .modinfo: each key may stand several times
    undefined: frozenset[str]  # symbols the kernel must have; weak ones are not counted
    versions: Mapping[str, int]  # CRC of each, when built with CONFIG_MODVERSIONS

    def first(self, key: str) -> str:
        return self.info.get(key, ("",))[0]


@dataclass(frozen=True)
class Export:
    """One line of Module.symvers."""

    crc: int
    gpl_only: bool
    namespace: str


def read_module(path: Path) -> Module:
    """Read a .ko. Raises CannotRun when the file is no kernel module."""
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            info = _modinfo(elf)
            symbols = elf.get_section_by_name(".symtab")
            undefined = _undefined(symbols) if isinstance(symbols, SymbolTableSection) else frozenset[str]()
            versions = _versions(elf)
    except (ELFError, OSError, struct.error) as error:
        raise CannotRun(f"{path} is not a kernel module: {error}", "remove it, it will be built again") from error
    if "vermagic" not in info:
        raise CannotRun(f"{path} is not a kernel module: it has no vermagic", "remove it, it will be built again")
    return Module(info, undefined, versions)


def read_symvers(path: Path) -> dict[str, Export]:
    """What a kernel exports, by Module.symvers. Raises CannotRun when the file is missing or not that."""
    found: dict[str, Export] = {}
    try:
        for line in path.read_text().splitlines():
            crc, name, _, kind, *namespace = line.split("\t")
            found[name] = Export(int(crc, 16), kind.endswith("_GPL"), namespace[0] if namespace else "")
    except (OSError, ValueError) as error:
        raise CannotRun(f"{path} is not a Module.symvers: {error}", "build the kernel with its modules") from error
    return found


def vermagic(release: str, config: Mapping[str, str]) -> str:
    """The vermagic of a kernel, by include/linux/vermagic.h for x86-64."""
    words = [release]
    words += ["SMP"] if "SMP" in config else []
    if "PREEMPT_RT" in config:
        words.append("preempt_rt")
    elif "PREEMPT_BUILD" in config:
        words.append("preempt")
    words += ["mod_unload"] if "MODULE_UNLOAD" in config else []
    words += ["modversions"] if "MODVERSIONS" in config else []
    return " ".join(words)


def check(path: Path, *, release: str, config: Mapping[str, str], symvers: Path, sibling: Path | None = None) -> None:
    """Raise CannotRun, naming what differs, unless that kernel would load the module at `path`.

    `sibling` is a module built with the kernel: its vermagic is what is wanted, else that is worked out.
    """
    module = read_module(path)
    name = path.name
    again = f"remove {path.parent}, it will be built again"

    wanted = read_module(sibling).first("vermagic") if sibling else vermagic(release, config)
    found = module.first("vermagic")
    if wanted.split()[:1] != [release]:
        raise CannotRun(
            f"{sibling} was built for {wanted!r}, the kernel is {release}", "build the kernel's modules again"
        )
    if _words(found) != _words(wanted):
        raise CannotRun(f"{name} was built for {found.strip()!r}, the kernel is {wanted.strip()!r}", again)

    licence = module.first("license")
    exports = read_symvers(symvers)
    missing = sorted(module.undefined - exports.keys())
    if missing:
        also = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CannotRun(
            f"{name} needs {missing[0]}{also}, which {release} does not export",
            f"{symvers} lists what it does; build the module for this kernel",
        )
    used = {symbol: exports[symbol] for symbol in module.undefined}
    for symbol, export in sorted(used.items()):
        if export.gpl_only and licence not in _GPL:
            raise CannotRun(
                f"{name} needs {symbol}, which is for GPL modules only, and its licence is {licence!r}",
                'say MODULE_LICENSE("GPL")',
            )
        if not _may_import(export.namespace, module):
            raise CannotRun(
                f"{name} needs {symbol} of the namespace {export.namespace}, and does not import that",
                f'say MODULE_IMPORT_NS("{export.namespace}")',
            )
        if "MODVERSIONS" in config and module.versions.get(symbol) != export.crc:
            crc = module.versions.get(symbol)
            built = "no CRC" if crc is None else f"{crc:#010x}"
            raise CannotRun(f"{name} has {built} for {symbol}, {release} has {export.crc:#010x}", again)


def _words(magic: str) -> list[str]:
    release, *flags = magic.split()
    return [release, *sorted(flags)]


def _may_import(namespace: str, module: Module) -> bool:
    if not namespace:
        return True
    if namespace.startswith("module:"):  # exported to the modules listed there, by name
        return module.first("name") in namespace.removeprefix("module:").split(",")
    return namespace in module.info.get("import_ns", ())


def _modinfo(elf: ELFFile) -> dict[str, tuple[str, ...]]:
    section = elf.get_section_by_name(".modinfo")
    found: dict[str, tuple[str, ...]] = {}
    for entry in section.data().split(b"\0") if section else ():
        key, _, text = entry.decode(errors="replace").partition("=")
        if key:
            found[key] = (*found.get(key, ()), text)
    return found


def _undefined(symbols: SymbolTableSection) -> frozenset[str]:
    return frozenset(
        symbol.name
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name and symbol["st_info"]["bind"] != "STB_WEAK"
    )


def _versions(elf: ELFFile) -> dict[str, int]:
    """From __versions, or from the pair of sections that CONFIG_EXTENDED_MODVERSIONS writes."""
    plain = elf.get_section_by_name("__versions")
    if plain:
        return {
            name.split(b"\0")[0].decode(): crc & 0xFFFFFFFF for crc, name in _VERSION_ENTRY.iter_unpack(plain.data())
        }
    names, crcs = (
        elf.get_section_by_name("__version_ext_names"),
        elf.get_section_by_name("__version_ext_crcs"),
    )
    if not names or not crcs:
        return {}
    values = (crc for (crc,) in struct.iter_unpack("<I", crcs.data()))
    return dict(zip((name.decode() for name in names.data().split(b"\0") if name), values, strict=False))
