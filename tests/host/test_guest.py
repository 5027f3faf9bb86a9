# SPDX-License-Identifier: GPL-2.0
"""A guest from the host's side, with a virtme-run that plays it: status, streams, limits, no leftovers."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmirror.errors import CannotRun, Untestable
from dmirror.vm import guest
from dmirror.vm.guest import AGAIN
from dmirror.vm.spec import GuestSpec

# Starts the QEMU it is given and, like guest-init.sh, speaks on the port "ctl" and runs the job on the other
# three. $PLAY says how the guest fares.
VIRTME_RUN = r"""
import os, re, subprocess, sys, time
options = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--qemu-opt=")]
fds = dict(re.match(r"socket,id=port-(\w+),fd=(\d+)", o).groups() for o in options if o.startswith("socket,"))
run_dir = next(a.rsplit("\t", 1)[1] for a in sys.argv if a.startswith("--kopt=init="))
qemu = sys.argv[sys.argv.index("--qemu-bin") + 1]
play = os.environ["PLAY"]
delay = "0.5" if play == "late" else "0"
start = ["sh", "-c", 'sleep "$0"; exec "$@"', delay, qemu, run_dir]
machine = subprocess.Popen(start, pass_fds=[int(fd) for fd in fds.values()])
ctl = os.fdopen(int(fds["ctl"]), "w", buffering=1)
print("Linux version 7.3.4", flush=True)
if play == "dies" or (play == "dies-once" and not os.path.exists(run_dir + "/died")):
    open(run_dir + "/died", "w").close()
    time.sleep(0.3)
    machine.kill()
    sys.exit(11)
if play == "silent":
    time.sleep(60)
if play == "insmod":
    print("fail insmod dmirror.ko: unknown symbol", file=ctl)
    machine.kill()
    sys.exit(1)
print("up", file=ctl)
if play == "stuck":
    print("[    8.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sleep:77]", flush=True)
streams = [int(fds[name]) for name in ("in", "out", "err")]
job = subprocess.Popen(["sh", run_dir + "/job"], stdin=streams[0], stdout=streams[1], stderr=streams[2])
if play in ("panic", "modules"):
    time.sleep(0.3)
    if play == "panic":
        print("[    9.1] Kernel panic - not syncing: sysrq triggered crash", flush=True)
    else:
        print("fail insmod dmirror.ko: unknown symbol", file=ctl)
    job.kill()
    machine.kill()
    sys.exit(1)
print("exit", job.wait(), file=ctl)
machine.wait()
"""

# Parts of the process under test that would need a real machine.
REPLACE = """
import sys
from pathlib import Path
from dmirror import streams
from dmirror.vm import accelerator, command, guest, interpreter
accelerator._KVM = Path("/nonexistent")
guest.python_image = lambda: None
command._virtme_run = lambda: Path({virtme_run!r})
"""
RUN = """
from dmirror.errors import CannotRun
spec = guest.GuestSpec(Path("bzImage"), "7.3.4", limit_s={limit})
try:
    sys.exit(guest.run(spec, sys.argv[1:], run_dir=Path({run_dir!r}), within_s={within_s}))
except CannotRun as error:
    sys.exit(f"CannotRun {{error}}")
except streams.Gone:
    sys.exit("Gone")
