# SPDX-License-Identifier: GPL-2.0
"""Containerfile: its steps are shell that parses, and its command is one that the parser takes."""

import json
import subprocess
import sys

import pytest

from dmirror.cli import _parser
from dmirror.paths import INSTALLED, ROOT

pytestmark = pytest.mark.skipif(INSTALLED, reason="an image is made from a checkout")


def steps() -> list[tuple[str, str]]:
    """Instruction and arguments, in order."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", "")
    lines = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return [(word, rest) for word, _, rest in lines]


def script() -> str:
    """The same as a shell script, to be run in a checkout in a root of the distribution that the image begins with."""
    as_shell = {
        "RUN": "{}",
        "COPY": "cp -r {}",
        "ENV": "export {}",
        "VOLUME": "mkdir -p {}",
        "WORKDIR": "mkdir -p {0} && cd {0}",
    }
    lines = [as_shell[word].format(rest) for word, rest in steps() if word in as_shell]
    entry, command = (" ".join(json.loads(rest)) for word, rest in steps()[-2:])
    return "\n".join(["set -e", *lines, f"{entry} {command}", ""])


def test_its_steps_are_shell() -> None:
    checked = subprocess.run(["sh", "-n"], input=script(), check=False, capture_output=True, text=True)
    assert checked.stderr == ""
    assert "sh /opt/dmirror/scripts/setup.sh" in script()


def test_its_command_is_one_of_dmirrors() -> None:
    (_, entry), (_, command) = steps()[-2:]
    assert json.loads(entry) == ["dmirror"]
    _parser().parse_args(json.loads(command))


if __name__ == "__main__":  # sh scripts/fresh.sh trixie "$(python tests/host/test_container.py)"
    sys.stdout.write(script())
