# SPDX-License-Identifier: GPL-2.0
"""dmirror: a Linux kernel test driver for HMM and the harness that runs it."""

__version__ = "0.1.0"
