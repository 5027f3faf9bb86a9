# SPDX-License-Identifier: GPL-2.0
"""A migration as it is told: what its vectors say of each page, and what each choice changes."""

import errno

import pytest

from dmirror.events import MIGRATE
from dmirror.memory import HUGE_PAGES, PAGE, READ, Region
from dmirror.mirror import MirrorError

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")


def flags(word):
    return (word.valid, word.migrate, word.write, word.compound)


def stayed(mirror, before):
    """Why pages stayed since, without reasons that did not occur."""
    return {reason: count for reason, count in (mirror.counters() - before).stayed.items() if count}


class TestWords:
    """Source and destination of each page after setup, copy, migrate_vma_pages() and finalize."""

    def test_of_pages_that_move(self, mirror, region):
        ram = [page.pfn for page in mirror.page_info(region.fill(1))]
        migration = mirror.migrate(region)
        assert (migration.done, migration.collected, migration.moved) == (16, 16, 16)
        device = [page.pfn for page in mirror.page_info(region)]
        for words, source, target in zip(migration.words, ram, device, strict=True):
            assert flags(words.setup) == (True, True, True, False)
            assert {words.setup.pfn, words.pages.pfn, words.final.pfn} == {source}
            assert words.pages.migrate and words.final.migrate
            assert words.copied.valid and not words.copied.compound
            assert {words.copied.pfn, words.dst_pages.pfn, words.dst_final.pfn} == {target}
        assert len({words.copied for words in migration.words}) == 16
        assert region.matches(1)

    def test_of_the_way_back(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        device = [page.pfn for page in mirror.page_info(region)]
        migration = mirror.migrate(region, to="system")
        assert (migration.done, migration.collected, migration.moved) == (16, 16, 16)
        ram = [page.pfn for page in mirror.page_info(region)]
        assert [words.setup.pfn for words in migration.words] == device
        assert [words.dst_final.pfn for words in migration.words] == ram
        assert region.matches(1)

    @pytest.mark.contract("Z-01")
    @pytest.mark.parametrize("first", ["hole", "zero-page"])
    def test_of_what_is_not_there_yet(self, mirror, region, first):
        if first == "zero-page":
            region.touch()
        migration = mirror.migrate(region)
        assert migration.moved == 16
        for words in migration.words:
            assert (words.setup.valid, words.setup.migrate, words.setup.pfn) == (False, True, 0)
            assert words.pages.migrate
        assert mirror.peek(region).zero()

    def test_of_read_only_memory(self, mirror, region):
        region.fill(1)
        region.protect(READ)
        assert {flags(words.setup) for words in mirror.migrate(region).words} == {(True, True, False, False)}
        assert not any(page.write or page.mapped_write for page in mirror.page_info(region))

    @pytest.mark.contract("M-06")
    def test_of_pages_that_are_on_the_device(self, mirror, region):
        mirror.migrate_to_device(region[4:8].fill(1))
        before = mirror.counters()
        migration = mirror.migrate(region)
        assert (migration.collected, migration.moved) == (12, 12)
        for page in range(4, 8):
            assert set(migration.words[page]) == {0}
        assert stayed(mirror, before) == {"absent": 4}

    @pytest.mark.contract("M-03")
    def test_of_pages_that_somebody_holds(self, mirror, region):
        region.fill(1)
        before = mirror.counters()
        with region[5:7].in_a_pipe():
            migration = mirror.migrate(region)
        assert migration.moved == 14
        for page in (5, 6):
            assert set(migration.words[page]) == {0}
        # migrate_device_unmap() leaves 0 where it could not unmap: nothing says why.
        assert stayed(mirror, before) == {"absent": 2}
        assert mirror.snapshot(region).picture() == "DDDDDrrDDDDDDDDD"
        assert region.matches(1)

    def test_of_two_page_tables(self, mirror):
        with Region.anonymous(2 * HUGE_PAGES, align=HUGE_PAGES * PAGE) as region:
            span = region[HUGE_PAGES - 3 : HUGE_PAGES + 3].fill(1)
            ram = [page.pfn for page in mirror.page_info(span)]
            migration = mirror.migrate(span)
            assert (migration.done, migration.moved) == (6, 6)
            assert [words.setup.pfn for words in migration.words] == ram

    def test_of_an_error_in_the_middle(self, mirror, region):
        """Nothing is mapped there: what was before it moved, and that is what the call says."""
        region.fill(1)
        region[8].unmap()
        with pytest.raises(MirrorError) as caught:
            mirror.migrate(region)
        assert (caught.value.errno, caught.value.pages) == (errno.EINVAL, 8)
        assert mirror.snapshot(region[:8]).picture() == "D" * 8
        assert mirror.snapshot(region[9:]).picture() == "r" * 7


class TestChoices:
    """Of each page."""

    @pytest.mark.contract("M-04")
    @pytest.mark.parametrize("to", ["device", "system"])
    def test_a_page_without_a_destination_stays(self, mirror, region, to):
        region.fill(1)
        if to == "system":
            mirror.migrate_to_device(region)
        before = mirror.counters()
        migration = mirror.migrate(region, to=to, skip=[0, 7, 15])
        assert (migration.collected, migration.moved) == (16, 13)
        for page in (0, 7, 15):
            assert migration.words[page].setup.migrate
            assert migration.words[page].copied == 0
            assert not migration.words[page].pages.migrate
        assert stayed(mirror, before) == {"skipped": 3}
        picture = "rDDDDDDrDDDDDDDr" if to == "device" else "DrrrrrrDrrrrrrrD"
        assert mirror.snapshot(region).picture() == picture
        assert mirror.read(region).data.matches(1)
        assert region.matches(1)

    @pytest.mark.contract("M-05")
    @pytest.mark.parametrize("to", ["device", "system"])
    def test_a_page_with_a_reference_too_many_is_refused_after_the_copy(self, mirror, region, to):
        region.fill(1)
        if to == "system":
            mirror.migrate_to_device(region)
        before = mirror.counters()
        migration = mirror.migrate(region, to=to, reference=[3])
        assert migration.moved == 15
        assert migration.words[3].setup.migrate
        assert migration.words[3].copied.valid
        assert not migration.words[3].pages.migrate
        assert stayed(mirror, before) == {"core": 1}
        assert mirror.snapshot(region).picture() == ("DDDrDDDDDDDDDDDD" if to == "device" else "rrrDrrrrrrrrrrrr")
        assert mirror.read(region).data.matches(1)
        # The reference is given back: nothing keeps the page any more.
        assert mirror.migrate(region, to=to).moved == 1
        assert region.matches(1)

    def test_a_page_that_is_no_anonymous_memory_stays(self, mirror):
        with Region.file(4, private=True) as region:
            region[:2].fill(1)
            region[2:].touch()  # pages of the file itself
            before = mirror.counters()
            assert mirror.migrate(region).moved == 2
            assert stayed(mirror, before) == {"kind": 2}
            assert region[:2].matches(1) and region[2:].zero()


class TestSelection:
    def test_nothing_of_another_kind_is_collected(self, mirror, region):
        mirror.migrate_to_device(region[:8].fill(1))
        region[8:].fill(1)
        before = mirror.counters()
        assert mirror.migrate(region[8:], select=("private",)).collected == 0
        assert mirror.migrate(region[:8], to="system", select=("coherent",)).collected == 0
        assert stayed(mirror, before) == {"absent": 16}
        assert mirror.snapshot(region).picture() == "D" * 8 + "r" * 8

    def test_from_the_device_to_the_device(self, mirror, region):
        """Other pages of the same device, with the same data."""
        mirror.migrate_to_device(region.fill(1))
        before = mirror.page_info(region)
        assert mirror.migrate(region, select=("private",)).moved == 16
        after = mirror.page_info(region)
        assert not {page.index for page in before} & {page.index for page in after}
        assert {page.device for page in after} == {0}
        assert mirror.peek(region).matches(1)
        assert region.matches(1)

    def test_from_the_system_to_the_system(self, mirror, region):
        before = [page.pfn for page in mirror.page_info(region.fill(1))]
        assert mirror.migrate(region, to="system", select=("system",)).moved == 16
        assert not set(before) & {page.pfn for page in mirror.page_info(region)}
        assert region.matches(1)

    @pytest.mark.parametrize("owner", ["other", "none"])
    def test_pages_of_the_device_are_those_of_its_owner(self, mirror, region, owner):
        mirror.migrate_to_device(region.fill(1))
        assert mirror.migrate(region, to="system", owner=owner).collected == 0
        assert mirror.snapshot(region).picture() == "D" * 16

    def test_pages_of_the_neighbour_are_those_of_the_other_owner(self, mirror, mirror2, region):
        mirror2.migrate_to_device(region.fill(1))
        assert mirror.migrate(region, to="system").collected == 0
        assert mirror.migrate(region, to="system", owner="other").moved == 16
        assert mirror2.snapshot(region).picture() == "r" * 16
        assert region.matches(1)


class TestEvents:
    @pytest.mark.contract("N-03")
    @pytest.mark.parametrize("owner", ["own", "other", "none"])
    def test_the_owner_is_the_one_that_mirrors_are_told(self, mirror, mirror2, region, owner):
        seen_by_other = {"own": "other", "other": "own", "none": "none"}
        mirror.read(region.fill(1))
        mirror2.read(region)
        with mirror.events() as log, mirror2.events() as theirs:
            assert mirror.migrate(region, owner=owner).moved == 16
            log.expect(MIGRATE, region, owner=owner, filtered=owner == "own", pages=16)
            theirs.expect(MIGRATE, region, owner=seen_by_other[owner], filtered=False, pages=16)
        assert mirror.peek(region).matches(1)
        assert region.matches(1)

    def test_a_mirror_that_obeys_its_own_event_drops_everything(self, mirror, region):
        mirror.read(region.fill(1))
        with mirror.events() as log:
            mirror.migrate(region, skip=[3], obey=True)
            log.expect(MIGRATE, region, owner="own", filtered=False, pages=16)
        assert mirror.page_info(region[3])[0].mapped == 0
        assert mirror.page_info(region[4])[0].mapped_device

    @pytest.mark.contract("M-06")
    def test_a_mirror_that_filters_keeps_what_stays(self, mirror, region):
        mirror.read(region.fill(1))
        with mirror.events() as log:
            mirror.migrate(region[4:8])
            log.expect(MIGRATE, region[4:8], owner="own", filtered=True, pages=4)
        assert all(page.mapped for page in mirror.page_info(region))


class TestOrders:
    @pytest.fixture
    def huge(self, mirror):
        with Region.huge(1) as huge:
            yield huge.fill(1)

    @THP
    @pytest.mark.contract("T-01")
    def test_a_huge_source_is_one_word(self, mirror, huge):
        migration = mirror.migrate(huge)
        assert (migration.done, migration.moved) == (HUGE_PAGES, HUGE_PAGES)
        assert flags(migration.words[0].setup) == (True, True, True, True)
        assert migration.words[0].copied.compound
        assert {words.setup for words in migration.words[1:]} == {0}
        (first,) = mirror.page_info(huge[0])
        assert (first.pfn, first.order) == (migration.words[0].copied.pfn, 9)

    @pytest.mark.contract("M-23")
    def test_what_setup_counts(self, mirror, huge):
        """cpages: folios since there are huge device folios (6.19), pages before."""
        folios = "device_thp" in mirror.capabilities()
        assert mirror.migrate(huge).collected == (1 if folios else HUGE_PAGES)

    @THP
    @pytest.mark.contract("T-02")
    def test_small_destinations_for_a_huge_source(self, mirror, huge):
        migration = mirror.migrate(huge, order="small")
        assert migration.moved == HUGE_PAGES
        assert migration.words[0].setup.compound
        assert not any(words.copied.compound for words in migration.words)
        assert {str(page) for page in mirror.snapshot(huge)} == {"local rw"}
        assert mirror.peek(huge).matches(1)
        assert huge.matches(1)

    @THP
    @pytest.mark.contract("M-04")
    def test_a_huge_source_of_which_one_page_stays(self, mirror, huge):
        migration = mirror.migrate(huge, skip=[5])
        assert migration.moved == HUGE_PAGES - 1
        assert mirror.snapshot(huge).picture() == "D" * 5 + "r" + "D" * (HUGE_PAGES - 6)
        assert mirror.read(huge).data.matches(1)
        assert huge.matches(1)

    @THP
    @pytest.mark.contract("T-03")
    def test_a_huge_destination_for_a_small_hole_is_refused(self, mirror):
        with Region.anonymous(HUGE_PAGES, align=HUGE_PAGES * PAGE) as small:
            small[3].touch()  # there is a page table
            before = mirror.counters()
            migration = mirror.migrate(small, order="huge")
            assert (migration.done, migration.moved) == (HUGE_PAGES, 0)
            # It took the room of the others.
            assert stayed(mirror, before) == {"core": 1, "memory": HUGE_PAGES - 1}
            assert mirror.counters().dev_pages_in_use == 0
            assert mirror.snapshot(small).picture() == "...z" + "." * (HUGE_PAGES - 4)

    @pytest.mark.needs(kernel="<6.19")
    @pytest.mark.parametrize("to", ["device", "system"])
    def test_a_huge_destination_is_eopnotsupp_where_there_is_none(self, mirror, huge, to):
        with pytest.raises(MirrorError) as caught:
            mirror.migrate(huge, to=to, order="huge")
        assert caught.value.errno == errno.EOPNOTSUPP
        assert mirror.counters().dev_pages_in_use == 0
        assert huge.matches(1)

    @THP
    def test_pages_are_counted_by_their_order(self, mirror, huge, region):
        before = mirror.counters()
        mirror.migrate(huge)
        mirror.migrate(region.fill(1))
        mirror.migrate(huge, to="system")
        mirror.migrate(region, to="system")
        counts = mirror.counters() - before
        assert (counts.pages_to_device, counts.huge_to_device) == (HUGE_PAGES + 16, 1)
        assert (counts.pages_to_system, counts.huge_to_system) == (HUGE_PAGES + 16, 1)
