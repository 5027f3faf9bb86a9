# SPDX-License-Identifier: GPL-2.0
"""Files that a user names and a guest has to see, though it has a /tmp of its own; and how long a command may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmirror import cli
from dmirror.kernel import Kernel
from dmirror.vm import command, visible
from dmirror.vm.spec import GuestSpec


@pytest.mark.parametrize(
    ("named", "brought"),
    [
        ("/tmp/x/a.dms", "/tmp/x"),
        ("/var/tmp/x/y/a.py", "/var/tmp/x/y"),
        ("/run/user/1000/a.py", "/run/user/1000"),
        ("/dev/shm/linux/a.ko", "/dev/shm/linux"),
        ("/tmp/a.dms", "/tmp/a.dms"),
        ("/dev/shm/a.dms", "/dev/shm/a.dms"),
        ("/tmp/x/../a.dms", "/tmp/a.dms"),
        ("/tmp", None),
        ("/dev/shm", None),
        ("/", None),
        ("/var", None),
        ("/home/me/a.dms", None),
        ("/mnt/disk/a.dms", None),
    ],
)
def test_what_is_brought(named: str, brought: str | None) -> None:
    assert visible.brought([Path(named)]) == ({Path(brought)} if brought else set())


def test_a_folder_is_brought_itself_and_a_link_with_what_it_leads_to(tmp_path: Path) -> None:
    assert tmp_path.is_relative_to("/tmp")
    (tmp_path / "folder").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.py").symlink_to(tmp_path / "folder" / "a.py")
    assert visible.brought([tmp_path / "folder"]) == {tmp_path / "folder"}
    assert visible.brought([tmp_path / "links" / "a.py"]) == {tmp_path / "folder", tmp_path / "links"}


def _set_up(folder: Path, *kept: Path) -> list[str]:
    spec = GuestSpec(Path("bzImage"), "7.3", modules=("/tmp/k/x.ko p=1",), kept=tuple(map(os.fspath, kept)))
    script = command.set_up_script(spec, folder, None, interactive=False, as_interpreter=False, within_s=None)
    return [line.removeprefix("keep ") for line in script.splitlines() if line.startswith("keep ")]


def test_all_that_is_needed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cwd", "path", "cache", "program"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}")
    kept = _set_up(tmp_path, tmp_path / "program" / "a.py")
    assert {os.fspath(tmp_path / name) for name in ("cwd", "path", "cache", "program")} < {*kept}
    assert "/tmp/k" in kept


def test_a_guest_keeps_its_own_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("/tmp", "/", "/var"):
        monkeypatch.chdir(folder)
        assert folder not in _set_up(tmp_path, Path(folder, "a.py"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[GuestSpec, dict[str, object]]]:
    """What guests were booted with by the command."""
    booted: list[tuple[GuestSpec, dict[str, object]]] = []
    kernel = Kernel(**dict.fromkeys(Kernel.__dataclass_fields__, tmp_path) | {"slowdown": 2.0, "release": "7.3"})
    monkeypatch.setattr(cli, "_prepare", lambda args: kernel)
    monkeypatch.setattr(cli, "build_peer", lambda kernel: Path("/tmp/build/hmm-tests"))
    monkeypatch.setattr(cli, "driver_module", lambda kernel, driver: Path("/tmp/driver/dmirror.ko"))
    monkeypatch.setattr(cli.uapi, "ensure", lambda: None)
    monkeypatch.setattr(cli, "run", lambda spec, command, **how: booted.append((spec, how)) or 255)
    return booted


def test_files_of_the_command_line_reach_the_guest(given: list, tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "data"):
        (tmp_path / name).write_text("")
    assert cli.main(["run", f"{tmp_path}/a.py", f"{tmp_path}/data", "word"]) == 255
    for suffix in (".dms", "2.dms"):
        (tmp_path / f"a{suffix}").write_text('scenario "x"\nregion buf: anonymous 1 page\nCPU reads buf\n')
    assert cli.main(["run", f"{tmp_path}/a.dms", f"{tmp_path}/a2.dms"]) == 255
    assert [spec.kept for spec, _ in given] == [
        (f"{tmp_path}/a.py", f"{tmp_path}/data"),
        (f"{tmp_path}/a.dms", f"{tmp_path}/a2.dms"),
    ]


@pytest.mark.parametrize("name", ["none.py", "none.dms", "pipe.py", "pipe.dms", "folder"])
def test_what_a_guest_cannot_read_is_refused(
    name: str, given: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".py", ".dms"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / "folder").mkdir()
    assert cli.main(["run", f"{tmp_path}/{name}"]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert f"{tmp_path}/{name} is " in errors
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "limit", "status"),
    [
        (["demo"], 300, 1),
        (["peer"], 1200, 1),
        (["peer", "--limit=7.5"], 7.5, 1),
        (["peer", "--limit=0"], None, 1),
        (["bench"], 7200, 2),
        (["run", __file__], 3600, 255),
        (["shell"], None, 255),
    ],
)
def test_a_command_has_a_limit(arguments: list[str], limit: float | None, status: int, given: list) -> None:
    assert cli.main(arguments) == status
    assert [how.get("within_s") for _, how in given] == [limit]


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_a_limit_is_a_number_of_seconds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["peer", f"--limit={text}"])
    assert f"{text!r} is not a number of seconds, or 0 for no limit" in capsys.readouterr().err
