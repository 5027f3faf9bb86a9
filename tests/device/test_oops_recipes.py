# SPDX-License-Identifier: GPL-2.0
"""Three short programs that oops the in-tree driver (D-01): a device page without a device entry."""

import pytest

from dmirror.memory import READ
from dmirror.process import in_child

pytestmark = [pytest.mark.contract("D-01"), pytest.mark.contract("H-09")]


def test_untouched_memory_migrated_then_written_by_the_device(mirror, region):
    mirror.migrate_to_device(region)
    mirror.write(region, 1)
    assert region.matches(1)


def test_migrated_then_forked_then_read_by_the_device(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    in_child(lambda: None)
    assert mirror.read(region).data.matches(1)


def test_migrated_then_protected_then_read_by_the_device(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    region.protect(READ)
    assert mirror.read(region).data.matches(1)
