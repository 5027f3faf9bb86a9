# SPDX-License-Identifier: GPL-2.0
"""Facilities of the kernel that tests put around a mirror: one a file, set up for a test and taken down after it."""
