# SPDX-License-Identifier: GPL-2.0
"""A guest on the host's own root: booted by virtme-ng, runs one command, ends with it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dmirror import splats
from dmirror.errors import CannotRun, Untestable
from dmirror.vm import accelerator, command, console
from dmirror.vm.image import python_image
from dmirror.vm.pump import Pump
from dmirror.vm.spec import DESCRIPTION, GuestSpec

AGAIN = "booted-again"
"""In a guest's folder, where its QEMU was ended by a signal before the guest was up: what was said of that."""

# What a command returns when the guest died under it; virtme-ng's number for the same.
DIED = 255

STUCK = ("soft lockup", "hung task", "RCU stall")
"""Kinds of complaint with which a kernel says why there is no end."""

_FATAL = (signal.SIGABRT, signal.SIGBUS, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    status: int | None  # the command's; None if the guest ended before the command did
    came_up: bool
    failure: str | None  # in one line, why there is no status


def run(
    spec: GuestSpec, argv: list[str], *, run_dir: Path, interactive: bool = False, within_s: float | None = None
) -> int:
    """Runs a command in a fresh guest with this process's standard streams; returns its exit status.

    The guest's root is the host's, read-only; `run_dir` is shared for writing, with the console in
    console.log. With `interactive` the guest's serial console is this terminal. Prints which accelerator was
    chosen. A guest that died under the command returns 255, its console's last lines on stderr; so does one that was
    ended as the command took longer than `within_s`, which is multiplied by the kernel's slowdown.

    Raises CannotRun when the guest did not come up within its time or its set-up failed,
    KeyboardInterrupt on Ctrl-C, SystemExit on SIGTERM; the guest has ended then.
    """
    print(accelerator.choose(spec.image), file=sys.stderr, flush=True)
    outcome = boot(spec, argv, run_dir=run_dir, interactive=interactive, within_s=within_s)
    for word in console.not_obeyed(run_dir / console.LOG, spec.append):
        print(f"dmirror: {unknown_parameter(word)}", file=sys.stderr, flush=True)
    if outcome.status is not None:
        return outcome.status
    print(console.tail(run_dir / console.LOG), file=sys.stderr, flush=True)
    if not outcome.came_up:
        raise not_up(outcome, run_dir / console.LOG)
    print(f"dmirror: {outcome.failure}; its console is in {run_dir / console.LOG}", file=sys.stderr, flush=True)
    return DIED


def boot(
    spec: GuestSpec,
    argv: list[str],
    *,
    run_dir: Path,
    interactive: bool = False,
    as_interpreter: bool = False,
    within_s: float | None = None,
) -> Outcome:
    """The same without words. `as_interpreter`: the guest has come up with the command's first byte, and ends
    with standard input. Raises as run() does, but not for a guest that does not come up."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with _terminated_by_exception():
        given = b""
        while True:
            machine = _Machine(
                spec, argv, run_dir=run_dir, interactive=interactive, as_interpreter=as_interpreter, within_s=within_s
            )
            with machine:
                outcome = machine.serve(given)
            if outcome.came_up or not machine.died_of or (run_dir / AGAIN).exists():
                return outcome
            given = machine.given
            said = f"QEMU was ended by {machine.died_of} while its guest booted"
            (run_dir / AGAIN).write_text(f"{said}\n")
            (run_dir / console.LOG).rename(run_dir / f"first-{console.LOG}")
            print(f"dmirror: {said}: booted once more", file=sys.stderr, flush=True)


def not_up(outcome: Outcome, log: Path) -> CannotRun:
    """The error for a guest that did not come up: Untestable, if it was its kernel that did not."""
    what, where = f"the guest did not come up: {outcome.failure}", f"its console is in {log}"
    # A kernel that has not said a word may not have been started.
    of_kernel = console.read(log).strip() and not (outcome.failure or "").startswith("QEMU")
    return Untestable("boot", what, where) if of_kernel else CannotRun(what, where)


def unknown_parameter(word: str) -> str:
    """What to say of a word of APPEND that the kernel does not know."""
    return f"the kernel does not know {word}, of APPEND: it was built without that, or it is spelt otherwise"


def panic(log: Path) -> str | None:
    """What a console log says about a panic, in one line."""
    found = re.search(r"Kernel panic - not syncing: (.*)", console.read(log))
    return f"the guest's kernel panicked: {found.group(1)}" if found else None


class _Machine:
    """One QEMU under one virtme-run, and our ends of its ports."""

    def __init__(
        self,
        spec: GuestSpec,
        argv: list[str],
        *,
        run_dir: Path,
        interactive: bool,
        as_interpreter: bool,
        within_s: float | None,
    ) -> None:
        self._spec = spec
        self._argv = argv
        self._run_dir = run_dir
        self._interactive = interactive
        self._as_interpreter = as_interpreter
        self._within_s = None if within_s is None else within_s * spec.slowdown
        self._came_up = False
        self._status: int | None = None
        self._failure: str | None = None
        self._control = b""  # what the set-up has said on its port, up to an unfinished line
        self._complaints = b""  # what virtme-run and QEMU said
        self.given = b""  # what the command has been given so far, while the guest has not come up
        self.died_of = ""  # the signal that ended QEMU, by name

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        image = python_image()
        run_dir = self._run_dir
        (run_dir / DESCRIPTION).write_text(self._spec.to_json())
        (run_dir / "job").write_text(command.job_script(self._spec, self._argv, run_dir, interactive=self._interactive))
        (run_dir / "set-up").write_text(
            command.set_up_script(
                self._spec,
                run_dir,
                image,
                interactive=self._interactive,
                as_interpreter=self._as_interpreter,
                within_s=self._within_s,
            )
        )
        for name, mib in command.DISKS.items():
            disk = run_dir / name
            stack.callback(disk.unlink)
            with disk.open("wb") as file:
                file.truncate(mib << 20)
        wrapper = run_dir / "qemu"
        wrapper.write_text(command.qemu_wrapper(run_dir))
        wrapper.chmod(0o755)
        self._log = stack.enter_context((run_dir / console.LOG).open("wb", buffering=0))
        self._ends: dict[str, socket.socket] = {}
        theirs: dict[str, int] = {}
        with ExitStack() as until_started:
            for port in ("ctl",) if self._interactive else ("ctl", "in", "out", "err"):
                ours, other = socket.socketpair()
                self._ends[port] = stack.enter_context(ours)
                theirs[port] = until_started.enter_context(other).fileno()
            if self._interactive:
                stack.enter_context(_terminal_restored())
            self._process = subprocess.Popen(
                command.virtme_run_command(self._spec, run_dir, wrapper, image, theirs, interactive=self._interactive),
                stdin=None if self._interactive else subprocess.DEVNULL,
                stdout=None if self._interactive else subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=tuple(theirs.values()),
                env={**os.environ, "TMPDIR": os.fspath(run_dir)},
                # Ctrl-C is for us to handle; an interactive guest must stay in the terminal's foreground
                # group.
                start_new_session=not self._interactive,
            )
            stack.callback(self._end)
        self._ended = os.pidfd_open(self._process.pid)
        stack.callback(os.close, self._ended)

    def _end(self) -> None:
        # The kernel kills both processes with their parents; this makes it certain, and waits.
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        pid_file = self._run_dir / command.PID
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        while _runs_in(pid, self._run_dir):
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        pid_file.unlink()

    def serve(self, given: bytes) -> Outcome:
        """Carries bytes until the command or the guest has ended, or must end. `given` goes before standard input."""
        self.given = given
        seconds = self._spec.limit_s * self._spec.slowdown
        boots_by = time.monotonic() + seconds
        ends_by: float | None = None
        over = False

        def end() -> None:
            nonlocal over
            over = True

        def up() -> None:
            nonlocal ends_by
            if self._within_s is not None and ends_by is None:
                ends_by = time.monotonic() + self._within_s
            self._came_up = True

        def keep(data: bytes) -> None:
            if not self._came_up:
                self.given += data

        def hear(data: bytes) -> None:
            self._control += data
            *lines, self._control = self._control.split(b"\n")
            for line in lines:
                word, _, rest = line.decode(errors="replace").partition(" ")
                if word == "up" and not self._as_interpreter:
                    up()
                elif word == "fail":
                    # Of the modules beside an interpreter that runs already.
                    self._came_up = False
                    self._failure = rest
                elif word == "exit":
                    self._status = int(rest)
                    end()

        with closing(Pump()) as pump:
            pump.when_ready(self._ended, end)
            pump.watch(self._ends["ctl"].fileno(), hear)
            if self._process.stdout is not None:
                pump.watch(self._process.stdout.fileno(), self._record)
            if self._process.stderr is not None:
                pump.watch(self._process.stderr.fileno(), self._record if self._interactive else self._complain)
            if not self._interactive:
                stdin = self._ends["in"]
                # Shut down, not closed: on a full hang-up QEMU drops what it has not read yet.
                at_end = end if self._as_interpreter else lambda: stdin.shutdown(socket.SHUT_WR)
                pump.carry(0, stdin.fileno(), at_end=at_end, copied=keep, before=given, sink_may_go=True)
                pump.carry(self._ends["out"].fileno(), 1, at_first=up)
                pump.carry(self._ends["err"].fileno(), 2)
            while not over:
                limit = ends_by if self._came_up else boots_by
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    self._failure = self._hang() if self._came_up else f"not up within {seconds:g} s"
                    break
                pump.step(left)
            # A port's write returns in the guest when the host has taken it: what a command wrote is here by
            # now.
            pump.drain()
        return Outcome(self._status, self._came_up, None if self._status is not None else self._why())

    def _record(self, data: bytes) -> None:
        self._log.write(data)

    def _complain(self, data: bytes) -> None:
        self._complaints = (self._complaints + data)[-4096:]

    def _hang(self) -> str:
        said = splats.parse(splats.messages(console.read(self._run_dir / console.LOG)))
        stuck = [f"; {one.title}" for one in said if one.kind in STUCK]
        return f"hang: no end within {self._within_s:g} s, so the guest was ended{''.join(stuck[:1])}"

    def _why(self) -> str:
        if self._failure is not None:
            return self._failure
        log = self._run_dir / console.LOG
        panicked = panic(log)
        if panicked is not None:
            return panicked
        # virtme-run ends with the wait status of QEMU; small numbers are its own.
        killed = (self._process.poll() or 0) & 0x7F
        if killed in _FATAL:
            self.died_of = signal.Signals(killed).name
            return f"QEMU was ended by {self.died_of}"
        if not console.read(log).strip():
            complaints = self._complaints.decode(errors="replace").strip().splitlines()
            return complaints[-1] if complaints else "virtme-run ended without a word"
        return "the guest ended before its command"


def is_running(run_dir: Path) -> bool:
    """Whether the guest of that folder is there."""
    try:
        return _runs_in(int((run_dir / command.PID).read_text()), run_dir)
    except (OSError, ValueError):
        return False


def _runs_in(pid: int, run_dir: Path) -> bool:
    try:
        return os.fsencode(run_dir) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """QEMU puts a terminal in raw mode and cannot put it back when it is killed."""
    if not sys.stdin.isatty():
        yield
        return
    settings = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, settings)


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C does, so that the guest is ended on the way."""

    def terminate(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
