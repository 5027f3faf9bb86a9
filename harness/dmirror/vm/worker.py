# SPDX-License-Identifier: GPL-2.0
"""What an interpreter runs in a guest in place of execnet's own beginning."""

from __future__ import annotations

BOOTSTRAP = "import sys;exec(eval(sys.stdin.readline()))"
"""execnet's (execnet.gateway_io.popen_bootstrapline): the program comes as a line."""

PROGRAM = """
import gc, platform, sys
vars(platform.uname())["processor"] = ""  # xdist asks for it, and Python the program uname, which comes over 9p
gc.set_threshold(50_000)  # imports leave next to nothing in circles, and to look for it takes a guest long
program = eval(sys.stdin.readline())
# It begins with the source of this module, which a guest takes half a second to compile.
from execnet import gateway_base
with open(gateway_base.__file__) as file:
    source = file.read()
exec(program.removeprefix(source), dict(vars(gateway_base)) if program.startswith(source) else {})
"""
"""The same. It imports nothing of ours: pytest rewrites the assertions of what is imported after it alone."""