"""


class Host:
    """Starts the process under test in a folder of its own and finds what it leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "virtme-run").write_text(VIRTME_RUN)
        qemu = folder / "bin" / "qemu-system-x86_64"
        # The name of the run's folder on its command line is what identifies a QEMU as ours.
        qemu.write_text('#!/bin/sh\n[ "$1" != --version ] || exit 0\nwhile :; do sleep 0.1; done\n')
        qemu.chmod(0o755)
        self._replace = REPLACE.format(virtme_run=os.fspath(folder / "virtme-run"))
        (folder / "spec.json").write_text(GuestSpec(Path("bzImage"), "7.3.4", limit_s=2).to_json())

    def start(
        self, program: str, *arguments: str, play: str = "fine", stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PLAY": play,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "DMIRROR_CACHE": os.fspath(self.folder / "cache"),
            "DMIRROR_RUN": os.fspath(self.folder / "run"),
            "DMIRROR_GUEST": os.fspath(self.folder / "spec.json"),
        }
        command = [sys.executable, "-c", self._replace + program, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=stdout, stderr=pipe, env=environment)

    def run(
        self, *argv: str, stdin: bytes = b"", play: str = "fine", limit: int = 10, within_s: float | None = None
    ) -> tuple[int, bytes, str]:
        process = self.start(
            RUN.format(run_dir=os.fspath(self.folder / "run"), limit=limit, within_s=within_s), *argv, play=play
        )
        out, err = process.communicate(stdin, timeout=20)
        return process.returncode, out, err.decode()

    def interpreter(self, code: str, *, play: str = "fine") -> subprocess.Popen[bytes]:
        return self.start("sys.exit(interpreter.main())", "-u", "-c", code, play=play)

    def left(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            if os.fspath(self.folder / "run") in words:
                found.append(words[:200])
        return found

    def nothing_left(self) -> bool:
        """Within 5 s, in two looks: a process in execve() has no command line for a moment."""
        deadline = time.monotonic() + 5
        looks = 0
        while looks < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            looks = 0 if self.left() else looks + 1
        return looks == 2


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    assert made.nothing_left(), made.left()


def test_a_spec_survives_json() -> None:
    spec = GuestSpec(Path("/k/bzImage"), "7.3.4", modules=("/a/x.ko p=1",), append='a="b c"', kept=("/tmp/t",))
    assert GuestSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("status", [0, 7, 255])
def test_the_commands_status_is_passed_on(host: Host, status: int) -> None:
    assert host.run("sh", "-c", f"exit {status}")[0] == status


def test_streams_are_binary_clean_and_apart(host: Host) -> None:
    data = os.urandom(2_000_000)
    status, out, err = host.run("sh", "-c", "cat; echo 'on stderr' >&2", stdin=data)
    assert (status, out == data) == (0, True)
    assert "on stderr" in err


def test_what_a_command_wrote_last_is_not_lost(host: Host) -> None:
    status, out, _ = host.run("sh", "-c", "head -c 150000 /dev/zero")
    assert (status, len(out)) == (0, 150000)


@pytest.mark.parametrize(
    ("to", "says"), [("gone", b"Gone"), ("full", b"CannotRun standard output cannot be written: No")]
)
def test_a_guest_ends_when_its_output_goes_nowhere(host: Host, to: str, says: bytes) -> None:
    if to == "full":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        nobody, output = os.pipe()
        os.close(nobody)
    process = host.start(
        RUN.format(run_dir=os.fspath(host.folder / "run"), limit=10, within_s=None), "yes", stdout=output
    )
    os.close(output)
    assert says in process.communicate(timeout=20)[1]
    assert host.nothing_left(), host.left()


def test_arguments_environment_and_folder_arrive_whole(host: Host) -> None:
    odd = "a 'b' \"c\" $d `e` \\f\n*"
    code = "import os, sys; print(repr((sys.argv[1], os.getcwd(), os.environ['DMIRROR_IN_GUEST'])))"
    status, out, _ = host.run(sys.executable, "-c", code, odd)
    assert (status, out.decode().strip()) == (0, repr((odd, os.getcwd(), "1")))


def test_the_accelerator_is_said_once(host: Host) -> None:
    assert host.run("true")[2].count("accelerator: tcg (") == 1


def test_a_guest_that_does_not_come_up_is_ended_and_shown(host: Host) -> None:
    started = time.monotonic()
    status, _, err = host.run("true", play="silent", limit=1)
    assert status == 1
    assert "CannotRun the guest did not come up: not up within 1 s" in err
    assert "Linux version 7.3.4" in err
    assert time.monotonic() - started < 5


def test_a_guest_whose_qemu_dies_while_it_boots_is_booted_once_more(host: Host) -> None:
    data = os.urandom(100_000)
    status, out, err = host.run("cat", play="dies-once", stdin=data)
    assert (status, out == data) == (0, True)
    assert err.count("QEMU was ended by SIGSEGV while its guest booted: booted once more") == 1
    (host.folder / "run" / AGAIN).unlink()
    status, _, err = host.run("cat", play="dies", stdin=data)
    assert "CannotRun the guest did not come up: QEMU was ended by SIGSEGV" in err
    assert status == 1


def test_an_interpreter_is_given_again_what_a_dead_guest_was_given(host: Host) -> None:
    process = host.interpreter("import sys\nprint(sys.stdin.readline().upper(), end='')", play="dies-once")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"HELLO\n"
    assert b"booted once more" in process.communicate(timeout=20)[1]


def test_a_failed_set_up_is_named_in_one_line(host: Host) -> None:
    _, _, err = host.run("true", play="insmod")
    assert "CannotRun the guest did not come up: insmod dmirror.ko: unknown symbol" in err


def test_a_panic_ends_the_command_with_its_reason(host: Host) -> None:
    status, _, err = host.run("sleep", "30", play="panic")
    assert status == 255
    assert "the guest's kernel panicked: sysrq triggered crash" in err


def test_a_command_that_the_host_lacks_is_refused(host: Host) -> None:
    _, _, err = host.run("none-such")
    assert "no command 'none-such' to run in the guest" in err


def test_an_interpreter_answers_and_ends_with_its_standard_input(host: Host) -> None:
    process = host.interpreter("import sys\nfor line in sys.stdin: print(line.upper(), end='')")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ONE\n"
    assert host.left()
    process.stdin.close()
    process.wait(timeout=5)
    assert host.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_interpreter_takes_its_guest_along(host: Host, number: signal.Signals) -> None:
    process = host.interpreter("import time; print('here'); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(number)
    process.wait(timeout=5)
    assert host.nothing_left(), host.left()


def test_an_interpreter_that_does_not_come_up_says_why(host: Host) -> None:
    process = host.interpreter("print(1)", play="silent")
    assert process.stderr is not None
    err = process.stderr.read()  # not communicate(), which would close its standard input and so end it
    assert process.wait(timeout=5) == 2
    assert b"the guest did not come up: not up within 2 s" in err
    assert b"Linux version 7.3.4" in err


def test_an_interpreter_that_reads_nothing_ends_in_time(host: Host) -> None:
    process = host.interpreter("print(1)", play="silent")
    assert process.stdin is not None
    with pytest.raises(BrokenPipeError):
        while True:  # more than the pipe and the port hold
            process.stdin.write(bytes(65536))
    assert process.wait(timeout=5) == 2


def test_a_dead_guest_is_end_of_file(host: Host) -> None:
    process = host.interpreter("import time; print('here'); time.sleep(60)", play="panic")
    assert process.stdout is not None
    assert process.stdout.read() == b"here\n"
    assert process.wait(timeout=5) == 255


def test_modules_that_cannot_be_loaded_beside_an_interpreter(host: Host) -> None:
    process = host.interpreter("import time; print('here'); time.sleep(60)", play="modules")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read() == b"here\n"
    assert b"the guest did not come up: insmod dmirror.ko: unknown symbol" in process.stderr.read()
    assert process.wait(timeout=5) == 2


def test_a_qemu_that_starts_late_does_not_outlive_its_guest(host: Host) -> None:
    assert host.run("true", play="late")[0] == 0
    assert host.nothing_left(), host.left()


def test_the_command_line_can_be_read_by_a_shell(host: Host) -> None:
    host.run("true")
    for script in ("job", "qemu", "set-up"):
        subprocess.run(["sh", "-n", host.folder / "run" / script], check=True)
    assert shlex.quote(os.getcwd()) in (host.folder / "run" / "job").read_text()


@pytest.mark.parametrize(
    ("said", "failure", "kind"),
    [
        ("[    0.1] Linux version\n", "the guest's kernel panicked: no init", Untestable),
        ("[    0.1] Linux version\n", "not up within 60 s", Untestable),
        ("[    0.1] Linux version\n", "QEMU was ended by SIGKILL", CannotRun),
        ("", "qemu-system-x86_64: cannot set up guest memory", CannotRun),
    ],
)
def test_a_guest_that_does_not_come_up_is_the_kernels_fault_if_it_said_something(
    said: str, failure: str, kind: type[CannotRun], tmp_path: Path
) -> None:
    log = tmp_path / "console.log"
    log.write_text(said)
    error = guest.not_up(guest.Outcome(None, False, failure), log)
    assert type(error) is kind
    assert failure in str(error)


def test_a_command_without_end_is_ended_at_its_limit(host: Host) -> None:
    started = time.monotonic()
    status, out, err = host.run("sh", "-c", "echo begun; sleep 60", within_s=1)
    assert (status, out) == (255, b"begun\n")
    assert time.monotonic() - started < 10
    *_, before, last = err.splitlines()
    assert before == "Linux version 7.3.4"
    assert last.startswith("dmirror: hang: no end within 1 s, so the guest was ended; its console is in ")
    assert "says_where 0.5" in (host.folder / "run" / "set-up").read_text()


def test_a_hang_that_the_kernel_explains(host: Host) -> None:
    _, _, err = host.run("sleep", "60", within_s=1, play="stuck")
    assert re.search(
        r"hang: no end within 1 s, so the guest was ended; .*soft lockup - CPU#0 stuck for 22s!.*; its", err
    )


def test_a_limit_is_of_the_command_alone(host: Host) -> None:
    assert host.run("sh", "-c", "exit 7", within_s=5, play="late")[0] == 7


def test_an_interrupted_command_takes_its_guest_along(host: Host) -> None:
    program = RUN.format(run_dir=os.fspath(host.folder / "run"), limit=10, within_s=60)
    process = host.start(program, "sh", "-c", "echo begun; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert host.nothing_left(), host.left()
