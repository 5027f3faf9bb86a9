# SPDX-License-Identifier: GPL-2.0
"""L-09: the module goes while its devices hold pages, and comes back."""

import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from dmirror.holds import POINTS
from dmirror.memory import Region
from dmirror.mirror import Mirror, node
from dmirror.process import Child

ROUNDS = 10
PAGES = 64
PROMPT_S = 10.0


def ranges() -> int:
    """How many ranges of device memory the kernel knows of."""
    return Path("/proc/iomem").read_text().count("hmm_dmirror")


def resident(devices: list[int]) -> list[int]:
    """Pages in use of each device, and no context but the one that asks."""
    pages = []
    for device in devices:
        with Mirror(device) as probe:
            counters = probe.counters()
            assert counters.dev_contexts == 1
            pages.append(counters.dev_pages_in_use)
    return pages


def migrated(choices, devices, held: ExitStack) -> list[tuple[Region, int]]:
    """Memory of this process on every device, small pages and a huge one, and the seeds of what it holds.

    Closing a mirror brings its pages back; of a coherent one a pipe keeps a page of each on the device.
    """
    made = []
    for device in devices:
        for region in (Region.anonymous(PAGES), Region.huge(1)):
            seed = choices.getrandbits(20)
            with Mirror(device) as mirror:
                mirror.migrate_to_device(region.fill(seed))
                if "coherent" in mirror.capabilities():
                    held.enter_context(region[0].in_a_pipe())
            made.append((region, seed))
    return made


@pytest.mark.contract("L-09")
def test_unloading_brings_every_page_back(driver, devices, rounds):
    for choices in rounds(ROUNDS):
        with ExitStack() as held:
            made = migrated(choices, devices, held)
            assert resident(devices) == [0 if device < 2 else 2 for device in devices]

            def child(line, made=made):
                """Has the same pages, and faults some of them while the module goes."""
                held.close()  # its own ends of the pipes
                line.send()
                for region, _ in made:
                    region[: PAGES // 2].touch()
                line.receive()
                return all(region.matches(seed) for region, seed in made)

            with Child(child) as other:
                other.line.receive()
                unloading = threading.Thread(target=driver.unload)
                unloading.start()
                try:
                    assert all(region.matches(seed) for region, seed in made)
                    held.close()
                    unloading.join(PROMPT_S)
                    assert not unloading.is_alive(), "unloading waits for pages that nobody holds"
                    assert ranges() == 0
                    assert not any(node(device).exists() for device in devices)
                    assert all(region.matches(seed) for region, seed in made)
                    other.line.send()
                    assert other.result() is True
                finally:
                    driver.load()
        for region, _ in made:
            region.unmap()
        assert ranges()
        assert resident(devices) == [0] * len(devices)


@pytest.mark.contract("L-09")
def test_unloading_waits_for_nobody_who_has_a_hold(driver, devices, rounds):
    """It is refused while the descriptor of one is open, the file being closed long since."""
    for choices in rounds(3):
        with Mirror(choices.choice(devices)) as opened, opened.hold(choices.choice(list(POINTS))) as hold:
            opened.close()
            assert hold.state().state == "closed"
            with pytest.raises(subprocess.CalledProcessError):
                driver.unload()
            assert hold.state().state == "closed"
        driver.unload()
        driver.load()
