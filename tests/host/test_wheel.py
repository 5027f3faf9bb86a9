# SPDX-License-Identifier: GPL-2.0
"""A wheel: what is in it, and that it runs from there, with no checkout and nothing written beside it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dmirror.paths import INSTALLED, ROOT

pytestmark = pytest.mark.skipif(INSTALLED, reason="a wheel is made from a checkout")

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
_TEST = """
import sys
from types import SimpleNamespace
from dmirror import cli
from dmirror.plugin import guests
print("harness", guests._harness(), flush=True)
chosen = SimpleNamespace(expression="numbers_are_the_trees", pytest=["-v"])
sys.exit(cli._wait_for(cli._pytest(chosen, "tests/host/test_uapi.py")))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    made = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (file,) = folder.iterdir()
    return zipfile.ZipFile(file)


@pytest.fixture
def site(wheel: zipfile.ZipFile, tmp_path: Path) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path / "site"
    wheel.extractall(folder)
    return folder


def _files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if "__pycache__" not in path.parts}


def test_it_has_the_package_and_all_that_a_run_takes_from_a_checkout(wheel: zipfile.ZipFile) -> None:
    wanted = {f"dmirror/{name}" for name in _files(ROOT / "harness/dmirror")}
    for folder in ("kmod", "qemu", "tests", "docs", "findings"):
        wanted |= {f"dmirror/checkout/{folder}/{name}" for name in _files(ROOT / folder)}
    wanted |= {f"dmirror/checkout/{name}" for name in ("pyproject.toml", "scripts/packages.txt")}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_the_guests_first_process_can_be_executed(wheel: zipfile.ZipFile) -> None:
    mode = wheel.getinfo("dmirror/checkout/qemu/guest-init.sh").external_attr >> 16
    assert mode & 0o111 == 0o111


def test_it_runs_tests_under_their_own_settings_and_writes_nothing_beside_itself(site: Path, tmp_path: Path) -> None:
    before = _files(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", _TEST]
    ran = subprocess.run(command, cwd=empty, env=environment, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"harness {VERSION}\n" in ran.stdout
    assert f"rootdir: {site}/dmirror/checkout\nconfigfile: pyproject.toml\n" in ran.stdout
    assert _files(site) == before
    assert not list(empty.iterdir())
