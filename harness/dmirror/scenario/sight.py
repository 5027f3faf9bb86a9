# SPDX-License-Identifier: GPL-2.0
"""Takes seen.Raw in one call, or after each of the steps that it plays in one call: it is what a player does most."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from dmirror.memory import PAGE, Span
from dmirror.scenario.orders import Packed
from dmirror.scenario.seen import Mirrored, Part, Raw
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
        wanted: list[tuple[Mirrored | str, str, int, int]]
        wanted = [(key, name, fd, 1) for key, fd in mirrors.items() for name in regions]
        wanted += [(process, name, fd, 0) for process, fd in pagemaps.items() for name in regions]
        sizes = [regions[name].npages * (_WALKED if walk else _LISTED) for _, name, _, walk in wanted]
        cuts = list(pairwise(accumulate(sizes, initial=0)))
        self._room, self._before = (ffi.new("char[]", sum(sizes) or 1) for _ in range(2))
        self._sights = ffi.new(
            "struct dm_sight[]",
            [
                (regions[name].addr, regions[name].npages, self._room + at, self._before + at, fd, walk)
                for (_, name, fd, walk), (at, _) in zip(wanted, cuts, strict=True)
            ],
        )
        self._changed = ffi.new("int[]", len(wanted))
        self.parts = tuple(Part(key, name, size) for (key, name, _, _), size in zip(wanted, sizes, strict=True))
        self._places = [slice(*cut) for cut in cuts]
        self._data = ffi.buffer(self._room)
        self.last = Raw(
            {key: {name: bytes(region.npages * _WALKED) for name, region in regions.items()} for key in mirrors},
            {key: {name: bytes(region.npages * _LISTED) for name, region in regions.items()} for key in pagemaps},
        )

    def look(self) -> Raw:
        """One look. OSError."""
        count = lib.dm_look(self._sights, len(self.parts), self._changed)
        if count < 0:
            raise OSError(-count, f"page tables cannot be looked at: {os.strerror(-count)}")
        self._take(ffi.unpack(self._changed, count) if count else ())
        return self.last

    def _take(self, numbers: Iterable[int]) -> None:
        self.last = self.last.after([(self.parts[number], self._data[self._places[number]]) for number in numbers])

    def play(self, packed: Packed, who: Sequence[int], late: Callable[[str | Mirrored], None]) -> Iterator[bytes]:
        """Play steps, a look after each; `who` are descriptors. Gives what came of them, as Stretch.ended.

        `late` waits for the answer of an agent that lets us wait. OSError where steps cannot be played or looked at.
        """
        count, touched = len(packed.steps) // ffi.sizeof("struct dm_step"), ffi.new("int[]", len(self.parts))
        steps, descriptors = ffi.from_buffer("struct dm_step[]", packed.steps), ffi.new("int[]", who)
        longest = ffi.sizeof("struct dm_ended") + 8 * max(packed.pages, lib.AGENT_VALUES)
        longest += sum(8 + part.size for part in self.parts)
        pages, tape = ffi.new("char[]", packed.pages * PAGE or 1), ffi.new("char[]", _TAPE + longest)
        looks = self._sights, len(self.parts), self._changed, touched
        sizes = _TAPE + longest, longest, 0
        play = ffi.new("struct dm_play *", (steps, count, 0, 0, descriptors, *looks, pages, tape, *sizes))
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
            self._take(number for number in range(len(self.parts)) if touched[number])
