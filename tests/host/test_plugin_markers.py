# SPDX-License-Identifier: GPL-2.0
"""needs() skips with a reason where a kernel or driver lacks something."""

from __future__ import annotations

import os

import pytest

from dmirror import running
from dmirror.plugin import markers


@pytest.mark.parametrize(
    ("release", "wanted", "matches"),
    [
        ("7.2.12", ">=7.2", True),
        ("7.2.12", ">7.2", False),
        ("7.2.12", "==7.2", True),
        ("7.2.12", "<7.2", False),
        ("7.3.0-rc7+", ">=7.3", True),
        ("6.12.95", ">=6.2", True),
        ("6.1.192", ">=6.12", False),
        ("6.12.95", ">=6.1, <7.2", True),
        ("7.2.1", ">=6.1,<7.2", False),
        ("7.3", "<7.3.1", True),
        ("7.3.4", "!=7.3", False),
    ],
)
def test_releases_compare_by_number_at_the_precision_given(release: str, wanted: str, matches: bool) -> None:
    assert running.release_matches(release, wanted) is matches


@pytest.mark.parametrize("wanted", ["7.2", "=>7.2", ">=seven", "", ">=7.2,"])
def test_a_malformed_comparison_is_an_error(wanted: str) -> None:
    with pytest.raises(ValueError, match="not a comparison"):
        running.release_matches("7.3", wanted)


def test_reasons_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markers, "_config", lambda: {"CONFIG_A": "y", "CONFIG_B": "m", "CONFIG_S": '"y"'})
    monkeypatch.setattr(markers, "_capabilities", lambda: {"counters"})
    assert markers.unmet(config=["CONFIG_A", "CONFIG_B"], capability="counters") is None
    assert markers.unmet(config="CONFIG_C") == "needs CONFIG_C, which this kernel was built without"
    assert markers.unmet(capability=["counters", "holds"]) == "needs the driver's capability holds"
    release = os.uname().release
    assert markers.unmet(kernel=">=999") == f"needs a kernel >=999, this is {release}"
