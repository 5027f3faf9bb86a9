# SPDX-License-Identifier: GPL-2.0
"""What a mirror was told of a span, what it has left of it, and whether it sees what the CPU sees."""

import ctypes
import errno
import mmap
from contextlib import ExitStack, contextmanager

from dmirror.memory import HUGE_PAGES, NONE, PAGE, RW, Region
from dmirror.mirror import MirrorError
from dmirror.uapi import ffi
from facilities.machine import frames

FEW = 64
"""Up to so many pages each is looked at by a call of its own."""


@contextmanager
def alone(npages, *, prot=RW, align=PAGE):
    """Private anonymous pages that no mapping beside them can be merged with: the span is the whole mapping."""
    edge = max(1, align // PAGE)
    with Region.anonymous(npages + 2 * edge, prot=NONE, align=align) as around:
        span = around[edge : edge + npages]
        span.protect(prot)
        yield Region(span.addr, npages)


def entries(mirror, span):
    """The pages of the span for which the device has an entry, by number; nothing is faulted."""
    if len(span) > FEW:
        return [page for page, info in enumerate(mirror.page_info(span)) if info.mapped]
    return [page for page in range(len(span)) if _has(mirror, span[page])]


def _has(mirror, page):
    try:
        mirror.peek(page)
    except MirrorError as error:
        assert error.errno == errno.ENOENT
        return False
    return True


def told(log, span):
    """What the mirror itself was told of the span so far: (type, start, end), addresses in pages from its beginning.

    All of it might sleep, none of it was filtered.
    """
    log.read()
    assert not log.lost
    events = [event for event in log.seen if event.told and event.watch == 0 and event.over(span)]
    assert all(event.blockable and not event.filtered for event in events), log.table()
    return [(event.type, (event.start - span.addr) / PAGE, (event.end - span.addr) / PAGE) for event in events]


def content(span):
    """The bytes that CPU loads find."""
    return ctypes.string_at(span.addr, span.bytes)


def blank(span):
    """Whether CPU loads find only zeroes."""
    return content(span) == bytes(span.bytes)


def reads_zero(mirror, span):
    """Whether a device read finds only zeroes."""
    return bytes(ffi.buffer(mirror.read(span).data.buffer)) == bytes(span.bytes)


def same(mirror, span):
    """Whether a device read finds the bytes that CPU loads find, in the page frames that the CPU has."""
    data = bytes(ffi.buffer(mirror.read(span).data.buffer))
    pages = mirror.page_info(span)
    assert all(page.mapped and page.agrees for page in pages), pages
    assert [page.mapped if page.device is None else None for page in pages] == frames(span)
    return data == content(span)


def stale(mirror, span):
    """Pages for which the device has another page frame than the CPU, or may write where the CPU may not."""
    return [
        number
        for number, page in enumerate(mirror.page_info(span))
        if page.mapped and (page.mapped != page.backing or (page.mapped_write and not page.write))
    ]


def refused(call, *arguments):
    """(errno, pages) of a device access that fails."""
    try:
        call(*arguments)
    except MirrorError as error:
        return error.errno, error.pages
    return None


@contextmanager
def logs(*mirrors, **regions):
    """Logs of several mirrors."""
    with ExitStack() as stack:
        yield [stack.enter_context(mirror.events(**regions)) for mirror in mirrors]


def covers(events, kind, first, last):
    """Whether all events are of the kind and each page from `first` to before `last` is in some, none other in any."""
    assert {event for event, _, _ in events} == {kind}, events
    pages = sorted({page for _, start, end in events for page in range(int(start), int(end))})
    return pages == list(range(first, last))


class Mapped:
    """A span that devices map completely: `memory`, and the `mirrors` that do."""

    def __init__(self, memory, mirrors):
        self.memory = memory
        self.mirrors = mirrors

    def access(self, how):
        """Every device reads or writes all of it."""
        for mirror in self.mirrors:
            if how == "write":
                mirror.write(self.memory, 1)
            else:
                mirror.read(self.memory)
        assert self.entries() == [list(range(len(self.memory)))] * len(self.mirrors)

    def entries(self):
        """The pages that each mirror has."""
        return [entries(mirror, self.memory) for mirror in self.mirrors]

    def expect(self, act, events, gone):
        """Do `act()`: directly after it every mirror was told just `events`, and has no entry for the pages `gone`.

        Events are (type, first page, page after the last).
        """
        left = [page for page in range(len(self.memory)) if page not in gone]
        with logs(*self.mirrors, buf=self.memory) as started:
            act()
            present = self.entries()
            assert [told(log, self.memory) for log in started] == [events] * len(started), started[0].table()
            assert present == [left] * len(started)

    def same(self):
        """Whether every device now reads what the CPU reads, from the same page frames."""
        return all([same(mirror, self.memory) for mirror in self.mirrors])

    def writes(self, span, seed):
        """Whether every device can write to the span and the CPU and all devices see it."""
        for number, mirror in enumerate(self.mirrors):
            mirror.write(span, seed + number)
            assert span.matches(seed + number)
            assert all(other.read(span).data.matches(seed + number) for other in self.mirrors)
        return True

    def refuse(self, span, number):
        """Whether every device fails with this errno to write to every page of the span."""
        return all(
            refused(mirror.write, span[page], 9) == (number, 0) for mirror in self.mirrors for page in range(len(span))
        )


@contextmanager
def mapped(kind, access, mirrors):
    """Pages filled with seed 1, alone in their mapping, that devices "read" or "write".

    Kind "ram": sixteen pages that all of the mirrors map; "device": the same on the first one's device, which alone
    maps them; "huge" and "huge-device": a transparent huge page.
    """
    npages = HUGE_PAGES if kind.startswith("huge") else 16
    with alone(npages, align=npages * PAGE) as memory:
        if kind.startswith("huge"):
            memory.advise(mmap.MADV_HUGEPAGE)
        memory.fill(1)
        if kind.endswith("device"):
            mirrors = mirrors[:1]
            mirrors[0].migrate_to_device(memory)
        # What a test splits, khugepaged shall leave so.
        memory.advise(mmap.MADV_NOHUGEPAGE)
        made = Mapped(memory, mirrors)
        made.access(access)
        yield made
