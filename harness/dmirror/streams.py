# SPDX-License-Identifier: GPL-2.0
"""Standard streams that are closed, full, or read by nobody any more: a command ends on them as git does.

A closed one is /dev/null. Where the reader of standard output has gone the command ends without a word, as if SIGPIPE
had ended it; where it cannot take what is written, a full disk, that is one line and status 2. What standard error
does not take is lost.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from dmirror.errors import CannotRun

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = 128 + signal.SIGPIPE
"""The exit status of a command whose output nobody reads any more: a shell's for SIGPIPE."""

_ERRORS = 2  # the descriptor of standard error
# Statuses of who has caught the error and not said it: argparse what is an OSError, pytest everything.
_UNSAID = (0, 1, 3)


class Gone(BaseException):
    """Nobody reads standard output any more. Like KeyboardInterrupt it is for the command as a whole to catch."""


class _Stream(io.FileIO):
    """A standard stream under the layers that buffer and encode. It fails once, and loses what comes later: on its way
    out a command may still print, and Python flushes what the layers hold."""

    failed: BaseException | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = failure(error)
                if self.fileno() != _ERRORS:
                    raise self.failed from None
        return memoryview(data).nbytes


def command(function: Callable[[], int]) -> int:
    """Run what is all of a command, and return its exit status."""
    _open_closed()
    output, errors = _Stream(1, "w", closefd=False), _Stream(_ERRORS, "w", closefd=False)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _text(output, sys.stdout), _text(errors, sys.stderr)
    try:
        try:
            status = function()
        finally:
            sys.stdout.flush()
        if output.failed is not None and status in _UNSAID:
            raise output.failed
    except CannotRun as error:
        print(f"dmirror: {error}", file=sys.stderr)
        return 2
    except Gone:
        return GONE
    return status


def failure(error: OSError) -> BaseException:
    """What to raise where standard output did not take what was written."""
    if isinstance(error, BrokenPipeError | ConnectionResetError):
        return Gone()
    return CannotRun(f"standard output cannot be written: {error.strerror}", "free its disk, or name another place")


def _open_closed() -> None:
    """The next file that is opened would have the number of the one that is not, and get what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _ERRORS:
        os.set_inheritable(number, True)
    os.close(number)


def _text(raw: _Stream, before: TextIO | None) -> io.TextIOWrapper:
    """Like the one that Python made, or did not where it was closed."""
    like = before if isinstance(before, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding if like else "utf-8",
        errors="backslashreplace",  # a terminal that lacks a letter is no reason to end
        line_buffering=bool(like and like.line_buffering),
        write_through=bool(like and like.write_through),
    )
