# SPDX-License-Identifier: GPL-2.0
"""Section 3, pages that stay: refused by setup, skipped by the driver, lost to a reference on the way."""

import mmap
import os
from contextlib import contextmanager
from itertools import chain, combinations
from pathlib import Path

import pytest
from facilities.userfault import Userfault

from dmirror.memory import HUGE_PAGES, PAGE, READ, RW, Region
from dmirror.process import Child
from dmirror.running import release_matches

pytestmark = pytest.mark.needs(capability="steer")

# /proc/PID/pagemap
SOFT_DIRTY, EXCLUSIVE, UFFD_WP = 1 << 55, 1 << 56, 1 << 57


def clear_refs(what):
    """/proc/self/clear_refs: 1 makes every page unreferenced, 4 none soft-dirty."""
    Path("/proc/self/clear_refs").write_text(str(what))


def entries(mirror, span):
    """What is to be seen of the page table entries of a span: word of pagemap, page frame, writable, order."""
    pages = mirror.page_info(span)
    return [(word, page.pfn, page.write, page.order) for word, page in zip(span.pagemap(), pages, strict=True)]


def stays(mirror, memory):
    """The pages that are not on the device."""
    return [page for page, state in enumerate(mirror.snapshot(memory)) if state.where != "local"]


# -- refused by setup -------------------------------------------------------------------------------------------


@contextmanager
def soft_clean(memory, part):
    memory.advise(mmap.MADV_DONTDUMP)  # merges with no mapping that is new, and so soft-dirty as a whole
    clear_refs(4)
    memory[len(part) :].fill(1)
    yield lambda word, pfn, write, order: not word & SOFT_DIRTY


@contextmanager
def shared(memory, part):
    with Child(lambda line: line.receive()):
        memory[len(part) :].fill(1)
        yield lambda word, pfn, write, order: not (word & EXCLUSIVE or write)


@contextmanager
def write_protected(memory, part):
    with Userfault() as userfault:
        userfault.write_protect(part)
        yield lambda word, pfn, write, order: word & UFFD_WP and not write


@contextmanager
def read_only(memory, part):
    part.protect(READ)
    yield lambda word, pfn, write, order: not write
    part.protect(RW)


def made_soft_dirty(kernel, where):
    return pytest.mark.xfail(
        release_matches(os.uname().release, kernel),
        reason=f"{where} makes a dirty entry soft-dirty too: pte_mkdirty() and pmd_mkdirty() of x86 do, and nothing "
        "clears it, as remove_migration_pte() does since 6.12",
    )


