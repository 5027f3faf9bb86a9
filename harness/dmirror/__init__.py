# SPDX-License-Identifier: GPL-2.0
"""dmirror: a Linux kernel test driver for HMM and the harness that runs it.

PYTEST_DONT_REWRITE: there is no assertion here, and dmirror.session has imported this before pytest.
"""

__version__ = "0.1.0"
