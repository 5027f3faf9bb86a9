# SPDX-License-Identifier: GPL-2.0
"""Reading the TAP of a tree's own hmm-tests."""

from __future__ import annotations

import pytest

from dmirror.peer import classify


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("ok 1 hmm.hmm_device_private.open_close", "passed"),
        ("not ok 7 hmm.hmm_device_private.anon_read", "failed"),
        ("ok 12 # SKIP could not open gup_test", "skipped"),
        ("ok 33 hmm.hmm_device_private.hmm_gup_test # SKIP no huge pages", "skipped"),
        ("ok 40 # SKIP DEVICE_COHERENT not available", "left out"),
        ("#            OK  hmm.hmm_device_private.open_close", None),
        ("#  RUN           hmm.hmm_device_private.open_close ...", None),
        ("1..76", None),
        ("# Totals: pass:38 fail:0 xfail:0 xpass:0 skip:38 error:0", None),
    ],
)
def test_a_line_of_tap(line: str, verdict: str | None) -> None:
    assert classify(line) == verdict
