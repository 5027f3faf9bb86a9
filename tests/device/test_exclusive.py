# SPDX-License-Identifier: GPL-2.0
"""Section 10: device-exclusive access."""

import errno

import pytest

from dmirror.memory import READ, Region
from dmirror.mirror import MirrorError
from dmirror.process import in_child


@pytest.mark.contract("X-01")
def test_exclusive_until_the_cpu_touches(mirror, region):
    region.fill(1)
    result = mirror.exclusive(region)
    assert result.pages == len(region) and result.data.matches(1)
    assert mirror.is_exclusive(region)
    assert mirror.snapshot(region).where == ["none"] * len(region)
    region[3].touch()
    assert not mirror.is_exclusive(region[3]) and mirror.is_exclusive(region[4:])
    assert region.matches(1)
    assert not mirror.is_exclusive(region)


@pytest.mark.contract("X-01")
def test_holes_become_exclusive_pages(mirror, region):
    assert mirror.exclusive(region).data.zero()
    assert mirror.is_exclusive(region)
    assert region.zero()


@pytest.mark.contract("X-04")
@pytest.mark.needs(capability="counters")
def test_another_device_loses_its_entry_first(mirror, mirror2, region):
    mirror2.read(region.fill(1))
    mirror.exclusive(region)
    assert mirror2.counters().entries_present == 0
    assert mirror.is_exclusive(region)


@pytest.mark.contract("X-05")
def test_exclusivity_moves_between_devices(mirror, mirror2, region):
    region.fill(1)
    for _ in range(10):
        mirror.exclusive(region)
        assert not mirror2.is_exclusive(region)
        mirror2.exclusive(region)
        assert not mirror.is_exclusive(region)
    assert region.matches(1)


@pytest.mark.contract("X-06")
def test_fork_gives_both_sides_the_page(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    assert in_child(lambda: region.matches(1))
    assert region.fill(2).matches(2)


@pytest.mark.contract("X-07")
def test_mprotect_is_obeyed(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    region.protect(READ)
    assert not mirror.is_exclusive(region)
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 2)
    assert caught.value.errno == errno.EPERM
    assert region.matches(1)


@pytest.mark.contract("X-08")
@pytest.mark.parametrize("kind", ["read-only", "gap", "shared"])
def test_what_cannot_be_exclusive_fails(mirror, kind):
    with Region.shared(4) if kind == "shared" else Region.anonymous(4) as region:
        region.fill(1)
        if kind == "read-only":
            region.protect(READ)
        if kind == "gap":
            region.unmap()
        with pytest.raises(MirrorError) as caught:
            mirror.exclusive(region)
        assert caught.value.errno in (errno.EFAULT, errno.EOPNOTSUPP, errno.EBUSY, errno.EINVAL)
        assert not mirror.is_exclusive(region)


@pytest.mark.contract("D-26")
@pytest.mark.needs(capability="counters")
def test_an_error_says_which_pages_became_exclusive(mirror, region):
    region.fill(1)
    region[9:].protect(READ)
    with pytest.raises(MirrorError) as caught:
        mirror.exclusive(region)
    assert caught.value.pages == 9
    assert mirror.is_exclusive(region[8]) and not mirror.is_exclusive(region[9:])


@pytest.mark.contract("X-09")
def test_exclusive_pages_are_unmapped_once(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    region.advise(4)  # MADV_DONTNEED
    assert not mirror.is_exclusive(region)
    assert region.zero()


@pytest.mark.contract("X-11")
def test_a_device_write_revokes(mirror, region):
    region.fill(1)
    mirror.exclusive(region)
    mirror.write(region, 2)
    assert not mirror.is_exclusive(region)
    assert region.matches(2)


def test_a_page_of_the_device_becomes_exclusive_system_memory(mirror, region):
    region.fill(1)
    mirror.migrate_to_device(region)
    assert mirror.exclusive(region).data.matches(1)
    assert mirror.is_exclusive(region)
    assert region.matches(1)
