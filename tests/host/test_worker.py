# SPDX-License-Identifier: GPL-2.0
"""What an interpreter in a guest runs first: execnet's program, of which it compiles nothing twice."""

from __future__ import annotations

import inspect
import subprocess
import sys

from execnet import gateway_base, gateway_io

from dmirror.vm import worker


def said(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", worker.PROGRAM], input=f"{program!r}\n", capture_output=True, text=True, check=True
    )
    return done.stdout


def test_execnet_starts_an_interpreter_with_the_program_that_is_replaced() -> None:
    assert gateway_io.popen_bootstrapline == worker.BOOTSTRAP


def test_what_execnet_sends_of_itself_is_imported() -> None:
    program = inspect.getsource(gateway_base) + "\nprint(get_execmodel.__module__, get_execmodel('thread').backend)"
    assert said(program) == "execnet.gateway_base thread\n"


def test_another_program_runs_as_it_is() -> None:
    assert said("import sys\nprint(sys.stdin.read() == '', 'get_execmodel' in globals())") == "True False\n"


def test_to_say_what_platform_it_is_starts_no_program() -> None:
    program = (
        "import platform, sys\nsys.addaudithook(lambda event, _: print(event) if event == 'subprocess.Popen' else None)"
    )
    assert said(f"{program}\nprint(platform.platform(terse=True) != '')") == "True\n"
