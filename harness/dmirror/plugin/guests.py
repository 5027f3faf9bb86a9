# SPDX-License-Identifier: GPL-2.0
"""On the host: guests as xdist's workers, their watchdog, and the report of a guest that died."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmirror import journal
from dmirror.errors import CannotRun
from dmirror.journal import Subject
from dmirror.kernel import Kernel, driver_module, kaslr, make, prepare
from dmirror.paths import INSTALLED, ROOT
from dmirror.plugin import cover, death
from dmirror.plugin.decoded import Decoder
from dmirror.plugin.locks import Unwatched
from dmirror.plugin.options import CHOSEN, LEFT_OUT
from dmirror.plugin.record import Recorder
from dmirror.plugin.splat import BETWEEN, CAUSE, COMPLAINTS, CONSOLE, as_property, between, failure
from dmirror.plugin.stall import ALIVE, LIMITS, SILENCE_S
from dmirror.plugin.transport import ERROR
from dmirror.uapi import build as uapi
from dmirror.vm import accelerator, console, remote, room, runs
from dmirror.vm.guest import panic, unknown_parameter
from dmirror.vm.image import python_image
from dmirror.vm.interpreter import outcome, run_dir
from dmirror.vm.spec import DESCRIPTION, GuestSpec, driver

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling  # type: ignore[import-untyped]
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

# What xdist says of a worker whose channel ended without a word (WorkerController.process_from_remote).
_LOST = "Not properly terminated"
# How the session in a guest ends that has run what it was given.
_WHOLE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
# Guests in a row that died before their first test: after so many the next will die too.
_MOST_STILLBORN = 2


def configure(config: pytest.Config) -> None:
    """Prepares kernel and module and has xdist start its workers in guests; ends the session if it cannot."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError(
            "guests are workers of pytest-xdist: leave out -p no:xdist (PYTEST_ADDOPTS has it, too)"
        )
    for name, given in (("-n", option.numprocesses), ("--tx", option.tx), ("--dist", option.dist != "no")):
        if given:
            raise pytest.UsageError(f"{name} is for workers on the host; for more guests give --dmirror-guests=N")
    if option.usepdb:
        raise pytest.UsageError("--pdb cannot reach into a guest from here; use it in an interactive one (make shell)")
    for named in config.args:
        if not (option.pyargs or _file(config, named).exists()):
            raise pytest.UsageError(f"file or directory not found: {named}")
    run = runs.kept(option.dmirror_run) if option.dmirror_run else runs.new()
    try:
        kernel = prepare(
            kernel=option.dmirror_kernel,
            kdir=option.dmirror_kdir,
            kbuild=option.dmirror_kbuild,
            flavour=option.dmirror_flavour,
            options=option.dmirror_config,
            words=option.dmirror_make,
        )
        spec = GuestSpec(
            image=kernel.image,
            release=kernel.release,
            modules=_modules(kernel, option),
            memory_mib=option.dmirror_memory,
            append=option.dmirror_append,
            kaslr=kaslr.wanted(kernel, option.dmirror_kaslr),
            slowdown=kernel.slowdown,
            kept=tuple(map(os.fspath, (run, *_paths(config), *_named(config)))),
        )
        chosen = accelerator.choose(spec.image)
        python_image()
        uapi.ensure()
        some = any("::" in argument for argument in config.args)
        chosen_tests = _Chosen(config) if some or option.keyword or option.markexpr else None
        if chosen_tests is None:
            _warm(config)
        record = _record(run, kernel, spec, option.dmirror_driver, chosen.name)
        (run / LEFT_OUT).write_text(json.dumps(sorted(record.tests)))
        (run / DESCRIPTION).write_text(spec.to_json())
        # The interpreters are children of this process and find their guest's description through the
        # environment.
        os.environ["DMIRROR_GUEST"] = os.fspath(run / DESCRIPTION)
        os.environ["DMIRROR_RUN"] = os.fspath(run)
        hosts = _hosts(config, run, spec)
        if set(hosts) == {remote.HERE}:
            os.environ[uapi.FOLDER] = os.fspath(uapi.folder())
    except CannotRun as error:
        pytest.exit(str(error), returncode=2)
    option.tx = [f"popen//python={shlex.join(remote.interpreter(host))}" for host in hosts]
    option.dist = "load"
    # The workers get these arguments again. Where the root is depends on which of the paths among them exist,
    # and in the guest some of the host's do not.
    given = ["--rootdir", os.fspath(config.rootpath)]
    given += ["-c", os.fspath(config.inipath)] if config.inipath else []
    if config.pluginmanager.hasplugin("cacheprovider"):
        given += ["-o", "cache_dir=/tmp/pytest-cache"]  # the guest's own: the root is read-only there
    config.invocation_params = replace(config.invocation_params, args=(*given, *config.invocation_params.args))
    header = [
        f"kernel: {kernel.label} ({kernel.flavour}), {kernel.image}",
        str(chosen),
        f"guests: {len(hosts)}{_where(hosts)}, {spec.cpus} CPUs and {spec.memory_mib} MiB each, consoles in {run}",
    ]
    config.pluginmanager.register(Guests(config, run, header, kernel.slowdown, chosen_tests), "dmirror-guests")
    # First the text of a report is complete, then it is recorded.
    config.pluginmanager.register(Decoder(spec), "dmirror-decoder")
    config.pluginmanager.register(Unwatched(), "dmirror-locks")
    config.pluginmanager.register(cover.Table(run, kernel.source), "dmirror-cover")
    config.pluginmanager.register(Recorder(record), "dmirror-record")


