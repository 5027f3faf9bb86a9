# SPDX-License-Identifier: GPL-2.0
"""The kernel log as a stream: /dev/kmsg, one message after another (Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from dmirror.splats import Message

_KMSG = Path("/dev/kmsg")


class LogReader:
    """Messages of the running kernel, from the oldest it still has; none where root's log cannot be read."""

    def __init__(self) -> None:
        try:
            self._descriptor: int | None = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the log; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def new(self) -> list[str]:
        """Messages since the last call, without priority and time."""
        messages: list[str] = []
        while self._descriptor is not None:
            try:
                record = os.read(self._descriptor, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                messages.append("dmirror: the kernel log overran here, messages are lost")
                continue
            messages.append(message(record))
        return messages


def message(record: bytes) -> Message:
    """The message of one record, and its caller where the kernel has PRINTK_CALLER.

    "priority,sequence,time,flags[,caller=T92];message", then lines of the dictionary, each after a space.
    """
    head, _, rest = record.decode(errors="replace").partition(";")
    text = re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match.group(1), 16)), rest.split("\n", 1)[0])
    return Message(text, head.partition(",caller=")[2].partition(",")[0])
