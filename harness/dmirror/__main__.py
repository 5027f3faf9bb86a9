# SPDX-License-Identifier: GPL-2.0
"""The `dmirror` command, also as python -m dmirror."""

from __future__ import annotations

import sys

from dmirror import environment, streams


def command() -> int:
    """Run one verb; returns the exit status."""
    return streams.command(_main)


def _main() -> int:
    environment.settle()
    from dmirror.cli import main  # noqa: PLC0415  (first the environment is in order)

    return main()


if __name__ == "__main__":
    sys.exit(command())
