# SPDX-License-Identifier: GPL-2.0
"""Where kernels differ in what they promise: each difference that the model knows, by what can be asked of one.

Most is what the driver says that it can do (docs/driver.md, QUERY), and it says what its probes found in the tree that
it was built for: so a backport is what it is, whatever its release.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from dmirror.scenario.words import CAPABILITIES

MOVES_SEVERAL = "moves_several"
"""A feature that the driver has nothing to do with, so that whoever plays tries it."""

# Since which release a known kernel has what not all have.
_SINCE = {
    "coherent_exclusive": (6, 15),
    MOVES_SEVERAL: (6, 17),
    "device_thp": (6, 19),
    "two_pass": (7, 2),
    "carried": (7, 2),
    "read_unlocked": (7, 3),
}


@dataclass(frozen=True)
class Rules:
    """What holds on one kernel."""

    huge_device_pages: bool
    """A huge page migrates as one, and a huge hole is one (6.19)."""
    exclusive_by_page: bool
    """make_device_exclusive() takes one page a call; before, a range, of which a part may succeed (6.15)."""
    moves_several: bool
    """mremap() moves several mappings in one call (6.17)."""

    @classmethod
    def of(cls, features: Collection[str]) -> Rules:
        """Those of a kernel on which the driver has these capabilities, and MOVES_SEVERAL."""
        return cls(
            huge_device_pages="device_thp" in features,
            # The driver lets coherent pages be exclusive where the call is the one for a page.
            exclusive_by_page="coherent_exclusive" in features,
            moves_several=MOVES_SEVERAL in features,
        )


def known(release: str) -> frozenset[str]:
    """The features of a known kernel, by a release such as 7.2.13-dmirror, where there is none to ask."""
    match = re.match(r"(\d+)\.(\d+)", release)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    return frozenset(name for name in (*CAPABILITIES, *_SINCE) if number >= _SINCE.get(name, (0, 0)))


NEWEST = Rules.of(known("7.3"))
