# SPDX-License-Identifier: GPL-2.0
"""A Python interpreter inside a fresh guest, as a command: what execnet starts as an xdist worker.

`python -m dmirror.vm.interpreter ARGUMENTS...` boots the guest that $DMIRROR_GUEST (a GuestSpec as JSON)
describes and runs this Python with the same arguments in it, standard streams connected. The guest ends with
standard input, with this process and with its parent, however they end.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.vm import console, worker
from dmirror.vm.guest import DIED, Outcome, boot
from dmirror.vm.spec import GuestSpec

FOLDER = "DMIRROR_GUEST_FOLDER"
"""The environment's name for the guest's folder, where that is chosen already."""

OUTCOME = "outcome.json"
"""In the guest's folder: how it ended, see outcome()."""


def run_dir(run: Path, pid: int) -> Path:
    """The folder of the guest whose interpreter has process id `pid`."""
    return run / f"guest-{pid}"


def outcome(folder: Path) -> Outcome | None:
    """How the guest of that folder ended; None while it runs, and when its interpreter was told to end."""
    try:
        return Outcome(**json.loads((folder / OUTCOME).read_text()))
    except FileNotFoundError:
        return None


def main() -> int:
    folder = Path(os.environ.get(FOLDER) or run_dir(Path(os.environ["DMIRROR_RUN"]), os.getpid()))
    spec = GuestSpec.from_json(Path(os.environ["DMIRROR_GUEST"]).read_text())
    arguments = [worker.PROGRAM if word == worker.BOOTSTRAP else word for word in sys.argv[1:]]
    try:
        ended = boot(spec, [sys.executable, *arguments], run_dir=folder, as_interpreter=True)
    except CannotRun as error:
        print(f"dmirror: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return DIED
    (folder / OUTCOME).write_text(json.dumps(asdict(ended)))
    if ended.came_up or (ended.status is None and ended.failure is None):
        return DIED if ended.status is None else ended.status
    print(console.tail(folder / console.LOG), file=sys.stderr)
    print(
        f"dmirror: the guest did not come up: {ended.failure or ended.status}",
        file=sys.stderr,
        flush=True,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
