# SPDX-License-Identifier: GPL-2.0
"""What the kernel that runs here can do, of what the model wants to know, as far as it can be asked or tried."""

from __future__ import annotations

import errno
import functools
import mmap

from dmirror.memory import Region
from dmirror.mirror import Mirror
from dmirror.model.rules import MOVES_SEVERAL


@functools.cache
def features() -> frozenset[str]:
    """Capabilities of the driver, and MOVES_SEVERAL."""
    with Mirror(0) as mirror:
        found = mirror.capabilities()
    return found | {MOVES_SEVERAL} if moves_several() else found


def moves_several() -> bool:
    """Whether mremap(2) moves two mappings in one call. Tried on memory of its own."""
    with Region.anonymous(4) as memory:
        memory[:1].protect(mmap.PROT_READ)
        try:
            memory[:2].move(memory[2:])
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return False
    return True
