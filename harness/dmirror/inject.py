# SPDX-License-Identifier: GPL-2.0
"""Injected failures: the n-th allocation or copy fails, and a sweep over all n."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dmirror.calls import named
from dmirror.uapi import lib

if TYPE_CHECKING:
    from dmirror.steering import Steering

WHAT = {
    "device_alloc": lib.DMIRROR_INJECT_DEVICE_ALLOC,
    "system_alloc": lib.DMIRROR_INJECT_SYSTEM_ALLOC,
    "copy": lib.DMIRROR_INJECT_COPY,
}
"""What can be made to fail."""

_SWEEP_MOST = 10_000


class Injection:
    """A failure that is armed from the beginning of its `with` block to its end: see `Steering.inject`."""

    def __init__(self, mirror: Steering, what: str, nth: int, *, every: bool) -> None:
        self._mirror = mirror
        self._what = named("injection", WHAT, what)
        self._nth = nth
        self._flags = lib.DMIRROR_INJECT_EVERY if every else 0
        self._final: tuple[int, int] | None = None

    def _call(self, *, nth: int, flags: int) -> tuple[int, int]:
        out = self._mirror.own("INJECT", what=self._what, nth=nth, flags=flags)
        return out.passed, out.failed

    def __enter__(self) -> Self:
        self._call(nth=self._nth, flags=self._flags)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A mirror that was closed took it along.
        if self._mirror.fd >= 0:
            self._final = self._call(nth=0, flags=0)

    def counts(self) -> tuple[int, int]:
        """How often it came by since it was armed, and how often of these it failed; after the block, in the end."""
        return self._final or self._call(nth=0, flags=lib.DMIRROR_INJECT_READ)


def sweep(mirror: Steering, what: str, scenario: Callable[[int], object]) -> int:
    """Run `scenario(n)` with the n-th `what` failing, for n = 1, 2, 3, …, until a run in which none failed.

    Returns how many points of failure there were. The scenario begins afresh each time, and asserts what holds with
    and without a failure. RuntimeError when every one of 10,000 runs had its failure.
    """
    for nth in range(1, _SWEEP_MOST + 1):
        with mirror.inject(what, nth) as injection:
            try:
                scenario(nth)
            except BaseException as error:
                error.add_note(f"in the run where {what} number {nth} was to fail")
                raise
        if not injection.counts()[1]:
            return nth - 1
    raise RuntimeError(f"{what} failed in each of {_SWEEP_MOST} runs: the scenario does more each time")
