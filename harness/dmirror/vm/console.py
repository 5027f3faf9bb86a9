# SPDX-License-Identifier: GPL-2.0
"""A guest's console log: what it said last, and in which test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from dmirror.splats import TEST_STARTS

LOG = "console.log"

# What guest-init.sh writes to it before it loads the modules.
MODULES_FOLLOW = "guest-init: loading modules"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


def tail(log: Path, *, lines: int = 40) -> str:
    """The last `lines` lines of a console log without terminal escapes; says so when there is none."""
    text = read(log)
    if not text:
        return f"(nothing on the console: {log})"
    return "\n".join(text.splitlines()[-lines:])


def since_test(log: Path) -> str:
    """What came since the last test began; everything if none did."""
    text = read(log)
    start = text.rfind(TEST_STARTS)
    return text[text.rfind("\n", 0, start) + 1 :] if start >= 0 else text


def last_words(log: Path, *, lines: int = 40) -> str:
    """Like tail(), and not more than what came since the last test began."""
    text = since_test(log)
    if TEST_STARTS not in text:
        return tail(log, lines=lines)
    since = text.splitlines()
    if len(since) <= lines:
        return "\n".join(since)
    # A panic's cause stands first and the dead guest's last line last: both ends say more than either.
    half = lines // 2
    return "\n".join([*since[:half], f"... {len(since) - lines} lines, all in {log} ...", *since[-half:]])


def not_obeyed(log: Path, append: str) -> list[str]:
    """What of `append` the kernel said it does not know (print_unknown_bootoptions() in init/main.c): an option that it
    was built without, or a slip."""
    found = re.search(r'Unknown kernel command line parameters "([^\n]*)", will be passed', read(log))
    unknown = found.group(1).split() if found else []
    return [word for word in shlex.split(append) if word in unknown]


def read(log: Path) -> str:
    try:
        raw = log.read_bytes()
    except OSError:
        return ""
    return _ESCAPES.sub("", raw.decode(errors="replace"))
