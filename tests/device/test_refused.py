# SPDX-License-Identifier: GPL-2.0
"""Section 3, M-01, M-08 and M-09: what migrate_vma_setup() refuses or leaves out, without a trace."""

import errno
import mmap
from pathlib import Path

import pytest

from dmirror.events import MIGRATE
from dmirror.memory import HUGE_PAGES, PAGE, READ, Region, Span
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import in_child

pytestmark = pytest.mark.needs(capability="steer")


def mapping(name):
    """The mapping of this process that the kernel calls so."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(name):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            return Span(start, (end - start) // PAGE)
    pytest.skip(f"this process has no {name}")


def device_node(mirror, private):
    """Pages of the driver's own, in a mapping of its node: VM_MIXEDMAP."""
    return Region.of_file(mirror.fd, 4, private=private)


SPECIAL = {
    "hugetlb": lambda mirror: Region.hugetlb(1),
    "device-node": lambda mirror: device_node(mirror, False),
    "private-device-node": lambda mirror: device_node(mirror, True),
    "vdso": lambda mirror: mapping("[vdso]"),
    "vvar": lambda mirror: mapping("[vvar]"),
}


@pytest.mark.contract("M-01")
@pytest.mark.parametrize("to", ["device", "system"])
@pytest.mark.parametrize("select", [(), ("system",), ("system", "private", "coherent", "compound")])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_mapping_is_refused_before_anybody_is_told(mirror, kind, to, select):
    memory = SPECIAL[kind](mirror)
    try:
        if kind != "vvar":
            memory.load()
        if "node" in kind:
            memory.store(77)
        before, counters = memory.pagemap(), mirror.counters()
        with mirror.events(buf=memory) as log:
            with pytest.raises(MirrorError) as caught:
                mirror.migrate(memory, to=to, select=select)
            assert (caught.value.errno, caught.value.pages) == (errno.EINVAL, 0)
            log.expect(MIGRATE, over=memory, times=0)
        assert memory.pagemap() == before
        delta = mirror.counters() - counters
        assert (delta.dev_pages_in_use, delta.dev_pages_allocated) == (0, delta.dev_pages_freed)
        if "node" in kind:
            assert memory.load() == 77
    finally:
        if isinstance(memory, Region):
            memory.unmap()


@pytest.mark.contract("M-01")
@pytest.mark.contract("H-01")
def test_a_mapping_of_a_device_is_mirrored_and_never_moved(mirror, mirror2):
    """Not by the device whose it is, not by the other; nor when it lies between what does migrate."""
    with device_node(mirror2, False) as pages:
        pages.fill(1)
        for device in (mirror, mirror2):
            with pytest.raises(MirrorError) as caught:
                device.migrate(pages)
            assert caught.value.errno == errno.EINVAL
            assert device.read(pages).data.matches(1)
            device.write(pages, 2)
            assert pages.matches(2)
            pages.fill(1)


@pytest.mark.contract("M-01")
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_range_beyond_its_mapping_moves_only_what_is_mapped(mirror, place):
    with Region.anonymous(24) as region:
        region.fill(1)
        gap = region[:8] if place == "before" else region[16:]
        gap.unmap()
        rest = region[8:] if place == "before" else region[:16]
        with pytest.raises(MirrorError) as caught:
            mirror.migrate(region)
        assert caught.value.errno == errno.EINVAL
        assert caught.value.pages == (0 if place == "before" else 16)
        assert set(mirror.snapshot(gap).where) == {"error"}
        assert mirror.snapshot(rest).picture() == ("r" if place == "before" else "D") * 16
        assert rest.matches(1)


