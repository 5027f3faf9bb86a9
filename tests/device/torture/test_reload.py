# SPDX-License-Identifier: GPL-2.0
"""L-09: the module goes while its devices hold pages, and comes back."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dmirror.memory import Region
from dmirror.mirror import Mirror, node
from dmirror.process import Child
from dmirror.vm.spec import GuestSpec

ROUNDS = 10
PAGES = 64


@pytest.fixture
def module() -> list[str]:
    """How the module was loaded into this guest: its path and parameters."""
    description = os.environ.get("DMIRROR_GUEST")
    if description is None:
        pytest.skip("only a guest says where its module came from")
    (loaded,) = GuestSpec.from_json(Path(description).read_text()).modules
    return shlex.split(loaded)


def ranges() -> int:
    """Device memory that the kernel knows of."""
    return Path("/proc/iomem").read_text().count("hmm_dmirror")


def migrate(choices, devices) -> list[tuple[Region, int]]:
    """Memory of this process on every device, as it is when the files are closed."""
    made = []
    for device in devices:
        for region in (Region.anonymous(PAGES), Region.huge(1)):
            seed = choices.getrandbits(20)
            with Mirror(device) as mirror:
                mirror.migrate_to_device(region.fill(seed))
            made.append((region, seed))
    return made


@pytest.mark.contract("L-09")
def test_unloading_brings_every_page_back(module, devices, rounds):
    for choices in rounds(ROUNDS):
        assert ranges()
        made, count = migrate(choices, devices), choices.randrange(1, 100)

        def child(line, made=made, count=count):
            """Shares the pages, and faults on them while the module goes."""
            line.send()
            for _ in range(count):
                assert all(region.matches(seed) for region, seed in made)
            return True

        with Child(child) as other:
            other.line.receive()
            subprocess.run(["rmmod", "dmirror"], check=True)
            try:
                assert ranges() == 0
                assert not any(node(device).exists() for device in devices)
                assert all(region.matches(seed) for region, seed in made)
                assert other.result() is True
            finally:
                subprocess.run(["insmod", *module], check=True)
        for region, _ in made:
            region.unmap()
        with Mirror(devices[0]) as mirror:
            counters = mirror.counters()
            assert (counters.dev_pages_in_use, counters.dev_contexts) == (0, 1)
