# SPDX-License-Identifier: GPL-2.0
"""Takes seen.Raw in one call, or after each of the steps that it plays in one call: it is what a player does most."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dmirror.memory import PAGE, Span
from dmirror.scenario.orders import Packed
from dmirror.scenario.seen import Mirrored, Raw
from dmirror.uapi import ffi, lib

_WALKED = ffi.sizeof("struct dmirror_page")
_LISTED = 8  # bytes of a word of /proc/PID/pagemap
_TAPE = 16 << 10  # bytes, for what comes of many steps


class Sight:
    """All regions as the page tables of mirrors and processes have them, for as long as these are the same ones.

    `mirrors` and `pagemaps` are open descriptors.
    """

    def __init__(
        self, regions: Mapping[str, Span], mirrors: Mapping[Mirrored, int], pagemaps: Mapping[str, int]
    ) -> None:
        self.who: tuple[Mirrored | str, ...] = (*mirrors, *pagemaps)
        self.regions = tuple(regions)
        pages = sum(span.npages for span in regions.values())
        self._count = len(self.who) * len(regions)
        self._size = pages * (len(mirrors) * _WALKED + len(pagemaps) * _LISTED)
        spans = ffi.new("struct dm_region[]", [(span.addr, span.npages) for span in regions.values()])
        descriptors = ffi.new("int[]", [*mirrors.values(), *pagemaps.values()])
        now, last = (ffi.new("char[]", self._size or 1) for _ in range(2))
        self._now = ffi.buffer(now)
        self._parts, self._changed = ffi.new("struct dm_part[]", self._count), ffi.new("int[]", self._count)
        sizes = len(self.who), len(mirrors)
        rooms = now, last, self._parts, self._changed
        self._look = ffi.new("struct dm_look *", (spans, len(regions), descriptors, *sizes, *rooms))
        self._kept = spans, descriptors, last  # as long as C has their addresses
        walked = {name: bytes(span.npages * _WALKED) for name, span in regions.items()}
        listed = {name: bytes(span.npages * _LISTED) for name, span in regions.items()}
        self.last = Raw(dict.fromkeys(mirrors, walked), dict.fromkeys(pagemaps, listed))

    def look(self) -> Raw:
        """One look. OSError."""
        count = lib.dm_look(self._look)
        if count < 0:
            raise OSError(-count, f"page tables cannot be looked at: {os.strerror(-count)}")
        self._take(ffi.unpack(self._changed, count) if count else ())
        return self.last

    def _take(self, numbers: Iterable[int]) -> None:
        changes = []
        for number in numbers:
            part = self._parts[number]
            part.touched = 0
            who, region = divmod(number, len(self.regions))
            changes.append((self.who[who], self.regions[region], self._now[part.offset : part.offset + part.size]))
        self.last = self.last.after(changes)

    def play(self, packed: Packed, who: Sequence[int], late: Callable[[str | Mirrored], None]) -> Iterator[bytes]:
        """Play steps, a look after each; `who` are descriptors. Gives what came of them, as Stretch.ended.

        `late` waits for the answer of an agent that lets us wait. OSError where steps cannot be played or looked at.
        """
        count = len(packed.steps) // ffi.sizeof("struct dm_step")
        steps, descriptors = ffi.from_buffer("struct dm_step[]", packed.steps), ffi.new("int[]", who)
        longest = ffi.sizeof("struct dm_ended") + 8 * max(packed.pages, lib.AGENT_VALUES)
        longest += 8 * self._count + self._size
        pages, tape = ffi.new("char[]", packed.pages * PAGE or 1), ffi.new("char[]", _TAPE + longest)
        sizes = _TAPE + longest, longest, 0
        play = ffi.new("struct dm_play *", (steps, count, 0, 0, descriptors, self._look, pages, tape, *sizes))
        try:
            while True:
                ret = lib.dm_play(play)
                yield bytes(ffi.buffer(tape, play.used))
                play.used = 0
                if not ret:
                    return
                if ret == -errno.EAGAIN:
                    late(packed.who[steps[play.at].who])
                elif ret != -errno.ENOBUFS:
                    raise OSError(-ret, f"step {play.at + 1} of {count} cannot be played: {os.strerror(-ret)}")
        finally:
            self._take(number for number in range(self._count) if self._parts[number].touched)
