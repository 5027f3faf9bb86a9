# SPDX-License-Identifier: GPL-2.0
"""What a mirror can do beyond the calls of the kernel's own test driver: log, hold, inject, choose every argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmirror.calls import OWNERS, address, bits, named, request
from dmirror.eventlog import EventLog
from dmirror.holds import Hold
from dmirror.inject import Injection
from dmirror.memory import Data, Span
from dmirror.process import PATIENCE
from dmirror.uapi import ffi, lib
from dmirror.vectors import CARRIED, Migration, PageInfo, Walk, Words
from dmirror.watches import Watch

_LIMIT = min(PATIENCE, 60.0)  # s; the driver takes no longer one

SELECT = {
    "system": lib.DMIRROR_SELECT_SYSTEM,
    "private": lib.DMIRROR_SELECT_PRIVATE,
    "coherent": lib.DMIRROR_SELECT_COHERENT,
    "compound": lib.DMIRROR_SELECT_COMPOUND,
}
ORDERS = {
    "source": lib.DMIRROR_ORDER_SOURCE,
    "small": lib.DMIRROR_ORDER_SMALL,
    "huge": lib.DMIRROR_ORDER_HUGE,
}
REQUESTS = {"fault": lib.DMIRROR_PAGE_REQ_FAULT, "write": lib.DMIRROR_PAGE_REQ_WRITE}

_TO = {"device": lib.DMIRROR_MIGRATE_TO_DEVICE, "system": 0}


class Steering:
    """The calls of kmod/uapi/dmirror.h on one open device; capability "steer".

    Every call raises MirrorError with the errno, the call, the range and the pages done, and ValueError for a name that
    it does not know. Pages are numbered from the beginning of the span.
    """

    device: int
    fd: int

    def own(self, name: str, span: Span | None = None, **fields: Any) -> Any:
        """Call DMIRROR_`name` with exactly these fields of its structure, which is returned."""
        return request(self.fd, f"hmm_dmirror{self.device}", name, span, **fields)

    def events(self, *, records: int = 4096, **regions: Span) -> EventLog:
        """A log of this mirror, on while its `with` block runs; addresses are shown relative to the named regions.

        It holds `records` that were not read yet, a power of two up to 65536. A mirror has one log: starting another
        empties it.
        """
        return EventLog(self, records, regions)

    def hold(
        self,
        point: str,
        span: Span | None = None,
        *,
        nth: int = 1,
        events: Sequence[str] = (),
        watch: Watch | None = None,
        limit: float = _LIMIT,
    ) -> Hold:
        """Hold the `nth` thread that passes `point` (holds.POINTS) with a range that overlaps `span`, for `limit` s.

        At "invalidate": only for these `events`, of this `watch` instead of the mirror itself. The end of the `with`
        block lets the thread go, and raises HoldOver if the limit did so before and nobody noticed.
        """
        return Hold(self, point, span, nth=nth, events=events, watch=watch, limit=limit)

    def migrate(
        self,
        span: Span,
        *,
        to: str = "device",
        owner: str = "own",
        select: Sequence[str] = (),
        order: str = "source",
        skip: Iterable[int] = (),
        reference: Iterable[int] = (),
        obey: bool = False,
    ) -> Migration:
        """migrate_vma_*() once over the span, as told. A page that stays is no error.

        `to` "device" or "system"; `owner` "own", "other" or "none" is the pgmap_owner; `select` names of SELECT, ()
        what the direction needs; `order` of the destinations: as the "source", "small", or "huge". Pages of `skip` get
        no destination, those of `reference` one more reference from setup to finalize. `obey`: the mirror does not
        filter the events of this migration.
        """
        how = ffi.new("unsigned char[]", span.npages)
        for pages, bit in ((skip, lib.DMIRROR_HOW_SKIP), (reference, lib.DMIRROR_HOW_REFERENCE)):
            for page in pages:
                how[_within(span, page)] |= bit
        words = ffi.new("struct dmirror_words[]", span.npages)
        out = self.own(
            "MIGRATE",
            span,
            flags=named("direction", _TO, to) | (lib.DMIRROR_MIGRATE_OBEY if obey else 0),
            owner=named("owner", OWNERS, owner),
            select=bits("selection", SELECT, select),
            order=named("order", ORDERS, order),
            how=address(how),
            words=address(words),
        )
        return Migration(span, out.done, out.collected, out.moved, [Words.decode(page) for page in words])

    def walk(
        self,
        span: Span,
        *,
        default: Sequence[str] = (),
        mask: Sequence[str] = (),
        requests: Mapping[int, Sequence[str]] | None = None,
        owner: str = "own",
        once: bool = False,
    ) -> Walk:
        """hmm_range_fault() over the span, as told; the device page table stays as it is.

        `default` and `mask` are its default_flags and pfn_flags_mask, `requests` the flags of single pages, each of
        "fault" and "write"; `owner` is its dev_private_owner. `once`: EBUSY where a driver would walk again. With the
        capability "carried", single pages can have names of vectors.CARRIED too, as hmm_dma_map_pfn() leaves them.
        """
        pages = ffi.new("struct dmirror_page[]", span.npages)
        for page, names in (requests or {}).items():
            pages[_within(span, page)].flags = bits("request", REQUESTS | CARRIED, names)
        out = self.own(
            "WALK",
            span,
            flags=lib.DMIRROR_WALK_ONCE if once else 0,
            default_flags=bits("request", REQUESTS, default),
            mask=bits("request", REQUESTS, mask),
            owner=named("owner", OWNERS, owner),
            pages=address(pages),
        )
        return Walk([PageInfo.decode(page) for page in pages], out.retries)

    def page_info(self, span: Span) -> list[PageInfo]:
        """Where each page is, for the CPU and for the device; nothing is faulted."""
        return self.walk(span).pages

    def peek(self, span: Span) -> Data:
        """What the device has there, by its page table alone. ENOENT where it has no entry."""
        data = Data(span.npages, first=span.first)
        self.own("PEEK", span, ptr=address(data.buffer))
        return data

    def poke(self, span: Span, data: Data | int) -> None:
        """Store `data`, or the pattern of a seed, by the device page table alone. ENOENT, EPERM where read-only."""
        source = Data.pattern(span, data) if isinstance(data, int) else data
        self.own("POKE", span, ptr=address(source.buffer))

    def make_exclusive(self, span: Span, *, owner: str = "own") -> int:
        """make_device_exclusive() for every page, with this owner; returns how many became exclusive."""
        return int(self.own("EXCLUSIVE", span, owner=named("owner", OWNERS, owner)).done)

    def inject(self, what: str, nth: int = 1, *, every: bool = False) -> Injection:
        """Fail the `nth` "device_alloc", "system_alloc" or "copy" from here on, or `every` nth, in a `with` block.

        It counts for the calls of this mirror, and for CPU faults and evictions of pages that it migrated.
        """
        return Injection(self, what, nth, every=every)

    def watch(self, span: Span | None = None, *, kind: str = "interval") -> Watch:
        """One more subscription of this mirror for a `with` block; it only logs, with its `id` as Event.watch.

        An "interval" notifier over the span, a "two_pass" one (capability "two_pass"), one that is "unfinished" (the
        same without a second pass), or a "plain" mmu_notifier, of all addresses and without a span. EOPNOTSUPP where
        the kernel has none of it.
        """
        return Watch(self, span, kind)


def _within(span: Span, page: int) -> int:
    if not 0 <= page < span.npages:
        raise IndexError(f"page {page} is not in a span of {span.npages} pages")
    return page
