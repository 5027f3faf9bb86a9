# SPDX-License-Identifier: GPL-2.0
"""Version, completion and manual page of the command: they follow the parser."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from dmirror import __version__, cli
from dmirror.cli import main


def _verbs() -> dict[str, argparse.ArgumentParser]:
    (verbs,) = (one for one in cli._parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(verbs.choices)


def _printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dmirror {__version__}\n"
    assert f'version = "{__version__}"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_every_verb_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = _printed(["completion", shell], capsys)
    for name, verb in _verbs().items():
        assert name in script
        for option in verb._option_string_actions:
            assert option.lstrip("-") in script, (name, option)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dmirror che", "check"),
        ("dmirror fmt --ch", "--check"),
        ("dmirror peer --li", "--limit"),
        ("dmirror run --driver tes", "test_hmm"),
        ("dmirror check a.d", "a.dms"),
        ("dmirror peer --kdir tr", "tree"),
    ],
)
def test_bash_completes(typed: str, offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.dms").write_text("")
    (tmp_path / "tree").mkdir()
    script = _printed(["completion", "bash"], capsys)
    (name,) = {line.split()[-2] for line in script.splitlines() if line.startswith("complete ") and "-F" in line}
    asked = f'COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {name}; echo "${{COMPREPLY[@]}}"'
    said = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [offered]


def test_the_manual_page_has_every_verb_and_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = _printed(["man"], capsys)
    text = page.replace("\\-", "-")
    assert text.splitlines()[0].startswith(".TH DMIRROR ")
    assert "dmirror - A test driver for HMM" in text
    for name, verb in _verbs().items():
        assert name in text
        for option in verb._option_string_actions.keys() - {"-h", "--help"}:
            assert option in text, (name, option)
    if shutil.which("groff"):
        (tmp_path / "dmirror.1").write_text(page)
        command = ["groff", "-man", "-Tutf8", "-ww", tmp_path / "dmirror.1"]
        assert subprocess.run(command, capture_output=True, check=True).stderr == b""
