# SPDX-License-Identifier: GPL-2.0
"""python -m dmirror: the same as the `dmirror` command."""

import sys

from dmirror.cli import main

sys.exit(main())
