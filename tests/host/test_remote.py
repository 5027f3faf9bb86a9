# SPDX-License-Identifier: GPL-2.0
"""Guests on other hosts: an ssh that plays one in a folder of this machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.plugin.options import _hosts
from dmirror.vm import command, console, remote
from dmirror.vm.interpreter import OUTCOME

# Plays the host whose root is $FAR, with the command that is its last argument. Which of its commands fails: $FAILS.
SSH = r"""#!/bin/sh
for last; do :; done
echo "$*" >>"$FAR/ssh.log"
case $last in
*"$FAILS"*) echo "a banner" >&2; echo "it does not work" >&2; exit 7 ;;
'stat '*) exec sh -c "$STAT" ;;
'tar -C / '*) exec tar -C "$FAR" ${last#tar -C /} ;;
'tar -C '*) cd "$FAR" && exec sh -c "$(echo "$last" | sed 's, -C /, -C ,')" ;;
*dmirror.vm.interpreter*) exec sh -c "$PLAY" ;;
*room*) echo 3 ;;
esac
"""


@pytest.fixture
def far(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a host that ssh reaches."""
    folder = tmp_path / "far"
    (tmp_path / "bin").mkdir()
    folder.mkdir()
    cache_folder.mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("FAR", os.fspath(folder))
    monkeypatch.setenv("FAILS", "nothing at all")
    monkeypatch.setenv("STAT", "false")
    monkeypatch.setattr(remote, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(remote, "INSTALLED", False)
    (tmp_path / "checkout" / ".venv").mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").touch()
    return folder


def test_a_host_gets_the_checkout_and_what_is_named_in_the_same_places(far: Path, tmp_path: Path) -> None:
    image = tmp_path / "build" / "bzImage"
    image.parent.mkdir()
    image.write_text("kernel")
    remote.send("user@far", [image])
    there = Path(f"{far}{tmp_path}")
    assert (there / "build" / "bzImage").read_text() == "kernel"
    assert (there / "checkout" / "pyproject.toml").exists()
    assert not (there / "checkout" / ".venv").exists()
    assert remote.fitting("user@far", 2, 6144) == 3


def test_what_both_have_by_one_file_system_is_left_alone(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.touch()
    monkeypatch.setenv("STAT", f"stat -c '%i %Y %n' {remote.ROOT} /none-such; echo 1 2 {own}")
    remote.send("far", [own])
    assert [path.name for path in far.rglob("*") if path.is_file() and path.name != "ssh.log"] == ["own"]


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("true", "no ssh to far: it does not work; see that `ssh far true` works without a password"),
        ("tar", "far does not take the files: it does not work; its user has to own {root} there"),
        ("ensure", "far is not set up: it does not work; ssh far sh {root}/scripts/setup.sh"),
        ("room", "far does not say how many guests fit: it does not work; say it: far:N"),
    ],
)
def test_a_host_that_cannot_run_guests_is_said_in_one_line(
    far: Path, monkeypatch: pytest.MonkeyPatch, fails: str, says: str
) -> None:
    monkeypatch.setenv("FAILS", fails)
    with pytest.raises(CannotRun) as caught:
        remote.send("far", [])
        remote.fitting("far", 2, 6144)
    assert str(caught.value) == says.format(root=remote.ROOT)


def test_what_was_installed_is_not_sent_but_asked_for(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "INSTALLED", True)
    remote.send("far", [])
    assert not Path(f"{far}{tmp_path}").exists()
    monkeypatch.setenv("FAILS", "ensure")
    with pytest.raises(CannotRun, match=f"far is not set up: .*; install dmirror in {sys.prefix} there, too"):
        remote.send("far", [])


def test_a_guests_folder_is_fetched_without_its_disks(far: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "guest-1"
    there = Path(f"{far}{folder}")
    there.mkdir(parents=True)
    for name in (console.LOG, "limits.json", *command.DISKS):
        (there / name).write_text(name)
    remote.fetch("far", folder, "limits.json", "none-such")
    assert [path.name for path in folder.iterdir()] == ["limits.json"]
    remote.fetch("far", folder)
    assert {path.name for path in folder.iterdir()} == {console.LOG, "limits.json"}


@pytest.mark.parametrize(
    ("ends", "status", "outcome"), [("3", 3, True), ("254", 255, True), ("255", 255, False), ("told", 255, False)]
)
def test_an_interpreter_there_is_one_here(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: str, status: int, outcome: bool
) -> None:
    monkeypatch.setenv("DMIRROR_RUN", os.fspath(tmp_path / "run"))
    monkeypatch.setenv(remote.CONFIG, "its config")
    code = "import sys\nfrom dmirror.vm import remote\nsys.exit(remote.main())"
    play = f'mkdir -p "$FAR{tmp_path}/run/guest-$PPID"; cd "$FAR{tmp_path}/run/guest-$PPID"; '
    play += "echo here >console.log; echo so >outcome.json; head -n 1; "
    monkeypatch.setenv("PLAY", play + ("exec sleep 60" if ends == "told" else f"exit {ends}"))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, "far", "-u", "-c", "a; b"], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"to and fro\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"to and fro\n"
        if ends == "told":
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == status
    folder = tmp_path / "run" / f"guest-{process.pid}"
    assert (folder / console.LOG).read_text() == "here\n"
    assert (folder / OUTCOME).exists() == outcome
    said = (far / "ssh.log").read_text()
    assert said.startswith("-F its config -o BatchMode=yes")
    assert f"DMIRROR_GUEST_FOLDER={folder} " in said
    assert "-m dmirror.vm.interpreter -u -c " in said


def test_the_host_of_a_guest_is_found_again() -> None:
    for host in ("user@far", remote.HERE):
        assert remote.host_of(shlex.join(remote.interpreter(host))) == host


def test_hosts_are_a_list_with_numbers_of_guests() -> None:
    assert _hosts("user@far:2,here,near") == [("user@far", 2), ("here", None), ("near", None)]
    for wrong in ("", "far:0", "-oProxyCommand=x", "far,"):
        with pytest.raises(Exception, match="is not a"):
            _hosts(wrong)
