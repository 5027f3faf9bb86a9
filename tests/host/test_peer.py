# SPDX-License-Identifier: GPL-2.0
"""Reading the TAP of a tree's own hmm-tests."""

from __future__ import annotations

import pytest

from dmirror.peer import Tap

COHERENT = "#      SKIP      DEVICE_COHERENT not available"


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        (["#  RUN  hmm.open_close ...", "#            OK  hmm.open_close", "ok 1 hmm.open_close"], {"passed": 1}),
        (["ok 1 hmm.open_close", "not ok 2 hmm.anon_read"], {"passed": 1, "failed": 1}),
        (["#      SKIP      no gup_test driver", "ok 1 # SKIP no gup_test driver"], {"skipped": 1}),
        # As 7.2 says it, and as 6.1 does.
        ([COHERENT, "ok 40 # SKIP DEVICE_COHERENT not available"], {"left out": 1}),
        ([COHERENT, "ok 27 hmm.hmm_device_coherent.open_close", "ok 28 hmm.x"], {"left out": 1, "passed": 1}),
        (["TAP version 13", "1..76", "# Totals: pass:38 fail:0 xfail:0 xpass:0 skip:38 error:0"], {}),
    ],
)
def test_verdicts(lines: list[str], verdicts: dict[str, int]) -> None:
    tap = Tap()
    for line in lines:
        tap.read(line + "\n")
    assert dict(tap.verdicts) == verdicts
