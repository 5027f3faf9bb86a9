# SPDX-License-Identifier: GPL-2.0
"""A Python interpreter inside a fresh guest, as a command: what execnet starts as an xdist worker.

`python -m dmirror.vm.interpreter ARGUMENTS...` boots the guest that $DMIRROR_GUEST (a GuestSpec as JSON)
describes and runs this Python with the same arguments in it, standard streams connected. The guest ends with
standard input, with this process and with its parent, however they end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.vm import console
from dmirror.vm.guest import DIED, boot
from dmirror.vm.spec import GuestSpec


def run_dir(run: Path, pid: int) -> Path:
    """The folder of the guest whose interpreter has process id `pid`."""
    return run / f"guest-{pid}"


def main() -> int:
    folder = run_dir(Path(os.environ["DMIRROR_RUN"]), os.getpid())
    spec = GuestSpec.from_json(Path(os.environ["DMIRROR_GUEST"]).read_text())
    try:
        outcome = boot(spec, [sys.executable, *sys.argv[1:]], run_dir=folder, as_interpreter=True)
    except CannotRun as error:
        print(f"dmirror: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return DIED
    if outcome.came_up or (outcome.status is None and outcome.failure is None):
        return DIED if outcome.status is None else outcome.status
    print(console.tail(folder / console.LOG), file=sys.stderr)
    print(
        f"dmirror: the guest did not come up: {outcome.failure or outcome.status}",
        file=sys.stderr,
        flush=True,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
