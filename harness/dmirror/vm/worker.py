# SPDX-License-Identifier: GPL-2.0
"""In a guest: what an interpreter runs that execnet started there."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

BOOTSTRAP = "import sys;exec(eval(sys.stdin.readline()))"
"""execnet's program for an interpreter (execnet.gateway_io.popen_bootstrapline)."""

PROGRAM = "from dmirror.vm.worker import main; main()"
"""Ours instead of that."""

_GARBAGE = 50_000  # objects; imports leave next to none in circles, and to look for it takes a guest long


def main() -> None:
    """As execnet's own: run the program that comes as a line. It begins with the source of execnet.gateway_base, which
    a guest takes half a second to compile; what it imports is compiled."""
    gc.set_threshold(_GARBAGE)
    program = eval(sys.stdin.readline())
    from execnet import gateway_base  # noqa: PLC0415 - not before the threshold

    source = Path(gateway_base.__file__).read_text()
    exec(program.removeprefix(source), dict(vars(gateway_base)) if program.startswith(source) else {})
