# SPDX-License-Identifier: GPL-2.0
"""Random scenarios against the model: `dmirror fuzz`."""
