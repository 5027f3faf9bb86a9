# SPDX-License-Identifier: GPL-2.0
"""dmirror's own calls, of kmod/uapi/dmirror.h: how one is made, names for its numbers, and the error it ends with."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from dmirror.memory import Span
from dmirror.uapi import ffi, lib

_STRUCTS = {"POKE": "dmirror_peek", "UNWATCH": "dmirror_watch"}

OWNERS = {"own": lib.DMIRROR_OWNER_OWN, "other": lib.DMIRROR_OWNER_OTHER, "none": lib.DMIRROR_OWNER_NONE}
"""What a call can give the core as its owner: the device's, its neighbour's, NULL."""


class MirrorError(OSError):
    """A call of the driver failed: `errno` as the call's, `pages` done before the one that failed, `faults` taken."""

    def __init__(self, number: int, message: str, *, pages: int, faults: int) -> None:
        super().__init__(number, message)
        self.pages = pages
        self.faults = faults

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own gives back the positional arguments alone; a child's error comes by pickle.
        return partial(type(self), pages=self.pages, faults=self.faults), self.args


def request(fd: int, on: str, name: str, span: Span | None = None, **fields: Any) -> Any:
    """Call DMIRROR_`name` on `fd` for the range of `span`; returns its structure. `on` names `fd` in a MirrorError."""
    out = ffi.new(f"struct {_STRUCTS.get(name, 'dmirror_' + name.lower())} *", fields)
    out.size = ffi.sizeof(out[0])
    if span is not None:
        out.addr, out.npages = span.addr, span.npages
    failed = -lib.dm_ioctl(fd, getattr(lib, f"DMIRROR_{name}"), out)
    if failed:
        pages = getattr(out, "done", 0)
        where = "" if span is None else f" of {span}"
        how_far = f" after {pages} pages" if hasattr(out, "done") else ""
        raise MirrorError(failed, f"{name}{where} on {on}: {os.strerror(failed)}{how_far}", pages=pages, faults=0)
    return out


def address(buffer: Any) -> int:
    """The address of a cffi buffer, for a field that takes one."""
    return int(ffi.cast("uintptr_t", buffer))


def named(what: str, known: Mapping[str, int], name: str) -> int:
    """The number of a name. ValueError that lists the names there are, and says which one was probably meant."""
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name!r} is no {what}: {', '.join(known)}{meant}")


def bits(what: str, known: Mapping[str, int], names: Iterable[str]) -> int:
    """The numbers of several names, or'ed. ValueError as `named`, and for one string where a sequence is meant."""
    if isinstance(names, str):
        raise ValueError(f"names of a {what} come in a tuple: ({names!r},)")
    number = 0
    for name in names:
        number |= named(what, known, name)
    return number
