# SPDX-License-Identifier: GPL-2.0
"""A device that is not there: takes the calls of a mirror and answers as a test says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dmirror.memory import Span
from dmirror.steering import Steering
from dmirror.uapi import ffi, lib

PAGE = 4096


class FakeMirror(Steering):
    """`calls` are the names and fields it was called with; `answer(name, fields)` is what a call returns.

    Its descriptor is a pipe, whose other end gives the records of an event log.
    """

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any] = lambda name, fields: None) -> None:
        self.device = 0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer
        self.fd, self._log = os.pipe()

    def own(self, name: str, span: Span | None = None, **fields: Any) -> Any:
        self.calls.append((name, fields))
        if name == "LOG":
            if not fields:
                os.close(self._log)
            return ffi.new("struct dmirror_log *", {"lost": 0})
        return self._answer(name, fields)

    def log(self, *records: dict[str, Any]) -> None:
        """Add records to the event log: fields of struct dmirror_event."""
        os.write(self._log, bytes(ffi.buffer(ffi.new("struct dmirror_event[]", records))))


def record(seq: int, type: str, span: Span | None = None, **fields: Any) -> dict[str, Any]:
    """The fields of a record; `flags` may be left out for an event that may block."""
    return {
        "seq": seq,
        "time": 5_000_000 + 1000 * seq,
        "start": span.addr if span else 0,
        "end": span.end if span else 0,
        "tid": 42,
        "type": getattr(lib, f"DMIRROR_EVENT_{type}", 0),
        "flags": lib.DMIRROR_EVENT_BLOCKABLE,
    } | fields
