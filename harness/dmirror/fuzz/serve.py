# SPDX-License-Identifier: GPL-2.0
"""In a guest: plays the scenarios that come, and says what was to be seen, and what the kernel said."""

from __future__ import annotations

import gc
import os
import pickle
import time
import traceback
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmirror import gcov, modules
from dmirror.mirror import Mirror, devices
from dmirror.plugin.kmsg import LogReader
from dmirror.scenario.course import Course
from dmirror.scenario.play import Player
from dmirror.scenario.record import Record
from dmirror.scenario.world import Unsupported

_TAINTED = Path("/proc/sys/kernel/tainted")
_SETTLE_S = 0.5  # within which the kernel gives back what it frees later
COVER_S = 60.0
"""Between two times that a guest brings what it has counted, where the kernel counts its lines."""

Usage = dict[int, tuple[int, int] | None]
"""Mirror.usage(), by device."""


@dataclass(frozen=True)
class Played:
    """What came of one: `record` None where it could not be played, for the reason `trouble`.

    `said`: messages of the kernel since the last one; `taints`: bits of /proc/sys/kernel/tainted that are new; `left`:
    devices before and after it, where these differ.
    """

    number: int
    record: Record | None
    trouble: str
    said: tuple[str, ...]
    taints: int
    left: tuple[Usage, Usage] | None


def packed(value: object) -> bytes:
    """For a channel."""
    return zlib.compress(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL), 1)


def unpacked(data: bytes) -> Any:
    """What was packed."""
    return pickle.loads(zlib.decompress(data))


def serve(channel: Any) -> None:
    """Take scenarios off a channel, (number, with a table of events, its course) each, until None comes."""
    modules.wait()
    probes = {device: Mirror(device) for device in devices()}
    tainted = os.open(_TAINTED, os.O_RDONLY)
    brought = time.monotonic()
    with LogReader() as log, Player() as player:
        log.new()
        gc.freeze()
        before = _usage(probes)
        channel.send(packed(before))
        while True:
            data = channel.receive()
            if data is None:
                return
            if time.monotonic() - brought > COVER_S:
                brought = time.monotonic()
                gcov.bring(Path(os.environ["DMIRROR_RUN_DIR"]))
            number, with_log, ready = unpacked(data)
            clean = int(os.pread(tainted, 32, 0))
            record, trouble = _play(player, ready, with_log=with_log)
            after = _usage(probes)
            until = time.monotonic() + _SETTLE_S
            while after != before and time.monotonic() < until:
                time.sleep(0.01)
                after = _usage(probes)
            said = tuple(map(str, log.new()))
            left = (before, after) if after != before else None
            taints = int(os.pread(tainted, 32, 0)) & ~clean
            channel.send(packed(Played(number, record, trouble, said, taints, left)))
            before = _usage(probes) if left else after  # what was left may have gone by now


def _play(player: Player, ready: Course, *, with_log: bool) -> tuple[Record | None, str]:
    try:
        return player.run(ready, log=with_log), ""
    except Unsupported as error:
        return None, f"it cannot be played here: {error}"
    except Exception:
        return None, traceback.format_exc()


def _usage(probes: dict[int, Mirror]) -> Usage:
    return {device: probe.usage() for device, probe in probes.items()}