@pytest.mark.contract("M-08")
@pytest.mark.parametrize("huge", [False, True], ids=["small", "huge"])
def test_what_is_not_selected_is_not_unmapped_and_not_in_the_vector(mirror, mirror2, huge):
    """Not even for a moment: the device whose it is maps it still."""
    with Region.huge(1) if huge else Region.anonymous(16) as memory:
        mirror2.migrate(memory.fill(1))
        indexes = [page.index for page in mirror2.page_info(memory)]
        for select, to in (((), "device"), ((), "system"), (("private",), "system"), (("coherent",), "system")):
            before = mirror2.counters()
            migration = mirror.migrate(memory, to=to, select=select)
            assert (migration.collected, migration.moved) == (0, 0)
            assert {words.setup for words in migration.words} == {0}
            assert [page.index for page in mirror2.page_info(memory)] == indexes
            assert (mirror2.counters() - before).dev_cpu_faults == 0
        assert mirror2.read(memory).data.matches(1)
        mirror2.migrate_to_system(memory)
        # In system memory it is nobody's to bring back.
        frames = [page.pfn for page in mirror.page_info(memory)]
        for device in (mirror, mirror2):
            migration = device.migrate(memory, to="system")
            assert (migration.collected, migration.moved) == (0, 0)
            assert [page.pfn for page in mirror.page_info(memory)] == frames
        assert memory.matches(1)


@pytest.mark.contract("M-08")
def test_among_pages_of_everybody_only_those_that_are_selected_move(mirror, mirror2, coherent, block):
    block.fill(1)
    mirror.migrate(block[0:4])
    mirror2.migrate(block[4:8])
    coherent.migrate(block[8:12])
    for device, pages in ((mirror, range(4)), (mirror2, range(4, 8)), (coherent, range(8, 12))):
        before = [page.pfn for page in mirror.page_info(block)]
        migration = device.migrate(block, to="system")
        assert [page for page, words in enumerate(migration.words) if words.setup.migrate] == list(pages)
        assert migration.moved == 4
        after = [page.pfn for page in mirror.page_info(block)]
        # Pages of other devices are nothing to a snapshot, before as after.
        assert all(before[page] == after[page] for page in range(8, 16) if page not in pages)
        device.migrate(block[pages.start : pages.stop])
    assert mirror.snapshot(block).picture()[:4] == mirror2.snapshot(block).picture()[4:8] == "DDDD"
    assert coherent.snapshot(block).picture()[8:12] == "DDDD"
    assert block.matches(1)


@pytest.mark.contract("M-09")
@pytest.mark.parametrize("kind", ["there-already", "shared", "none-selected"])
def test_a_range_with_nothing_to_move_is_left_as_it_is(mirror, region, kind):
    region.fill(1)
    select = ()
    if kind == "there-already":
        mirror.migrate(region)
    elif kind == "none-selected":
        select = ("private",)
    else:
        with Region.shared(16) as shared:
            before = shared.fill(2).pagemap()
            assert mirror.migrate(shared).moved == 0
            assert shared.pagemap() == before
            assert shared.matches(2)
        return
    before = mirror.page_info(region)
    migration = mirror.migrate(region, select=select)
    assert (migration.collected, migration.moved) == (0, 0)
    assert mirror.page_info(region) == before
    assert region.matches(1)


@pytest.mark.contract("M-07")
@pytest.mark.contract("A-05")
@pytest.mark.parametrize("huge", [False, True], ids=["small", "huge"])
def test_a_process_whose_pages_went_back_and_forth_leaves_nothing(mirror, huge):
    """By whatever way back; the kernel complains of counts that are not even when its memory goes."""
    before = mirror.counters()

    def child():
        with (
            Mirror(0) as own,
            Mirror(1) as other,
            Region.huge(2) if huge else Region.anonymous(64) as memory,
        ):
            part = memory[: len(memory) // 2]
            for turn in range(12):
                memory.fill(turn)
                own.migrate(memory if turn % 2 else part)
                ways = (memory.touch, lambda: own.migrate_to_system(memory), lambda: other.read(memory), own.release)
                ways[turn % 4]()
                if turn % 3 == 0:
                    part.advise(mmap.MADV_DONTNEED)
                    assert not part.load()
                    assert memory[len(part) :].matches(turn)
                elif turn % 3 == 1:
                    other.migrate(part)
                    part.protect(READ)
                    part.protect(READ | mmap.PROT_WRITE)
                    assert memory.matches(turn)
                else:
                    assert memory.matches(turn)
            own.migrate(memory)
            return len(memory)

    assert in_child(child) == (2 * HUGE_PAGES if huge else 64)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed
    assert delta.dev_pages_in_use == 0
