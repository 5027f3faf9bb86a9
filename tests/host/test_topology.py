# SPDX-License-Identifier: GPL-2.0
"""The machine that QEMU is asked for could exist: no two NUMA nodes share a package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmirror.vm import command
from dmirror.vm.spec import GuestSpec


@pytest.mark.parametrize("processors", [1, 2, 3, 4, 8])
def test_every_processor_is_of_one_node_and_a_package_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    monkeypatch.setattr(command.accelerator, "choose", lambda image: command.accelerator.Accelerator("kvm", "it works"))
    spec = GuestSpec(tmp_path / "bzImage", "7.3.4", cpus=processors)
    words = command.virtme_run_command(spec, tmp_path, tmp_path / "qemu", None, {}, interactive=False)
    count, sockets = re.fullmatch(r"(\d+),sockets=(\d+)", words[words.index("--cpus") + 1]).groups()  # type: ignore[union-attr]
    assert int(count) == int(sockets) == processors
    nodes = [word for word in words if word.startswith("--qemu-opt=node,")]
    assert len(nodes) == 2
    assert sorted(int(cpu) for node in nodes for cpu in re.findall(r"cpus=(\d+)", node)) == list(range(processors))
