# SPDX-License-Identifier: GPL-2.0
"""python -m dmirror.session: pytest, with the streams and the environment that the `dmirror` command has."""

from __future__ import annotations

import sys

from dmirror import environment, streams


def command(*arguments: str) -> list[str]:
    """That of a session with these arguments. Raises CannotRun where the environment does not let it be."""
    environment.refuse_for_sessions()
    return [sys.executable, "-m", "dmirror.session", *arguments]


def _main() -> int:
    environment.settle()
    environment.refuse_for_sessions()
    import pytest  # noqa: PLC0415  (first the environment is in order)

    return pytest.main()


if __name__ == "__main__":
    sys.exit(streams.command(_main))
