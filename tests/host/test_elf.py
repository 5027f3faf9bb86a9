# SPDX-License-Identifier: GPL-2.0
"""Module preflight, on real object files: what insmod would refuse is said on the host."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import elf

_MAGIC = "7.3.4 SMP preempt mod_unload "
_CONFIG = {"SMP": "y", "PREEMPT_BUILD": "y", "MODULE_UNLOAD": "y"}
_SYMVERS = (
    "0x11111111\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0x22222222\tmigrate_vma_setup\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0x33333333\thmm_range_fault\tvmlinux\tEXPORT_SYMBOL_GPL\t\n"
    "0x44444444\tdma_thing\tvmlinux\tEXPORT_SYMBOL\tDMA_BUF\n"
    "0x55555555\tfor_kvm\tvmlinux\tEXPORT_SYMBOL\tmodule:kvm,kvm-intel\n"
)


class Bench:
    """Makes modules out of a line of C, and checks them against a kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.symvers = folder / "Module.symvers"
        self.symvers.write_text(_SYMVERS)

    def module(self, name: str = "dmirror.ko", *, magic: str = _MAGIC, licence: str = "GPL", more: str = "") -> Path:
        info = "".join(
            f'static const char i{n}[] __attribute__((section(".modinfo"), used)) = "{text}";\n'
            for n, text in enumerate((f"license={licence}", f"vermagic={magic}", "name=dmirror"))
        )
        path = self.folder / name
        compiler = ["gcc", "-fno-pic", "-mcmodel=kernel", "-c", "-x", "c", "-", "-o", str(path)]
        subprocess.run(compiler, input=f"{info}\n{more}\n", text=True, check=True)
        return path

    def check(
        self,
        path: Path,
        *,
        release: str = "7.3.4",
        config: Mapping[str, str] = _CONFIG,
        sibling: Path | None = None,
    ) -> None:
        elf.check(path, release=release, config=config, symvers=self.symvers, sibling=sibling)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _calls(*symbols: str) -> str:
    return "\n".join(f"void {symbol}(void);\nvoid call_{symbol}(void) {{ {symbol}(); }}" for symbol in symbols)


def _info(text: str) -> str:
    return f'static const char more[] __attribute__((section(".modinfo"), used)) = "{text}";\n'


def test_a_module_of_this_kernel_is_accepted(bench: Bench) -> None:
    bench.check(bench.module(more=_calls("_printk", "migrate_vma_setup", "hmm_range_fault")))


def test_a_module_of_another_release_is_refused_naming_both(bench: Bench) -> None:
    path = bench.module(magic="7.2.13 SMP preempt mod_unload ")
    with pytest.raises(CannotRun, match=r"dmirror\.ko was built for '7\.2\.13 .*the kernel is '7\.3\.4 .*remove"):
        bench.check(path)


@pytest.mark.parametrize(
    "config",
    [
        {"SMP": "y", "MODULE_UNLOAD": "y"},
        {"SMP": "y", "PREEMPT_RT": "y", "MODULE_UNLOAD": "y"},
        {"PREEMPT_BUILD": "y", "MODULE_UNLOAD": "y"},
        {"SMP": "y", "PREEMPT_BUILD": "y"},
    ],
    ids=["no preemption", "real time", "one processor", "no unloading"],
)
def test_a_module_of_another_kind_of_kernel_is_refused(bench: Bench, config: dict[str, str]) -> None:
    with pytest.raises(CannotRun, match="was built for"):
        bench.check(bench.module(), config=config)


def test_the_kernels_own_module_says_which_vermagic_is_wanted(bench: Bench) -> None:
    sibling = bench.module("test_hmm.ko", magic="7.3.4 SMP mod_unload new_flag ")
    bench.check(bench.module(magic="7.3.4 SMP mod_unload new_flag "), sibling=sibling)
    with pytest.raises(CannotRun, match="new_flag"):
        bench.check(bench.module(), sibling=sibling)


def test_modules_left_from_an_older_build_of_the_kernel_are_noticed(bench: Bench) -> None:
    sibling = bench.module("test_hmm.ko", magic="7.3.3 SMP preempt mod_unload ")
    with pytest.raises(CannotRun, match=r"test_hmm\.ko was built for .*the kernel is 7\.3\.4; build"):
        bench.check(bench.module(), sibling=sibling)


