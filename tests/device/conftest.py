# SPDX-License-Identifier: GPL-2.0
"""What several families of tests share: the driver as a module that goes and comes back."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dmirror.vm.spec import GuestSpec


class Driver:
    """The module under test as this guest loaded it."""

    def __init__(self, line: str) -> None:
        path, *self._parameters = shlex.split(line)
        self.path = Path(path)

    def insert(self, *parameters: str) -> subprocess.CompletedProcess[str]:
        """insmod with these parameters and no others."""
        return subprocess.run(["insmod", self.path, *parameters], check=False, capture_output=True, text=True)

    def load(self, *more: str) -> None:
        """insmod as it was done when the guest booted, with more parameters."""
        result = self.insert(*self._parameters, *more)
        assert result.returncode == 0, result.stderr

    def unload(self) -> None:
        """rmmod."""
        subprocess.run(["rmmod", self.path.stem], check=True)


@pytest.fixture
def driver() -> Driver:
    """Skips outside a guest of ours: only that says where its module came from."""
    description = os.environ.get("DMIRROR_GUEST")
    if description is None:
        pytest.skip("this machine does not say how its driver was loaded")
    (line,) = GuestSpec.from_json(Path(description).read_text()).modules
    return Driver(line)
