# SPDX-License-Identifier: GPL-2.0
"""What runs said, for people and for machines: from their records alone, wherever and whenever they ran."""
