# SPDX-License-Identifier: GPL-2.0
"""The command-line options, and where this pytest runs: on the host, in a guest, beside a loaded driver."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from dmirror.paths import ROOT
from dmirror.vm.spec import MEMORY_MIB

DEVICE = Path("/dev/hmm_dmirror0")
LEFT_OUT = "left-out.json"
"""In a run's folder: the tests that had a verdict when the run went on."""
CHOSEN = "dmirror-chosen"
"""What workers are told: the tests to collect, by file and function."""
DRIVERS = ("dmirror", "test_hmm", "none")

_HOST_TESTS = ROOT / "tests" / "host"
_DEVICE_TESTS = ROOT / "tests" / "device"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _guests(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _hosts(text: str) -> list[tuple[str, int | None]]:
    hosts = []
    for word in text.split(","):
        name, colon, count = word.partition(":")
        if not name or name.startswith("-"):
            raise argparse.ArgumentTypeError(f"{word!r} is not a host: user@host, or user@host:N for N guests")
        hosts.append((name, _positive(count) if colon else None))
    return hosts


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dmirror", "dmirror: tests in guests; any of the first three boots them")
    add = group.addoption
    add("--dmirror-kernel", metavar="SERIES", help="Run the tests in guests on a known kernel, such as 7.3.")
    add("--dmirror-kdir", metavar="TREE", type=Path, help="Run them on a kernel tree, built first.")
    add("--dmirror-kbuild", metavar="BUILD", type=Path, help="Run them on a built tree, used as it is.")
    add("--dmirror-flavour", metavar="NAME", default="default", help="Another build of that kernel.")
    add(
        "--dmirror-guests",
        metavar="N",
        type=_guests,
        help="How many guests at once (default: auto, as many as processors and memory allow).",
    )
    add(
        "--dmirror-hosts",
        metavar="LIST",
        type=_hosts,
        help="Where the guests run: user@host[:N],... by ssh, with N guests each; `here` is this machine.",
    )
    add("--dmirror-ssh-config", metavar="FILE", type=_absolute, help="What ssh is given as -F.")
    add(
        "--dmirror-memory",
        metavar="MIB",
        type=_positive,
        default=MEMORY_MIB,
        help=f"A guest's memory in MiB (default: {MEMORY_MIB}; less than that leaves out the coherent devices).",
    )
    add(
        "--dmirror-config",
        metavar="CONFIG_X=y",
        action="append",
        default=[],
        help="An option of that build's, over the flavour's; repeatable.",
    )
    add(
        "--dmirror-make",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="What make is told for kernel and module, such as LLVM=1; repeatable.",
    )
    add("--dmirror-append", metavar="ARGS", default="", help="More of the kernel's command line.")
    add("--dmirror-kaslr", action="store_true", help="Kernel and direct map stand elsewhere at each boot.")
    add("--dmirror-driver", choices=DRIVERS, default="dmirror", help="The module to load (default: dmirror).")
    add(
        "--dmirror-limit",
        metavar="SECONDS",
        type=_positive,
        default=60,
        help="How long one test may take before its guest is ended (default: 60).",
    )
    add(
        "--dmirror-torture",
        metavar="SECONDS",
        type=_positive,
        default=1,
        help="How long each test of tests/device/torture goes on, on top of its limit (default: 1).",
    )
    add(
        "--dmirror-run",
        metavar="DIR",
        type=_absolute,
        help="The folder for consoles and journal; where that has verdicts, only tests without one run.",
    )
    add("--dmirror-fail-on-empty", action="store_true", help="End with 6 where every test was skipped.")
    add("--dmirror-list-contracts", action="store_true", help="With --collect-only: print each test's contracts.")
    add("--dmirror-seed", metavar="N", type=_natural, help="Where their random choices begin, as a failure reports it.")


def in_guest() -> bool:
    return "DMIRROR_IN_GUEST" in os.environ


def guests_wanted(config: pytest.Config) -> bool:
    """Whether this pytest is the controller of guests."""
    option = config.option
    named = option.dmirror_kernel or option.dmirror_kdir or option.dmirror_kbuild
    return bool(named) and not option.collectonly and not in_guest()


def device_present() -> bool:
    return DEVICE.exists()


def is_device_test(item: pytest.Item) -> bool:
    named = _DEVICE_TESTS in item.path.parents or item.path.suffix == ".dms"
    return named or "mirror" in getattr(item, "fixturenames", ())


def prepare_worker(config: pytest.Config) -> None:
    """A guest's /tmp is its own: the base folder that xdist names stands in the host's. It need not look for tests that
    the host has found."""
    if hasattr(config, "workerinput"):
        config.option.basetemp = None
        config.args = config.workerinput.get(CHOSEN) or config.args


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a run that goes on, what had a verdict when it did is left out: in all its guests alike."""
    run = os.environ.get("DMIRROR_RUN")
    if run is None or not in_guest() or not Path(run, LEFT_OUT).exists():
        return
    done = set(json.loads(Path(run, LEFT_OUT).read_text()))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # What is named is not asked for. Of each file beside it every plugin is asked, which takes a guest long.
    if getattr(config, "workerinput", {}).get(CHOSEN):
        return True
    # The harness's own tests belong to the host; in a guest they run only when they are named.
    unnamed = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return True if in_guest() and unnamed and collection_path == _HOST_TESTS else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Says once what would otherwise be an error in every device test."""
    if session.config.option.collectonly or session.config.option.dmirror_driver == "none" or device_present():
        return
    if any(is_device_test(item) for item in session.items):
        pytest.exit(
            f"no {DEVICE} here: make test runs these tests in a guest, insmod dmirror.ko makes it",
            returncode=2,
        )
