# SPDX-License-Identifier: GPL-2.0
"""Section 4: holes and the zero page."""

import errno

import pytest

from dmirror.memory import READ, RW, Region
from dmirror.mirror import MirrorError
from dmirror.process import ChildKilled, in_child


@pytest.mark.contract("Z-01")
@pytest.mark.parametrize("first", ["nothing", "cpu-read", "device-read"])
def test_a_hole_becomes_zeroes_on_the_device(mirror, region, first):
    {"nothing": lambda: None, "cpu-read": region.touch, "device-read": lambda: mirror.read(region)}[first]()
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region) and result.data.zero()
    assert {str(page) for page in mirror.snapshot(region)} == {"local rw"}
    assert region.zero()


@pytest.mark.contract("Z-01")
@pytest.mark.contract("D-20")
def test_a_filled_hole_of_writable_memory_is_writable_for_the_device(mirror, region):
    mirror.migrate_to_device(region)
    result = mirror.write(region, 1)
    assert mirror.snapshot(region).where == ["local"] * len(region)
    assert result.faults == 0
    assert region.matches(1)


@pytest.mark.contract("Z-01")
def test_holes_between_pages(mirror, region):
    region[3:5].fill(1)
    region[9:10].touch()
    result = mirror.migrate_to_device(region)
    assert result.pages == len(region)
    assert region[:3].zero() and region[3:5].matches(1) and region[5:].zero()


@pytest.mark.contract("Z-06")
def test_a_filled_hole_of_read_only_memory_stays_read_only(mirror, region):
    region.protect(READ)
    mirror.migrate_to_device(region)
    assert {str(page) for page in mirror.snapshot(region)} == {"local r"}
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 1)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: region.store(1))
    region.touch()
    with pytest.raises(MirrorError) as caught:
        mirror.write(region, 1)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(ChildKilled, match="SIGSEGV"):
        in_child(lambda: region.store(1))
    region.protect(RW)
    assert region.zero()


@pytest.mark.contract("Z-08")
@pytest.mark.parametrize("make", [Region.shared, Region.memfd, Region.file])
def test_holes_of_shared_memory_are_not_filled(mirror, make):
    with make(8) as region:
        before = region.pagemap()
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 0)
        assert region.pagemap() == before
        assert region.zero()


@pytest.mark.contract("F-02")
def test_holes_of_a_private_file_mapping_are_not_filled(mirror):
    with Region.file(8, private=True) as region:
        with pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert caught.value.errno == errno.ENOENT
        assert region.zero()
