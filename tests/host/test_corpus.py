# SPDX-License-Identifier: GPL-2.0
"""Every scenario of tests/scenarios: the model finds nothing in it that cannot be, on any kernel it is for."""

import pytest

from dmirror.model.predict import Prediction
from dmirror.paths import ROOT
from dmirror.scenario.check import load

FILES = sorted((ROOT / "tests" / "scenarios").glob("*.dms"))


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_the_model_allows_what_the_files_expect(release):
    wrong = {}
    for file in FILES:
        prediction = Prediction(load(file), release)
        if prediction.wrong:
            wrong[file.name] = [line for line in prediction.lines if "! the model" in line]
    assert wrong == {}


def test_a_corpus_is_there():
    assert len(FILES) >= 80


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("CPU reads buf == 2", "success, 1"),
        ("A writes buf = 2 fails EPERM", "success"),
        ("expect where buf == A", "ram"),
        ("expect rights buf == r", "rw"),
        ("expect A maps buf", "A maps -"),
    ],
)
def test_what_cannot_be_is_said(line, says, tmp_path):
    file = tmp_path / "x.dms"
    file.write_text(f'scenario "x"\ncontract L-11\nregion buf: anonymous 1 page, written 1\n\n{line}\nA reads buf\n')
    prediction = Prediction(load(file), "7.3")
    assert prediction.wrong == 1
    assert f"! the model says otherwise: {says}" in "\n".join(prediction.lines)
