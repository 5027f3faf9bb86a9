# SPDX-License-Identifier: GPL-2.0
"""The one way the harness says that it could not run."""

from __future__ import annotations


class CannotRun(Exception):
    """Nothing was tested, and why: ends the command with exit status 2.

    `what` names the value that was wrong, `mend` the command or value that would be right. Printed as one line.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}; {mend}")
        self.what = what
        self.mend = mend


class Untestable(CannotRun):
    """The kernel tree is to blame, another one may do: `verb` is what it does not do, "build" or "boot"."""

    def __init__(self, verb: str, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.verb = verb