def _record(run: Path, kernel: Kernel, spec: GuestSpec, driver: str, accelerator: str) -> journal.Run:
    """That of a new run, or of the one that goes on. Raises CannotRun where that one was of something else."""
    subject = Subject(
        kernel=kernel.label,
        release=kernel.release,
        source=kernel.identity,
        config=kernel.config,
        flavour=f"{kernel.flavour}+kaslr" if spec.kaslr else kernel.flavour,
        driver=driver,
        harness=_harness(),
        accelerator=accelerator,
    )
    if not (run / journal.NAME).exists():
        return journal.Run(run, subject, time.time())
    record = journal.load(run)
    # Nobody minds other tests, or another machine.
    if replace(record.subject, harness=subject.harness, accelerator=accelerator) != subject:
        raise CannotRun(
            f"{run} has a run on {record.subject.name}, another build than this {subject.name}",
            "give another folder: --dmirror-run=DIR",
        )
    return record


def _hosts(config: pytest.Config, run: Path, spec: GuestSpec) -> list[str]:
    """The host of each guest, once it has all that guests need. Raises CannotRun."""
    option = config.option
    if option.dmirror_ssh_config:
        os.environ[remote.CONFIG] = os.fspath(option.dmirror_ssh_config)
    # Tests outside this checkout have to be there: their root may be anybody's folder.
    modules = [Path(shlex.split(module)[0]) for module in spec.modules]
    hosts: list[str] = []
    for host, count in option.dmirror_hosts or [(remote.HERE, None)]:
        if host != remote.HERE:
            remote.send(host, [spec.image, *modules, run / DESCRIPTION, run / LEFT_OUT])
        fitting = room.fitting if host == remote.HERE else functools.partial(remote.fitting, host)
        hosts += [host] * (count or option.dmirror_guests or fitting(spec.cpus, spec.memory_mib))
    return hosts


def _where(hosts: list[str]) -> str:
    return "" if set(hosts) == {remote.HERE} else f" on {', '.join(dict.fromkeys(hosts))}"


