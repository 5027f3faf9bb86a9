# SPDX-License-Identifier: GPL-2.0
"""`dmirror fmt`, `dmirror check` and `dmirror run --model`: scenarios as files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from dmirror import inputs
from dmirror.errors import CannotRun
from dmirror.model.predict import Prediction
from dmirror.scenario import check, parser, text, tree
from dmirror.scenario.faults import Faults

SUFFIX = ".dms"


def fmt(files: Iterable[Path], *, check_only: bool) -> int:
    """Write each as `text.format` has it, or show what that would change; the exit status. Raises CannotRun."""
    status = 0
    for file in files:
        before = _read(file)
        try:
            after = text.format(parser.parse(check.decoded(before, str(file)), str(file)))
        except Faults as faults:
            print(faults.render(before.decode(errors="replace"), str(file)))
            status = 1
            continue
        if after.encode() == before:
            continue
        if check_only:
            lines = (before.decode().splitlines(keepends=True), after.splitlines(keepends=True))
            print("".join(difflib.unified_diff(*lines, str(file), f"{file}, formatted")).rstrip("\n"))
            status = 1
            continue
        try:
            file.write_bytes(after.encode())
        except OSError as error:
            raise CannotRun(f"cannot write {file}: {error.strerror}", "make it writable") from error
    return status


def check_files(files: Iterable[Path]) -> int:
    """Print what is wrong with them; the exit status. Raises CannotRun."""
    status = 0
    for file in files:
        data = _read(file)
        try:
            check.loaded(data, str(file))
        except Faults as faults:
            print(faults.render(data.decode(errors="replace"), str(file)))
            status = 1
    return status


def checked(files: Iterable[Path]) -> list[tree.Scenario]:
    """Their trees. Raises CannotRun where one is none."""
    found = []
    for file in files:
        data = _read(file)
        try:
            found.append(check.loaded(data, str(file)))
        except Faults as faults:
            said = faults.render(data.decode(errors="replace"), str(file))
            raise CannotRun(f"{file} is no scenario:\n{said}", f"dmirror check {file}") from None
    return found


def predict(files: Iterable[Path], release: str) -> int:
    """Print what the model says of each on a kernel; the exit status is 1 where that is not what a file expects."""
    wrong = 0
    for scenario in checked(files):
        prediction = Prediction(scenario, release)
        wrong += prediction.wrong
        print("\n".join(prediction.lines))
    return int(wrong > 0)


def _read(file: Path) -> bytes:
    try:
        return inputs.read(file, inputs.SCENARIO)
    except OSError as error:
        raise CannotRun(
            f"cannot read {file}: {error.strerror}", "name a scenario, such as tests/scenarios/fork.dms"
        ) from error
