# SPDX-License-Identifier: GPL-2.0
"""`dmirror fuzz`: sets up a campaign, or goes on with one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.fuzz import alone
from dmirror.fuzz.campaign import CORPUS, Campaign, Progress, minimise
from dmirror.fuzz.link import Guest
from dmirror.fuzz.show import line, shown
from dmirror.kernel import Kernel
from dmirror.kernel.decode import annotate
from dmirror.paths import cache
from dmirror.uapi import build as uapi
from dmirror.vm import runs, symbols
from dmirror.vm.image import python_image
from dmirror.vm.spec import GuestSpec

# Each end of a mirror and of device memory waits for a grace period, and on two processors nothing is gained where RCU
# looks for its end a tick later (Documentation/admin-guide/kernel-parameters.txt): a quarter of all time.
_SOONER = "rcutree.jiffies_till_first_fqs=0"

KIND = "fuzz"
LAST = Path()
"""For --resume without a folder."""


def model_only(seed: int | None, count: int) -> int:
    """The model against itself; the exit status."""
    return alone.run(seed if seed is not None else 0, count)


def run(
    kernel: Kernel, spec: GuestSpec, *, seed: int | None, seconds: float | None, guests: int, resume: Path | None
) -> int:
    """A campaign on that kernel; the exit status. Raises CannotRun."""
    uapi.ensure()
    python_image()
    if resume is None:
        folder = runs.new(KIND)
        progress = Progress(random.randrange(1 << 31) if seed is None else seed, kernel.release)
    else:
        folder = _last() if resume == LAST else resume.expanduser().resolve()
        progress = Progress.load(folder)
        if seed not in (None, progress.seed) or progress.release != kernel.release:
            raise CannotRun(
                f"{folder} has seed {progress.seed} on {progress.release}, not {seed} on {kernel.release}",
                "leave --seed out, and name the same kernel",
            )
        runs.again(folder)
    spec = spec._replace(kept=(str(folder),), append=f"{_SOONER} {spec.append}")
    status = 0
    with shown() as show:
        campaign = Campaign(folder, progress, kernel, decode=_decoder(spec), show=show)
        places = [folder / f"guest-{number}" for number in range(guests)]
        for place in places:
            place.mkdir(exist_ok=True)
        try:
            campaign.run([Guest(spec, place) for place in places], seconds=seconds)
        except KeyboardInterrupt:
            status = 130
    left = minimise(folder / CORPUS)
    print(line(progress))
    print(f"{left} scenarios show all of it: {folder / CORPUS}")
    for signature, found in progress.folders.items():
        print(f"{progress.known.get(signature, 0):>6}  {signature}\n        {found}")
    print(f"dmirror: dmirror fuzz --resume={folder} goes on with round {progress.rounds}", file=sys.stderr)
    return status or int(bool(progress.known))


def _last() -> Path:
    campaigns = sorted((cache() / KIND).glob("*/campaign.json"), key=lambda file: file.stat().st_mtime)
    if not campaigns:
        raise CannotRun("there is no campaign to go on with", "start one: dmirror fuzz --seed=1")
    return campaigns[-1].parent


def _decoder(spec: GuestSpec) -> Callable[[list[str]], list[str]]:
    def decode(lines: list[str]) -> list[str]:
        return annotate(lines, *symbols.of(spec))

    return decode
