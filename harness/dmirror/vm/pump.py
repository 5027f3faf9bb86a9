# SPDX-License-Identifier: GPL-2.0
"""Bytes carried between descriptors in one thread, with back-pressure: what is not taken is not read."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable

from dmirror import streams

# What a pipe that polls as writable takes without blocking (PIPE_BUF): the user's descriptors stay blocking,
# since O_NONBLOCK would be seen by every process that shares them.
_CHUNK = 4096


class Pump:
    """carry(), watch() and when_ready() descriptors, then step() until done. Descriptors stay their owner's
    to close."""

    def __init__(self) -> None:
        # poll, not epoll: standard input may be a regular file, which epoll refuses.
        self._selector = selectors.PollSelector()
        self._writing = 0  # flows on their way to sinks that stay

    def close(self) -> None:
        self._selector.close()

    def when_ready(self, source: int, ready: Callable[[], None]) -> None:
        """Calls `ready` once, when `source` becomes readable."""

        def readable() -> None:
            self._selector.unregister(source)
            ready()

        self._selector.register(source, selectors.EVENT_READ, readable)

    def watch(self, source: int, got: Callable[[bytes], None]) -> None:
        """Calls `got` with whatever arrives, until end of file."""

        def readable() -> None:
            data = _read(source)
            if data:
                got(data)
            else:
                self._selector.unregister(source)

        self._selector.register(source, selectors.EVENT_READ, readable)

    def carry(
        self,
        source: int,
        sink: int,
        *,
        at_first: Callable[[], None] | None = None,
        at_end: Callable[[], None] | None = None,
        copied: Callable[[bytes], None] | None = None,
        before: bytes = b"",
        sink_may_go: bool = False,
    ) -> None:
        """Copies `source` to `sink`; `at_first` comes before the first byte, `at_end` after the last was
        written. `before` goes before all of it; `copied` is told what comes from `source`.

        When nobody reads `sink` any more, step() raises streams.Gone, or with `sink_may_go` the flow just stops.
        Where it takes no more, a full disk, step() raises CannotRun.
        """
        pending = before

        def readable() -> None:
            nonlocal pending, at_first
            pending = _read(source)
            self._selector.unregister(source)
            if not pending:
                if at_end is not None:
                    at_end()
                return
            if at_first is not None:
                at_first()
                at_first = None
            if copied is not None:
                copied(pending)
            self._writing += not sink_may_go
            self._selector.register(sink, selectors.EVENT_WRITE, writable)

        def writable() -> None:
            nonlocal pending
            try:
                pending = pending[os.write(sink, pending[:_CHUNK]) :]
            except OSError as error:
                if not sink_may_go:
                    raise streams.failure(error) from None
                self._selector.unregister(sink)
                return
            if not pending:
                self._writing -= not sink_may_go
                self._selector.unregister(sink)
                self._selector.register(source, selectors.EVENT_READ, readable)

        if pending:
            self._writing += not sink_may_go
            self._selector.register(sink, selectors.EVENT_WRITE, writable)
        else:
            self._selector.register(source, selectors.EVENT_READ, readable)

    def step(self, timeout: float | None) -> bool:
        """Waits for at most `timeout` seconds and handles what is ready; False if nothing was."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            # An earlier handler of this round may have unregistered a later one's descriptor.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        return bool(ready)

    def drain(self) -> None:
        """Handles all that is there now, waiting for sinks but for no source, nor for a sink that may go: it may as
        well stay and take nothing."""
        while self._writing or self.step(0):
            if self._writing:
                self.step(None)


def _read(source: int) -> bytes:
    try:
        return os.read(source, _CHUNK)
    except OSError:
        return b""  # a reset connection, a terminal that was hung up: ends like any other
