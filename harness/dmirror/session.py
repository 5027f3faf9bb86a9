# SPDX-License-Identifier: GPL-2.0
"""python -m dmirror.session: pytest, which ends on broken standard streams as the `dmirror` command does."""

from __future__ import annotations

import sys

from dmirror import streams


def _main() -> int:
    import pytest  # noqa: PLC0415  (first the streams are in order)

    return pytest.main()


if __name__ == "__main__":
    sys.exit(streams.command(_main))