def _harness() -> str:
    """The commit of this checkout, with a + where files differ from it; of a wheel its version."""
    if INSTALLED:  # perhaps below somebody's checkout of something else
        return metadata.version("dmirror")
    git = ["git", "-C", os.fspath(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _paths(config: pytest.Config) -> list[Path]:
    """Where the tests stand."""
    folders = {path if path.is_dir() else path.parent for path in _named(config)}
    return sorted({config.rootpath, *folders})


def _named(config: pytest.Config) -> list[Path]:
    """The files and folders of the command line that are there."""
    return [path for path in (_file(config, argument) for argument in config.args) if path.exists()]


def _file(config: pytest.Config, named: str) -> Path:
    return config.invocation_params.dir / named.partition("::")[0]


def _collecting(config: pytest.Config, *more: str) -> list[str]:
    """The command that lists the tests of this session, one a line."""
    arguments = map(os.fspath, config.invocation_params.args)
    options = ["--collect-only", "--verbosity=-1", "-p", "no:cacheprovider"]
    return [*make.bound_to_us(), sys.executable, "-m", "pytest", *arguments, *options, *more]


class _Chosen:
    """The tests of an expression, or those that are named, by file and function. To collect all of a file takes a guest
    many times as long, and what is repeated is multiplied before it is chosen. Listed here, while the guests boot."""

    def __init__(self, config: pytest.Config) -> None:
        pipe = subprocess.PIPE
        self._listing = subprocess.Popen(
            _collecting(config, "--count=1"), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    @functools.cached_property
    def tests(self) -> list[str]:
        """Empty where some could not be collected: then it is for the guest to say what is wrong. Ends the session
        where there is none, as pytest does, and says what it says of names that are not there."""
        listed, said = self._listing.communicate()
        status = self._listing.returncode
        if status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            pytest.exit(said.strip() or listed.strip().splitlines()[-1], returncode=status)
        lines = listed.splitlines() if status == 0 else []
        return list(dict.fromkeys(line.partition("[")[0] for line in lines if "::" in line))


def _warm(config: pytest.Config) -> None:
    """Compiles here what every guest would otherwise compile for itself, ten times as slowly."""
    if sys.dont_write_bytecode:
        return
    importlib.import_module("dmirror.plugin.splat")
    tag = f"{sys.implementation.cache_tag}-pytest-{pytest.__version__}"
    for folder in _paths(config):
        for test in (*folder.glob("test_*.py"), *folder.glob("*/test_*.py")):
            compiled = test.parent / "__pycache__" / f"{test.stem}.{tag}.pyc"
            if not compiled.exists() or compiled.stat().st_mtime < test.stat().st_mtime:
                quiet = subprocess.DEVNULL
                subprocess.run(_collecting(config), stdin=quiet, stdout=quiet, stderr=quiet, check=False)
                return


def _modules(kernel: Kernel, option: argparse.Namespace) -> tuple[str, ...]:
    if option.dmirror_driver == "none":
        return ()
    return (driver(driver_module(kernel, option.dmirror_driver), option.dmirror_memory),)


@dataclass
class _Guest:
    """What is known of one worker's guest. Written by execnet's receiver thread, read by the watchdog and the
    hooks; each field is replaced whole."""

    node: WorkerController
    folder: Path
    pid: int  # the interpreter's
    test: str | None = None
    began: float = 0.0  # of time.time, as a file's time is
    ends_by: float | None = None  # of time.monotonic
    allowed_s: float = 0.0
    limits: dict[str, float] = field(default_factory=dict)
    tests_started: int = 0
    last: str | None = None  # the test that ended last
    out_of_time: str | None = None  # what was running when the watchdog ended it
    silent: bool = False  # it was ended for that
    error: str | None = None  # of pytest or of a hook in it, which ended its worker
    down: bool = False  # its worker has ended, one way or the other
    died: bool = False  # as it should not
    mourned: bool = False  # a report says that it died


class Guests:
    """Watches xdist's workers."""

    def __init__(
        self, config: pytest.Config, run: Path, header: list[str], slowdown: float, chosen: _Chosen | None
    ) -> None:
        self._config = config
        self._run = run
        self._header = header
        self._chosen = chosen
        self._limit_s = config.option.dmirror_limit * slowdown
        self._silence_s = SILENCE_S * slowdown
        self._guests: dict[str, _Guest] = {}
        self._stillborn = 0
        self._over = threading.Event()

    def pytest_report_header(self) -> list[str]:
        return self._header

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None, object, object]:
        threading.Thread(target=self._watch, daemon=True, name="dmirror-watchdog").start()
        # SIGTERM ends the session as Ctrl-C does: results are written.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return (yield)
        except (EOFError, OSError) as error:
            _raise_of_the_system(error)
            pytest.exit(f"no guest: {error or 'its interpreter ended'}; the reason is above", returncode=2)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        try:
            ran = yield
        except (EOFError, OSError) as error:
            _raise_of_the_system(error)
            pytest.exit(f"no further guest: {error or 'its interpreter ended'}; the reason is above", returncode=2)
        self._report_late_deaths()
        return ran

    def _report_late_deaths(self) -> None:
        """xdist minds the end of a worker only where that still had tests."""
        for guest in self._guests.values():
            if guest.died and not guest.mourned and guest.last:
                report = failure(guest.last, "", [])
                self._mourn(guest, guest.last, report)
                self._config.hook.pytest_runtest_logreport(report=report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._over.set()
        self._report_late_deaths()  # of a session that stopped early

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        append = self._config.option.dmirror_append
        if not append:
            return
        logs = (guest.folder / console.LOG for guest in self._guests.values())
        for word in dict.fromkeys(word for log in logs for word in console.not_obeyed(log, append)):
            terminalreporter.line(unknown_parameter(word), yellow=True)

    def pytest_keyboard_interrupt(self) -> None:
        for guest in self._guests.values():
            _end(guest.pid)

    def pytest_unconfigure(self) -> None:
        self._over.set()
        # xdist has ended its workers; this is for a session that was itself ended half-way.
        for guest in self._guests.values():
            _end(guest.pid)

    # -- what xdist tells

    def pytest_configure_node(self, node: WorkerController) -> None:
        pid: int = node.gateway._io.popen.pid  # execnet has no public name for it
        guest = _Guest(node, run_dir(self._run, pid), pid)
        self._allow(guest, 2 * self._limit_s)
        self._guests[node.gateway.id] = guest
        if self._chosen:
            node.workerinput[CHOSEN] = [os.fspath(self._config.rootpath / test) for test in self._chosen.tests]
        pass_on = node.putevent

        # The hooks for starts and ends of tests come without the node, and only when the main thread gets
        # round to it.
        def putevent(event: tuple[str, dict[str, Any]]) -> None:
            if not guest.down:
                name, details = self._heard(guest, *event)
                self._note(guest, name, details)
                pass_on((name, details))

        node.putevent = putevent

    @staticmethod
    def _heard(guest: _Guest, name: str, details: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """An event as xdist should see it. Of a session that ended by an error it only prints the text, and fails no
        test; one that ended before its tests it does not expect. Both have died."""
        if name == "internal_error":
            name, details = "errordown", {"node": guest.node, "error": details["formatted_error"]}
        elif name == "workerfinished":
            status = guest.node.workeroutput["exitstatus"]
            if guest.test is not None or status not in _WHOLE:
                name, details = "errordown", {"node": guest.node, "error": f"its session ended with status {status}"}
        guest.down = name in ("errordown", "workerfinished")
        if name == "errordown":
            guest.died = True
            guest.error = None if details["error"] == _LOST else str(details["error"])
        elif name == "workerfinished":
            guest.error = guest.node.workeroutput.get(ERROR)
            guest.died = guest.error is not None
        return name, details

    def _note(self, guest: _Guest, name: str, details: dict[str, Any]) -> None:
        if name == "logstart":
            nodeid = details["nodeid"]
            guest.tests_started += 1
            guest.test, guest.began = nodeid, time.time()
            self._allow(guest, guest.limits.get(nodeid, self._limit_s))
        elif name == "collectionfinish":
            host = remote.host_of(guest.node.gateway.spec.python)
            if host != remote.HERE:
                remote.fetch(host, guest.folder, LIMITS)
            guest.limits = _limits(guest.folder)
            guest.ends_by = None
        elif name == "logfinish":
            guest.last, guest.test = guest.test, None
            # The next test begins at once, or the session ends, which may look for leaks.
            self._allow(guest, 2 * self._limit_s)
        elif name in ("workerfinished", "errordown"):
            guest.ends_by = None

    def _allow(self, guest: _Guest, seconds: float) -> None:
        guest.allowed_s = seconds
        guest.ends_by = time.monotonic() + seconds

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            now = time.monotonic()
            for guest in list(self._guests.values()):
                ends_by = guest.ends_by  # the receiver thread may change it
                if ends_by is None:
                    continue
                guest.silent = guest.allowed_s > self._silence_s and _silence(guest) > self._silence_s
                if guest.silent or now > ends_by:
                    guest.ends_by = None
                    guest.out_of_time = guest.test or (f"what follows {guest.last}" if guest.last else "collection")
                    _end(guest.pid)

    # -- a guest that died

    @pytest.hookimpl(tryfirst=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Scheduling) -> None:
        """Gives the report of the test that took its guest with it a class, a reason and the guest's last
        words."""
        report.when = "call"
        path, _, name = crashitem.partition("::")
        report.location = (path, None, name.replace("::", "."))
        self._mourn(self._guests[report.node.gateway.id], crashitem, report)
        # xdist counts failures for -x and --maxfail everywhere but here.
        session = self._config.pluginmanager.getplugin("dsession")
        session._handlefailures(report)

    def _mourn(self, guest: _Guest, test: str, report: pytest.TestReport) -> None:
        guest.mourned = True
        log = guest.folder / console.LOG
        # Its own reports come together, after its teardown: this is the only one.
        seconds = self._silence_s if guest.silent else guest.allowed_s
        how = death.of_test(
            log,
            outcome(guest.folder),
            ended_after=seconds if guest.out_of_time else None,
            silent=guest.silent,
            error=guest.error,
        )
        when = ""
        if guest.last == test:
            report.when, when = "teardown", ", after the test had ended"
        elif guest.test != test:
            when = ", before the test had begun"
        report.longrepr = f"{how.cause}: {how.sentence}{when}"
        report.user_properties += [(CAUSE, how.cause), (CONSOLE, os.fspath(log))]
        report.user_properties += [(COMPLAINTS, [as_property(one) for one in how.complaints])]
        report.sections.append((f"guest console ({log})", console.last_words(log)))
        if guest.error is not None:
            report.longrepr += f"\n\n{guest.error}"

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        late: list[Any] = [value for name, value in report.user_properties if name == BETWEEN]
        for one in late:
            self._config.hook.pytest_runtest_logreport(report=between(**one))

    def pytest_testnodedown(self, node: WorkerController, error: object | None) -> None:
        late = getattr(node, "workeroutput", {}).get(BETWEEN)
        if late:
            self._config.hook.pytest_runtest_logreport(report=between(**late))
        guest = self._guests.get(node.gateway.id)
        if guest is None or error is None:
            return
        if guest.error is not None:
            _end(guest.pid)  # its interpreter has outlived its worker
        if guest.tests_started:
            self._stillborn = 0
            return
        self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN:
            log = guest.folder / console.LOG
            ended = outcome(guest.folder)
            why = f"no end of {guest.out_of_time}" if guest.out_of_time else panic(log) or (ended and ended.failure)
            self._report_late_deaths()
            died = f"{self._stillborn} guests in a row died before their first test: {why or guest.error or error}"
            pytest.exit(f"{died}\n{console.tail(log)}", returncode=2)


def _raise_of_the_system(error: OSError | EOFError) -> None:
    """What execnet raises of a channel that has gone has no number; a full disk's error has one, and is another."""
    if getattr(error, "errno", None) is not None:
        raise error


def _limits(folder: Path) -> dict[str, float]:
    try:
        return {str(nodeid): float(seconds) for nodeid, seconds in json.loads((folder / LIMITS).read_text()).items()}
    except FileNotFoundError:
        return {}


def _silence(guest: _Guest) -> float:
    """Seconds of its test without a sign of life; 0 between tests."""
    if guest.test is None:
        return 0.0
    try:
        alive = (guest.folder / ALIVE).stat().st_mtime
    except FileNotFoundError:
        alive = 0.0
    return time.time() - max(alive, guest.began)


def _end(pid: int) -> None:
    try:
        if b"dmirror.vm." in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        pass
