# SPDX-License-Identifier: GPL-2.0
"""On the host: a guest that plays scenarios, started anew when it has died."""

from __future__ import annotations

import os
import shlex
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import execnet

from dmirror.errors import CannotRun
from dmirror.fuzz.serve import Played, packed, unpacked
from dmirror.plugin import death
from dmirror.scenario import tree
from dmirror.scenario.course import course
from dmirror.splats import Splat
from dmirror.vm import console, remote
from dmirror.vm.guest import is_running
from dmirror.vm.interpreter import outcome, run_dir
from dmirror.vm.spec import DESCRIPTION, GuestSpec

_WINDOW = 6  # scenarios that are under way at once: the guest does not wait for the judge
_PATIENCE_S = 120.0
_SERVE = "from dmirror.fuzz.serve import serve; serve(channel)"


class Died(Exception):
    """The guest died while it played the scenario `number`."""

    def __init__(self, number: int, how: death.Death, log: Path) -> None:
        super().__init__(how.sentence)
        self.number = number
        self.complaints: list[Splat] = how.complaints
        self.log = log


class Plays(Protocol):
    """Whoever plays scenarios."""

    def play(self, scenarios: Iterable[tuple[int, tree.Scenario]], *, log: bool = False) -> Iterator[Played]:
        """What came of each, in their order. Raises Died, for the first that was not answered."""

    def close(self) -> None:
        """Nothing more is played."""


class Guest:
    """A guest, booted when it is first needed. Its folder is in `run`."""

    def __init__(self, spec: GuestSpec, run: Path) -> None:
        self._spec = spec
        self._run = run
        self._patience_s = _PATIENCE_S * spec.slowdown
        self._channel: Any = None
        self._gateway: Any = None
        self._folder = run
        self._waiting: deque[int] = deque()

    def play(self, scenarios: Iterable[tuple[int, tree.Scenario]], *, log: bool = False) -> Iterator[Played]:
        """As Plays says."""
        # Of what nobody asked for any more: if the guest dies of it, it does so again when that is played again.
        with suppress(Died):
            while self._channel is not None and self._waiting:
                self._receive(self._waiting)
        if self._channel is None:
            self._boot()
        waiting = self._waiting = deque()
        for number, scenario in scenarios:
            waiting.append(number)
            self._send(waiting, (number, log, course(scenario)))
            if len(waiting) == _WINDOW:
                yield self._receive(waiting)
        while waiting:
            yield self._receive(waiting)

    def _send(self, waiting: deque[int], what: object) -> None:
        try:
            self._channel.send(packed(what))
        except OSError:
            raise self._died(waiting[0], silent=False) from None

    def _receive(self, waiting: deque[int]) -> Played:
        try:
            played = unpacked(self._channel.receive(self._patience_s))
        except (EOFError, self._channel.RemoteError):
            raise self._died(waiting[0], silent=False) from None
        except self._channel.TimeoutError:
            raise self._died(waiting[0], silent=True) from None
        assert isinstance(played, Played)
        assert played.number == waiting.popleft()
        return played

    def _boot(self) -> None:
        (self._run / DESCRIPTION).write_text(self._spec.to_json())
        os.environ["DMIRROR_GUEST"] = os.fspath(self._run / DESCRIPTION)
        os.environ["DMIRROR_RUN"] = os.fspath(self._run)
        command = shlex.join(remote.interpreter(remote.HERE))
        try:
            self._gateway = execnet.makegateway(f"popen//python={command}")
            self._folder = run_dir(self._run, self._gateway._io.popen.pid)  # execnet has no public name for it
            self._channel = self._gateway.remote_exec(_SERVE)
            self._channel.receive(self._patience_s)
        except (EOFError, OSError) as error:
            self.close()
            raise CannotRun(f"no guest: {error or 'its interpreter ended'}", "the reason is above") from error

    def _died(self, number: int, *, silent: bool) -> Died:
        log = self._folder / console.LOG
        if not silent:
            with suppress(Exception):  # how it ended is written once its interpreter has seen it
                self._gateway._io.popen.wait(20)
        how = death.of_test(
            log, outcome(self._folder), ended_after=self._patience_s if silent else None, silent=silent, error=None
        )
        self.close()
        return Died(number, how, log)

    def close(self) -> None:
        """End it, if it runs."""
        if self._gateway is None:
            return
        process = self._gateway._io.popen
        with suppress(OSError):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
        with suppress(Exception):
            self._gateway.exit()
        with suppress(Exception):
            process.wait(20)
        assert not is_running(self._folder), f"the guest of {self._folder} does not end"
        self._gateway = self._channel = None
