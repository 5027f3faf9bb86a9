# SPDX-License-Identifier: GPL-2.0
"""Watches: further notifier subscriptions of a mirror, which only log."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dmirror.calls import named
from dmirror.memory import Span
from dmirror.uapi import lib

if TYPE_CHECKING:
    from dmirror.steering import Steering

KINDS = {
    "interval": lib.DMIRROR_WATCH_INTERVAL,
    "two_pass": lib.DMIRROR_WATCH_TWO_PASS,
    "unfinished": lib.DMIRROR_WATCH_UNFINISHED,
    "plain": lib.DMIRROR_WATCH_PLAIN,
}


class Watch:
    """A subscription from the beginning of its `with` block to its end: see `Steering.watch`. `id` is its number."""

    def __init__(self, mirror: Steering, span: Span | None, kind: str) -> None:
        self.kind = kind
        self.id = 0
        self._mirror = mirror
        self._fields: dict[str, Any] = {
            "kind": named("kind of watch", KINDS, kind),
            "start": span.addr if span else 0,
            "length": span.bytes if span else 0,
        }

    def __enter__(self) -> Self:
        self.id = self._mirror.own("WATCH", **self._fields).id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Watches end with the context.
        if self._mirror.fd >= 0:
            self._mirror.own("UNWATCH", id=self.id)
