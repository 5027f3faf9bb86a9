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
        self._room = ffi.new("char[]", sum(sizes) or 1)
        self._sights = ffi.new(
            "struct dm_sight[]",
            [
                (regions[name].addr, regions[name].npages, self._room + at, fd, walk)
                for (_, name, fd, walk), (at, _) in zip(wanted, cuts, strict=True)
            ],
        )
        self._parts = [(key, name, slice(*cut)) for (key, name, _, _), cut in zip(wanted, cuts, strict=True)]
        self._mirrors, self._processes = list(mirrors), list(pagemaps)
        self._last = b"", Raw()
        self._pieces: list[bytes] = [b""] * len(wanted)

    def look(self) -> Raw:
        """One look. What is as it was before is the same object, which makes a record small. OSError."""
        failed = -lib.dm_look(self._sights, len(self._parts))
        if failed:
            raise OSError(failed, f"page tables cannot be looked at: {os.strerror(failed)}")
        data = bytes(ffi.buffer(self._room))
        if data == self._last[0]:
            return self._last[1]
        walks: dict[Mirrored, dict[str, bytes]] = {key: {} for key in self._mirrors}
        pagemaps: dict[str, dict[str, bytes]] = {process: {} for process in self._processes}
        for number, (key, name, part) in enumerate(self._parts):
            piece = data[part]
            if piece != self._pieces[number]:
                self._pieces[number] = piece
            (pagemaps[key] if isinstance(key, str) else walks[key])[name] = self._pieces[number]
        self._last = data, Raw(walks, pagemaps)
        return self._last[1]
