# SPDX-License-Identifier: GPL-2.0
"""M-19: a huge device page that a fork shares, and whose migration back fails: with DEBUG_VM the guest panics."""

from dmirror.memory import Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child

with Mirror(0) as mirror, Region.huge(1) as huge:
    mirror.migrate(huge.fill(1))
    with Child(lambda line: line.receive()) as other, mirror.inject("copy", 1):
        try:
            mirror.migrate_to_system(huge)
        except MirrorError as error:
            print(error)
        other.line.send()
        other.result()