def test_a_symbol_that_the_kernel_does_not_export_is_named(bench: Bench) -> None:
    path = bench.module(more=_calls("_printk", "migrate_vma_nowhere", "zap_nothing"))
    with pytest.raises(CannotRun, match=r"dmirror\.ko needs migrate_vma_nowhere and 1 more, which 7\.3\.4 does not"):
        bench.check(path)


def test_a_weak_symbol_may_be_missing(bench: Bench) -> None:
    bench.check(bench.module(more="void maybe(void) __attribute__((weak));\nvoid f(void) { if (maybe) maybe(); }"))


def test_gpl_symbols_are_for_gpl_modules(bench: Bench) -> None:
    bench.check(bench.module(licence="Proprietary", more=_calls("_printk")))
    with pytest.raises(CannotRun, match=r"hmm_range_fault, which is for GPL modules only, .*'Proprietary'"):
        bench.check(bench.module(licence="Proprietary", more=_calls("hmm_range_fault")))


def test_a_namespace_must_be_imported(bench: Bench) -> None:
    with pytest.raises(CannotRun, match="dma_thing of the namespace DMA_BUF"):
        bench.check(bench.module(more=_calls("dma_thing")))
    bench.check(bench.module(more=_calls("dma_thing") + "\n" + _info("import_ns=DMA_BUF")))


def test_a_symbol_exported_to_some_modules_only_is_refused_to_others(bench: Bench) -> None:
    with pytest.raises(CannotRun, match="for_kvm"):
        bench.check(bench.module(more=_calls("for_kvm")))


_PLAIN = """
struct { unsigned long crc; char name[56]; } v[] __attribute__((section("__versions"), used)) = {
	{ 0x11111111, "_printk" }, { 0x22222222, "migrate_vma_setup" } };
"""
_EXTENDED = """
unsigned int c[] __attribute__((section("__version_ext_crcs"), used)) = { 0x11111111, 0x22222222 };
char n[] __attribute__((section("__version_ext_names"), used)) = "_printk\\0migrate_vma_setup";
"""


@pytest.mark.parametrize("versions", [_PLAIN, _EXTENDED], ids=["__versions", "extended"])
def test_with_modversions_each_crc_must_be_the_kernels(bench: Bench, versions: str) -> None:
    config = {**_CONFIG, "MODVERSIONS": "y"}
    magic = "7.3.4 SMP preempt mod_unload modversions "
    path = bench.module(magic=magic, more=_calls("_printk", "migrate_vma_setup") + versions)
    bench.check(path, config=config)
    bench.symvers.write_text(_SYMVERS.replace("0x22222222", "0x2222aaaa"))
    with pytest.raises(CannotRun, match=r"has 0x22222222 for migrate_vma_setup, 7\.3\.4 has 0x2222aaaa"):
        bench.check(path, config=config)
    bare = bench.module(magic=magic, more=_calls("_printk"))
    with pytest.raises(CannotRun, match="has no CRC for _printk"):
        bench.check(bare, config=config)


def test_without_modversions_a_crc_does_not_count(bench: Bench) -> None:
    bench.symvers.write_text(_SYMVERS.replace("0x11111111", "0x00000000"))
    bench.check(bench.module(more=_calls("_printk") + _PLAIN))


@pytest.mark.parametrize("content", [b"", b"no ELF", b"\x7fELF"], ids=["empty", "text", "cut short"])
def test_a_file_that_is_no_module_is_refused_by_name(bench: Bench, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dmirror.ko"
    path.write_bytes(content)
    with pytest.raises(CannotRun, match=r"dmirror\.ko is not a kernel module"):
        bench.check(path)


def test_an_object_without_vermagic_is_no_module(bench: Bench) -> None:
    path = bench.folder / "plain.o"
    subprocess.run(["gcc", "-c", "-x", "c", "-", "-o", str(path)], input="int i;\n", text=True, check=True)
    with pytest.raises(CannotRun, match="it has no vermagic"):
        bench.check(path)


def test_a_broken_symvers_is_refused_by_name(bench: Bench) -> None:
    bench.symvers.write_text("words\n")
    with pytest.raises(CannotRun, match=r"is not a Module\.symvers"):
        bench.check(bench.module())
