# SPDX-License-Identifier: GPL-2.0
"""Where kernels differ in what they promise: each difference that the model knows, by release."""

from __future__ import annotations

import re
from dataclasses import dataclass


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
    def of(cls, release: str) -> Rules:
        """Those of a release such as 7.2.13-dmirror."""
        match = re.match(r"(\d+)\.(\d+)", release)
        number = (int(match[1]), int(match[2])) if match else (0, 0)
        return cls(
            huge_device_pages=number >= (6, 19),
            exclusive_by_page=number >= (6, 15),
            moves_several=number >= (6, 17),
        )


NEWEST = Rules.of("7.3")
