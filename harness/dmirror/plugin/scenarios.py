# SPDX-License-Identifier: GPL-2.0
"""Scenarios as tests: one item for each file `*.dms`, played where the driver is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmirror import inputs
from dmirror.plugin.fixtures import balanced

_CONTRACT = re.compile(r"^contract\s+(.*?)\s*(?:#.*)?$", re.MULTILINE)


class Wrong(Exception):
    """A scenario did not come out as it should; its text says all."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    return _File.from_parent(parent, path=file_path) if file_path.suffix == ".dms" else None


class _File(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        # Only this is read of it for now: a guest is slow, and perhaps it is not among the tests that are wanted.
        match = _CONTRACT.search(inputs.read(self.path, inputs.SCENARIO).decode(errors="replace"))
        times = self.config.getoption("count", 1)  # pytest-repeat's, which multiplies functions alone
        for number in range(1, times + 1):
            item = Scenario.from_parent(self, name=self.path.stem + (f"[{number}-{times}]" if times > 1 else ""))
            for name in match[1].split(",") if match else []:
                item.add_marker(pytest.mark.contract(name.strip()))
            yield item


class Scenario(pytest.Item):
    """One scenario, played and judged."""

    def runtest(self) -> None:
        """Play it. Raises Wrong, or Faults for a text that is none; skips what this machine cannot."""
        from dmirror.model.judge import judge  # noqa: PLC0415  (the host collects it without the extension)
        from dmirror.model.told import told  # noqa: PLC0415
        from dmirror.scenario import needs  # noqa: PLC0415
        from dmirror.scenario.check import load  # noqa: PLC0415
        from dmirror.scenario.play import Player  # noqa: PLC0415
        from dmirror.scenario.world import Unsupported  # noqa: PLC0415

        scenario = load(self.path)
        reason = needs.unmet(scenario)
        if reason is not None:
            pytest.skip(reason)
        with balanced():
            try:
                with needs.surroundings(scenario), Player() as player:
                    record = player.play(scenario)
            except Unsupported as error:
                pytest.skip(str(error))
            problems = judge(scenario, record)
        if problems:
            raise Wrong(told(self.path.read_text(), scenario, record, problems))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The text with what was wrong in it, rather than the harness's own frames."""
        from dmirror.scenario.faults import Faults  # noqa: PLC0415

        error = excinfo.value
        if isinstance(error, Wrong):
            return f"{self.path.name}\n{error}"
        if isinstance(error, Faults):
            return error.render(self.path.read_text(errors="replace"), self.path.name)
        # Of the frames those from here on: what is above them is pytest's.
        excinfo.traceback = excinfo.traceback.cut(path=__file__)
        return str(excinfo.getrepr(style="short"))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it is, and its name."""
        return self.path, 0, self.name