@pytest.mark.contract("M-03")
@pytest.mark.parametrize(
    ("state", "huge"),
    [
        pytest.param(
            soft_clean, False, marks=made_soft_dirty("<6.12", "remove_migration_pte() (6.1 mm/migrate.c:213)")
        ),
        pytest.param(
            soft_clean, True, marks=made_soft_dirty(">=7.2", "remove_migration_pmd() (7.3 mm/huge_memory.c:5160)")
        ),
        *((state, huge) for state in (shared, write_protected, read_only) for huge in (False, True)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "huge" if value else "small",
)
def test_a_page_in_use_has_its_entry_back_after_setup(mirror, huge, state):
    with Region.huge(1) if huge else Region.anonymous(16, align=16 * PAGE) as memory:
        memory.fill(1)
        part = memory if huge else memory[:8]
        with state(memory, part) as has_it, memory[-16:].in_a_pipe():
            before = entries(mirror, memory)
            assert [bool(has_it(*entry)) for entry in before] == [page < len(part) for page in range(len(memory))]
            migration = mirror.migrate(memory)
            assert {words.setup for words in migration.words} == {0}
            assert entries(mirror, memory) == before
        # Nothing is left that would keep it: on the LRU, no reference too many.
        assert mirror.migrate(memory).moved == len(memory)
        assert memory.matches(1)


@pytest.mark.contract("M-03")
def test_only_the_page_in_use_stays(mirror, block):
    block.fill(1)
    with block[5:7].in_a_pipe():
        before = entries(mirror, block[5:7])
        migration = mirror.migrate(block)
        assert [words.setup.migrate for words in migration.words] == [page not in (5, 6) for page in range(16)]
        assert mirror.snapshot(block).picture() == "DDDDDrrDDDDDDDDD"
        assert entries(mirror, block[5:7]) == before
    assert block.matches(1)


def referenced(span):
    """Pages that were referenced, of the mapping that begins where the span does: proc_pid_smaps(5)."""
    _, _, rest = Path("/proc/self/smaps").read_text().partition(f"\n{span.addr:x}-")
    return int(rest.partition("\nReferenced:")[2].split()[0]) * 1024 // PAGE


@pytest.mark.contract("M-03")
def test_a_page_in_use_is_as_young_as_before(mirror, block):
    block.advise(mmap.MADV_DONTDUMP)  # a mapping of its own
    block.fill(1)
    with block.in_a_pipe():
        clear_refs(1)
        # Flushes the TLB, without which the processor does not note the next access.
        block.protect(READ)
        block.protect(RW)
        assert referenced(block) == 0
        block[:4].touch()
        assert referenced(block) == 4
        assert mirror.migrate(block).moved == 0
        assert referenced(block) == 4


# -- skipped by the driver --------------------------------------------------------------------------------------


def prepare(memory, what):
    memory.advise(mmap.MADV_DONTNEED)
    if what == "pages":
        memory.fill(1)
    elif what == "zero-pages":
        memory.touch()
    elif what == "all-of-them":
        memory[0:2].fill(1)
        memory[2:4].touch()


@pytest.mark.contract("M-04")
@pytest.mark.parametrize("what", ["pages", "holes", "zero-pages", "all-of-them"])
def test_any_pages_may_be_skipped_and_all_others_move(mirror, block, what):
    memory = block[:6]
    for skip in chain.from_iterable(combinations(range(6), count) for count in range(7)):
        prepare(memory, what)
        before = entries(mirror, memory)
        migration = mirror.migrate(memory, skip=skip)
        after = entries(mirror, memory)
        assert all(words.setup.migrate for words in migration.words)
        assert [page for page, words in enumerate(migration.words) if not words.pages.migrate] == list(skip)
        assert stays(mirror, memory) == list(skip)
        assert [after[page] for page in skip] == [before[page] for page in skip]
        for page in range(6):
            filled = what == "pages" or (what == "all-of-them" and page < 2)
            assert memory[page].matches(1) if filled else not memory.load(page)


SPLITS = release_matches(os.uname().release, "<7.2")
"""migrate_vma_setup() splits what is huge: each page has an entry of its own."""

HUGE_SKIPS = {
    "first": [0],
    "second": [1],
    "last": [HUGE_PAGES - 1],
    "every-other": range(1, HUGE_PAGES, 2),
    "all-but-first": range(1, HUGE_PAGES),
    "all": range(HUGE_PAGES),
}
FIRST_SKIPPED = pytest.mark.xfail(
    not SPLITS,
    reason="the entry without a destination is the only one that is looked at: __migrate_device_pages() leaves the "
    "other 511 where they are, and their destinations unused (7.3 mm/migrate_device.c:1126)",
)


def huge_skips(*names):
    return [pytest.param(HUGE_SKIPS[name], id=name, marks=FIRST_SKIPPED if name == "first" else ()) for name in names]


@pytest.mark.contract("M-04")
@pytest.mark.parametrize("skip", huge_skips(*HUGE_SKIPS))
def test_parts_of_a_huge_page_may_be_skipped(mirror, skip):
    with Region.huge(1) as huge:
        huge.fill(1)
        huge.advise(mmap.MADV_NOHUGEPAGE)  # khugepaged puts no parts together
        assert mirror.migrate(huge, skip=skip).moved == HUGE_PAGES - len(skip)
        assert stays(mirror, huge) == list(skip)
        assert huge.matches(1)


@pytest.mark.contract("M-04")
@pytest.mark.parametrize("skip", huge_skips("first", "all"))
def test_parts_of_a_huge_hole_may_be_skipped(mirror, skip):
    with Region.anonymous(HUGE_PAGES, align=HUGE_PAGES * PAGE) as huge:
        assert mirror.migrate(huge, skip=skip).moved == HUGE_PAGES - len(skip)
        assert stays(mirror, huge) == list(skip)
        assert {mirror.snapshot(huge[page]).picture() for page in list(skip)[:3]} <= {"."}
        assert not any(huge.load(page) for page in range(HUGE_PAGES))


# -- lost to a reference on the way -----------------------------------------------------------------------------


@pytest.mark.contract("M-05")
def test_a_reference_after_setup_keeps_a_page_and_frees_its_destination(mirror, block):
    block.fill(1)
    block[12:].advise(mmap.MADV_DONTNEED)
    held = [3, 7]
    before, counted = entries(mirror, block), mirror.counters()
    migration = mirror.migrate(block, reference=held)
    assert all(words.setup.migrate and words.copied.valid for words in migration.words)
    assert [page for page, words in enumerate(migration.words) if not words.pages.migrate] == held
    assert migration.moved == 14
    assert mirror.snapshot(block).picture() == "DDDrDDDrDDDDDDDD"
    assert [entries(mirror, block[page]) for page in held] == [[before[page]] for page in held]
    delta = mirror.counters() - counted
    assert (delta.dev_pages_allocated, delta.dev_pages_freed, delta.dev_pages_in_use) == (16, 2, 14)
    # The reference went with the call.
    assert mirror.migrate(block).moved == 2
    assert block[:12].matches(1) and not any(block.load(page) for page in range(12, 16))


@pytest.mark.contract("M-05")
@pytest.mark.parametrize("order", ["source", "small"])
def test_a_reference_after_setup_keeps_a_huge_page(mirror, order):
    before = mirror.counters()
    with Region.huge(1) as huge:
        huge.fill(1)
        huge.advise(mmap.MADV_NOHUGEPAGE)
        migration = mirror.migrate(huge, reference=[0], order=order)
        left = stays(mirror, huge)
        # Where huge pages are split first, the reference is on one page of it.
        assert left == ([0] if SPLITS else list(range(HUGE_PAGES)))
        assert migration.moved == (mirror.counters() - before).dev_pages_in_use == HUGE_PAGES - len(left)
        assert mirror.migrate(huge).moved == len(left)
        assert huge.matches(1)
    delta = mirror.counters() - before
    assert delta.dev_pages_allocated == delta.dev_pages_freed
