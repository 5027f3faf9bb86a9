# SPDX-License-Identifier: GPL-2.0
"""Takes seen.Raw, in one call: it is what a player does most."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import accumulate, pairwise

from dmirror.memory import Span
from dmirror.scenario.seen import Mirrored, Raw
from dmirror.uapi import ffi, lib

_WALKED = ffi.sizeof("struct dmirror_page")
_LISTED = 8  # bytes of a word of /proc/PID/pagemap


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
        self._parts = [(key, name, slice(*cut)) for (key, name, _, _), cut in zip(wanted, cuts, strict=True)]
        self._data = ffi.buffer(self._room)
        self._last = Raw(
            {key: {name: bytes(region.npages * _WALKED) for name, region in regions.items()} for key in mirrors},
            {key: {name: bytes(region.npages * _LISTED) for name, region in regions.items()} for key in pagemaps},
        )

    def look(self) -> Raw:
        """One look. What is as it was before is the same object, which makes a record small. OSError."""
        count = lib.dm_look(self._sights, len(self._parts), self._changed)
        if count < 0:
            raise OSError(-count, f"page tables cannot be looked at: {os.strerror(-count)}")
        if count:
            walks, pagemaps = dict(self._last.walks), dict(self._last.pagemaps)
            for number in ffi.unpack(self._changed, count):
                key, name, part = self._parts[number]
                if isinstance(key, str):
                    pagemaps[key] = {**pagemaps[key], name: self._data[part]}
                else:
                    walks[key] = {**walks[key], name: self._data[part]}
            self._last = Raw(walks, pagemaps)
        return self._last
