# SPDX-License-Identifier: GPL-2.0
"""Figures and table of a benchmark, and how `dmirror bench` ends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dmirror import cli, figures
from dmirror.errors import CannotRun


def cell(operation: str, ours: list[int], trees: list[int], errors: list[str] | None = None) -> dict[str, Any]:
    drivers = {"dmirror": {"ns": ours, "errors": []}, "test_hmm": {"ns": trees, "errors": errors or []}}
    return {"operation": operation, "page_kib": 4, "pages": 10, "drivers": drivers}


def raw(*cells: dict[str, Any], complaints: list[str] | None = None) -> dict[str, Any]:
    return {"rounds": 3, "complaints": {"dmirror": [], "test_hmm": complaints or []}, "cells": list(cells)}


def shown(measured: dict[str, Any]) -> str:
    text = io.StringIO()
    what = {"kernel": "7.3.4", "flavour": "default", "accelerator": "tcg"}
    figures.show(what | figures.summary(measured), Console(file=text, width=140))
    return text.getvalue()


def test_a_cell_has_the_median_the_spread_and_the_ratio_of_throughputs() -> None:
    (found,) = figures.summary(raw(cell("READ cold", [20480, 10240, 40960], [40960, 81920, 40960])))["cells"]
    assert found["drivers"]["dmirror"]["gb_per_s"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert found["drivers"]["dmirror"]["us_per_page"] == 2.048
    assert found["drivers"]["dmirror"]["ns"] == [20480, 10240, 40960]
    assert found["ratio"] == 2.0


def test_memcpy_is_the_limit_beside_the_others_and_takes_the_times_of_both_turns() -> None:
    (found,) = figures.summary(raw(cell("READ cold", [40960], [40960]), cell("memcpy", [4096], [12288])))["cells"]
    assert found["operation"] == "READ cold"
    assert found["memcpy_gb_per_s"] == 5.0


def test_what_one_driver_cannot_do_is_a_dash_and_a_note() -> None:
    measured = raw(cell("MIGRATE_TO_DEV", [20480], [], ["Cannot allocate memory after 0 pages"] * 3))
    (found,) = figures.summary(measured)["cells"]
    assert found["ratio"] is None and found["drivers"]["test_hmm"]["gb_per_s"] is None
    row, note = (line for line in shown(measured).splitlines() if "MIGRATE" in line or line.startswith("(1)"))
    assert row.split()[-5:] == ["-", "(1)", "-", "-", "-"]
    assert note == "(1) test_hmm: Cannot allocate memory after 0 pages"


def test_a_round_that_failed_is_noted_beside_those_that_did_not() -> None:
    text = shown(raw(cell("SNAPSHOT", [20480], [20480], ["Device or resource busy"])))
    assert "(2.00 to 2.00) (1)" in text
    assert "(1) test_hmm: Device or resource busy, in 1 rounds" in text


def test_a_complaint_of_the_kernel_is_noted_once() -> None:
    text = shown(raw(cell("SNAPSHOT", [20480], [20480]), complaints=["WARNING: mm/memremap.c"] * 2))
    assert text.count("the kernel complained with test_hmm loaded: WARNING: mm/memremap.c") == 1


def test_a_driver_that_was_never_reached_has_no_figures() -> None:
    measured = raw(cell("SNAPSHOT", [20480], []))
    del measured["cells"][0]["drivers"]["test_hmm"]
    assert "not measured" in shown(measured)


@pytest.mark.parametrize(
    ("value", "text"), [(0.00156, "0.00156"), (0.0999, "0.0999"), (2.0, "2.00"), (99.94, "99.9"), (2632.4, "2632")]
)
def test_three_digits_count(value: float, text: str) -> None:
    (row,) = (
        line for line in shown(raw(cell("READ cold", [round(10**6 / value)], [10**6]))).splitlines() if "READ" in line
    )
    assert row.split()[-1] == text


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Everything of the command but the guest, which writes `measured` if that is set, and ends with `ending`."""
    kernel = SimpleNamespace(
        label="7.3.4", flavour="default", release="7.3.4", slowdown=1.0, image=tmp_path / "bzImage", build=tmp_path
    )
    guest = SimpleNamespace(build=tmp_path, measured=None, ending=0)

    def run(spec: object, argv: list[str], *, run_dir: Path, within_s: float) -> int:
        if guest.measured is not None:
            Path(argv[argv.index("dmirror.bench") + 1]).write_text(json.dumps(guest.measured))
        if isinstance(guest.ending, BaseException):
            raise guest.ending
        return int(guest.ending)

    monkeypatch.setattr(cli, "_prepare", lambda _: kernel)
    monkeypatch.setattr(cli, "driver_module", lambda _, driver: tmp_path / f"{driver}.ko")
    monkeypatch.setattr(cli.uapi, "ensure", lambda: None)
    monkeypatch.setattr(cli.accelerator, "choose", lambda _: SimpleNamespace(name="tcg"))
    monkeypatch.setattr(cli, "run", run)
    return guest


def test_figures_are_in_the_build_folder(guest: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    guest.measured = raw(cell("READ cold", [20480], [40960]))
    assert cli.main(["bench"]) == 0
    written = json.loads((guest.build / "bench.json").read_text())
    assert written["kernel"] == "7.3.4" and written["accelerator"] == "tcg" and written["rounds"] == 3
    assert written["cells"][0]["ratio"] == 2.0
    assert str(guest.build / "bench.json") in capsys.readouterr().out


@pytest.mark.parametrize(("ending", "status"), [(255, 2), (1, 2), (KeyboardInterrupt(), 130), (CannotRun("a", "b"), 2)])
def test_an_early_end_keeps_the_rounds_so_far(guest: SimpleNamespace, ending: object, status: int) -> None:
    guest.measured, guest.ending = raw(cell("READ cold", [20480], [40960])), ending
    assert cli.main(["bench"]) == status
    assert (guest.build / "bench.json").exists()


def test_no_figures_at_all_is_said(guest: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ending = 255
    assert cli.main(["bench"]) == 2
    assert "console" in capsys.readouterr().err
    assert not (guest.build / "bench.json").exists()


def test_a_build_folder_that_cannot_be_written_is_said(
    guest: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.measured = raw(cell("READ cold", [20480], [40960]))
    (guest.build / "bench.json").mkdir()
    assert cli.main(["bench"]) == 2
    output, errors = capsys.readouterr()
    assert "READ cold" in output and "bench.json" in errors


def test_it_loads_the_drivers_itself(guest: SimpleNamespace) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "--driver=test_hmm"])
    assert caught.value.code == 2
