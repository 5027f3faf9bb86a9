# SPDX-License-Identifier: GPL-2.0
"""The demonstration, run where the driver is loaded: what filtering MMU_NOTIFY_MIGRATE saves, in real numbers.

It is the story of the series "mm/migrate: avoid device private invalidations" (Campbell, 2020).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dmirror.memory import Region
from dmirror.mirror import Counters, Mirror

PAGES = 64
FILTER = Path("/sys/module/dmirror/parameters/filter")
_COLOURS = {"r": "36", "D": "33;1", "z": "32", ".": "2"}


def _coloured() -> bool:
    if "NO_COLOR" in os.environ:
        return False
    return "FORCE_COLOR" in os.environ or sys.stdout.isatty()


def _paint(picture: str) -> str:
    if not _coloured():
        return picture
    return "".join(f"\x1b[{_COLOURS.get(page, '31')}m{page}\x1b[0m" for page in picture)


def _step(number: int, what: str, mirror: Mirror, region: Region, note: str = "") -> None:
    print(f"{number} {what:<32}{_paint(mirror.snapshot(region).picture())}  {note}".rstrip())


def _mixed_migration(mirror: Mirror, region: Region) -> tuple[Counters, int]:
    """Half back to system memory, then all of it to the device: what that did, and the faults of a read after it."""
    region[: PAGES // 2].touch()
    before = mirror.counters()
    mirror.migrate_to_device(region)
    delta = mirror.counters() - before
    result = mirror.read(region)
    if not result.data.matches(1):
        raise SystemExit("the device reads something else than was written: this kernel or driver is broken")
    return delta, result.faults


def main() -> None:
    """Tell the story; exit status 1 if the numbers are not what the kernel promises."""
    print(f"dmirror on Linux {os.uname().release}: what a filtered MMU_NOTIFY_MIGRATE saves")
    print(f"A buffer of {PAGES} pages, one character a page: r system memory, D memory of device 0\n")
    with Mirror(0) as mirror, Region.anonymous(PAGES) as region:
        region.fill(1)
        _step(1, "filled by the CPU", mirror, region)
        moved = mirror.migrate_to_device(region).pages
        _step(2, "migrated to the device", mirror, region, f"{moved} pages")
        region[: PAGES // 2].touch()
        _step(3, "first half touched by the CPU", mirror, region, f"{PAGES // 2} faults bring it back")
        kept, faults = _mixed_migration(mirror, region)
        _step(4, "the mixed range migrated again", mirror, region, f"{kept.pages_to_device} pages moved")
        print(f"  our own event filtered: {kept.entries_kept} device entries survived, {kept.entries_dropped} dropped")
        print(f"  the device reads it all with {faults} faults\n")

        print("The same with the filter off (echo 0 >/sys/module/dmirror/parameters/filter):")
        FILTER.write_text("0")
        try:
            lost, faults_without = _mixed_migration(mirror, region)
        finally:
            FILTER.write_text("1")
        _step(5, "half touched, migrated again", mirror, region, f"{lost.pages_to_device} pages moved")
        print(f"  our own event obeyed: {lost.entries_kept} device entries survived, {lost.entries_dropped} dropped\n")
        right = kept.entries_kept == lost.entries_dropped == PAGES // 2 and not kept.entries_dropped
        print(
            f"{kept.entries_kept} of {PAGES} device page-table entries survived because the event was filtered; "
            f"{lost.entries_dropped} would have been lost."
        )
    if not right or faults or faults_without > 1:
        raise SystemExit(f"expected {PAGES // 2} kept, {PAGES // 2} lost and no fault: this kernel or driver is broken")


if __name__ == "__main__":
    main()
