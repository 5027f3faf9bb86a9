# SPDX-License-Identifier: GPL-2.0
"""scripts/setup.sh: what it installs with, on which machine; and what it and scripts/fresh.sh say where they cannot."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dmirror import packages
from dmirror.errors import CannotRun
from dmirror.kernel import apt
from dmirror.paths import INSTALLED, ROOT

pytestmark = pytest.mark.skipif(INSTALLED, reason="a wheel is not set up")

# What a machine has before it is set up, as far as the script needs it.
TOOLS = ["sh", "cat", "dirname", "env", "grep", "head", "mkdir", "mktemp", "rm", "sed", "sha256sum", "tail"]
# Which package has a header, by how this manager names it; and what asks for it.
KNOWS = {
    "apt-get": ("libelf-dev", "dpkg-query"),
    "dnf": ("elfutils-libelf-devel", "rpm"),
    "pacman": ("libelf", "pacman"),
    "zypper": ("libelf-devel", "rpm"),
}
INSTALLS = {
    "apt-get": "apt-get install -y --no-install-recommends",
    "dnf": "dnf install -y --setopt=install_weak_deps=False",
    "pacman": "pacman -S --needed --noconfirm",
    "zypper": "zypper --non-interactive install --no-recommends",
}
# Says what it was called for, and that it cannot.
MANAGER = """#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
case "$*" in *update) exit 0 ;; -T*) exit 127 ;; esac
echo no route; exit 3
"""


class Machine:
    """A checkout with nothing in .venv, and a PATH of what `TOOLS` names and of stubs."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self._folder = folder
        self._calls = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found
            (self.bin / name).symlink_to(found)
        (folder / "checkout/scripts").mkdir(parents=True)
        for name in ("setup.sh", "packages.txt"):
            shutil.copy(ROOT / "scripts" / name, folder / "checkout/scripts" / name)
        for name in ("pyproject.toml", "requirements.lock"):
            (folder / "checkout" / name).touch()
        self.has("id", "#!/bin/sh\necho 0\n")

    def has(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def set_up(self) -> str:
        """What the script says when it gives up, in its last line; all of it is in `said`."""
        environment = {"PATH": str(self.bin), "CALLS": str(self._calls)}
        command = ["sh", self._folder / "checkout/scripts/setup.sh"]
        ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert ran.returncode == 2, ran.stderr
        self.said = ran.stderr.splitlines()
        return self.said[-1]

    def calls(self) -> list[str]:
        """What a manager was called for."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line for line in lines if " -T " not in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("manager", KNOWS)
def test_it_installs_with_what_the_machine_has_by_the_names_of_that(machine: Machine, manager: str) -> None:
    header, asks = KNOWS[manager]
    machine.has(asks, "#!/bin/sh\nexit 1\n")
    machine.has(manager, MANAGER)
    said = machine.set_up()
    *before, call = machine.calls()
    assert before == (["apt-get -q update"] if manager == "apt-get" else [])
    assert call.startswith(INSTALLS[manager] + " ")
    assert header in call.split()
    assert "-" not in call.split()
    assert said.startswith(f"dmirror: {manager} failed: no route; type: ")
    assert said.endswith(call)


def test_it_says_what_it_will_cost_before_it_does_anything(machine: Machine) -> None:
    machine.has("dnf", MANAGER)
    machine.set_up()
    cost, installing, failed = machine.said
    assert re.fullmatch(r"dmirror: set-up takes \d min and \d+ MB; the first kernel then \d min and \d GB in .*", cost)
    assert installing.startswith("dmirror: installing gcc ")
    assert failed.startswith("dmirror: dnf failed: ")


@pytest.mark.parametrize("manager", KNOWS)
def test_what_is_there_is_not_asked_for(machine: Machine, manager: str) -> None:
    header, asks = KNOWS[manager]
    there = f'#!/bin/sh\ncase "$*" in *" {header}") echo installed; exit 0 ;; esac\n'
    machine.has(manager, MANAGER)
    machine.has(asks, there + (MANAGER.removeprefix("#!/bin/sh\n") if asks == manager else "exit 1\n"))
    machine.has("flex", "#!/bin/sh\n")
    machine.set_up()
    wanted = machine.calls()[-1].split()
    assert header not in wanted
    assert "flex" not in wanted
    assert "bison" in wanted


@pytest.mark.parametrize("manager", KNOWS)
def test_without_rights_it_prints_the_line_to_type(machine: Machine, manager: str) -> None:
    machine.has("id", "#!/bin/sh\necho 1000\n")
    machine.has(manager, MANAGER)
    said = machine.set_up()
    update = "sudo apt-get update && " if manager == "apt-get" else ""
    assert said.startswith(f"dmirror: packages are missing, type: {update}sudo {INSTALLS[manager]} gcc ")
    assert machine.calls() == []


def test_with_sudo_it_asks_nobody(machine: Machine) -> None:
    machine.has("id", "#!/bin/sh\necho 1000\n")
    machine.has("sudo", '#!/bin/sh\n[ "$2" = true ] || { echo "sudo $*" >>"$CALLS"; shift; "$@"; }\n')
    machine.has("dnf", MANAGER)
    assert "; type: sudo dnf install" in machine.set_up()
    asked, done = machine.calls()
    assert asked.startswith("sudo -n env DEBIAN_FRONTEND=noninteractive dnf install")
    assert done.startswith(INSTALLS["dnf"])


def test_without_any_of_them_it_names_what_is_missing(machine: Machine) -> None:
    said = machine.set_up()
    assert said.startswith(
        "dmirror: no apt-get, dnf, pacman or zypper here: install what these packages of Debian hold: gcc "
    )
    assert "libelf-dev" not in said.split()  # whose header nobody can be asked for


@pytest.mark.parametrize(
    ("uid", "words", "users", "says"),
    [
        (0, [], "root", "type: sh scripts/fresh.sh SUITE [COMMAND], such as: sh scripts/fresh.sh trixie make"),
        (0, ["sid"], "nobody", "AS=nobody is neither root nor user"),
        (1000, ["sid"], "root", "a root is made and entered by root: sudo sh scripts/fresh.sh sid"),
        (0, ["sid"], "root", "no mmdebstrap here, type: apt-get install --no-install-recommends mmdebstrap"),
    ],
)
def test_a_fresh_root_that_cannot_be_made_is_said_in_one_line(
    machine: Machine, uid: int, words: list[str], users: str, says: str
) -> None:
    machine.has("id", f"#!/bin/sh\necho {uid}\n")
    environment = {"PATH": str(machine.bin), "AS": users}
    command = ["sh", ROOT / "scripts/fresh.sh", *words]
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (2, f"fresh: {says}\n")


def test_every_row_has_a_name_for_each_of_them() -> None:
    rows = [line.split() for line in (ROOT / "scripts/packages.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(len(row) > len(KNOWS) + 1 for row in rows)


@pytest.mark.parametrize("manager", KNOWS)
def test_the_harness_names_packages_as_that_machine_does(
    manager: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / manager).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    header, _ = KNOWS[manager]
    assert packages.install("gdb", "libelf-dev").startswith(f"{manager} ")
    assert packages.install("gdb", "libelf-dev").endswith(f" gdb {header}")


def test_known_kernels_elsewhere_than_on_debian_say_that_a_tree_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(CannotRun, match=r"no apt-get here; give KDIR=<a kernel tree> instead"):
        apt.system_archives()
    (tmp_path / "apt-get").symlink_to("/bin/true")  # Ubuntu's, or Fedora's
    with pytest.raises(CannotRun, match=r"no Debian archive here; give KDIR=<a kernel tree> instead"):
        apt.system_archives()
