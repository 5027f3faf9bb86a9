# SPDX-License-Identifier: GPL-2.0
"""Variables of the user's environment that change what Python and pytest do: which of them reach whom."""

from __future__ import annotations

import os
import re
import sys
import sysconfig

from dmirror.errors import CannotRun

# In a guest tests assert, warn, trace and allocate as they do everywhere: of Python's and pytest's own variables those
# alone that say where modules are, how text is encoded and shown, and what a session is to do.
_TO_GUESTS = re.compile(
    r"""
    PYTHON(HOME|PLATLIBDIR|PATH|USERBASE|NOUSERSITE|HASHSEED|BREAKPOINT)
    | PYTHON(IOENCODING|UTF8|COERCECLOCALE|UNBUFFERED|_COLORS)
    | PYTEST_(ADDOPTS|PLUGINS|THEME|THEME_MODE)
    | LANG|LC_\w+|TERM|COLORTERM|NO_COLOR|FORCE_COLOR|PY_COLORS|COLUMNS|LINES
    | CI|DMIRROR_\w+
    """,
    re.VERBOSE,
)

# Nor do processes on the host get these: pytest would not load our plugin, Python would ask for commands at its end,
# and compiled modules would stand where no guest finds them.
_TO_NOBODY = ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTHONINSPECT", "PYTHONPYCACHEPREFIX")

_WITHOUT = re.compile(r"-p\s*no:(dmirror|xdist)\b")


def of_guest() -> dict[str, str]:
    """Those that a guest gets."""
    return {name: value for name, value in os.environ.items() if _TO_GUESTS.fullmatch(name)}


def settle() -> None:
    """Put this process's in order, and those that it starts, before anything is imported that is not the standard
    library's. Raises CannotRun as refuse_optimized()."""
    refuse_optimized()
    for name in _TO_NOBODY:
        os.environ.pop(name, None)
    sys.pycache_prefix = None
    path = os.environ.get("PYTHONPATH")
    if path:
        # A pytest that stands there was not installed for us. What we do not have is still found there.
        ours = list(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))
        first = [folder for folder in ours if folder not in path.split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join([*first, path])
        sys.path[:0] = first


def refuse_optimized() -> None:
    """Raises CannotRun where Python was told to leave out assertions."""
    if sys.flags.optimize:
        raise CannotRun(
            "this Python leaves out assertions, and tests are made of them (PYTHONOPTIMIZE, or -O)",
            "type: unset PYTHONOPTIMIZE",
        )


def refuse_for_sessions() -> None:
    """Raises CannotRun where pytest was told to do without what a session is made of."""
    without = _WITHOUT.search(os.environ.get("PYTEST_ADDOPTS", ""))
    if without:
        raise CannotRun(
            f"PYTEST_ADDOPTS has {without[0]!r}, and without pytest-{without[1]} there are no tests in guests",
            "leave that out: type: unset PYTEST_ADDOPTS",
        )
