# SPDX-License-Identifier: GPL-2.0
"""The `dmirror` command: the verbs of the Makefile, each with --help.

Exit status: 0 all passed, 1 a test failed, 2 could not run, which is said in one line with the mend. With --bisect, for
`git bisect run`: 0, 1, 125 where the tree cannot be tested, 128 where that is not the tree's fault.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from dmirror import __version__, environment, results, session, streams, trial
from dmirror.errors import CannotRun, Untestable
from dmirror.kernel import Kernel, base, build_peer, driver_module, kaslr, prepare, refresh
from dmirror.paths import GUEST_TESTS, INSTALLED, ROOT
from dmirror.uapi import build as uapi
from dmirror.vm import accelerator, console, runs, visible
from dmirror.vm.guest import run
from dmirror.vm.room import fitting
from dmirror.vm.spec import CPUS, MEMORY_MIB, GuestSpec, driver

_LAST = Path()  # matrix
# A module of ours in a guest: what stands in the current folder is not for it to import.
_MODULE = [sys.executable, "-P", "-m"]
# What `git bisect run` takes for "cannot be tested, skip it", and for "stop here".
_SKIP = 125
_STOP = 128


def _place(text: str) -> Path:
    """A path that stays what it is in another current folder."""
    return Path(text).expanduser().absolute()


def _add_kernel_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which kernel (default: the newest stable series)")
    which.add_argument("--kernel", metavar="SERIES", help="a known one, such as 7.3")
    which.add_argument("--kdir", metavar="TREE", type=_place, help="a kernel tree, built in the cache, not written to")
    which.add_argument("--kbuild", metavar="BUILD", type=_place, help="a built tree, used as it is")
    which.add_argument("--flavour", metavar="NAME", default="default", help="another build of that kernel")
    _add_build_options(which)


def _add_build_options(group: argparse._ActionsContainer) -> None:
    over = "an option over the flavour's, or CONFIG_X=n; repeatable"
    group.add_argument("--config", metavar="CONFIG_X=y", action="append", default=[], help=over)
    told = "what make is told for kernel and module, such as LLVM=1 or CC=gcc-12; repeatable"
    group.add_argument("--make", metavar="NAME=VALUE", action="append", default=[], help=told)


def _guests(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, or auto")
    return int(text)


def _add_guest_options(parser: argparse.ArgumentParser) -> None:
    guest = parser.add_argument_group("the guest")
    guest.add_argument("--append", metavar="ARGS", default="", help="more of the kernel's command line")
    guest.add_argument(
        "--kaslr", action="store_true", help="the kernel and its direct map stand elsewhere at each boot"
    )
    guest.add_argument(
        "--memory",
        metavar="MIB",
        type=int,
        default=MEMORY_MIB,
        help=f"its memory (default: {MEMORY_MIB}; less than that leaves out the coherent devices)",
    )


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, or 0 for no limit")
    return seconds or None


def _add_limit(parser: argparse.ArgumentParser, seconds: int) -> None:
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=_seconds,
        default=seconds,
        help=f"end the guest after so long, more on a slow kernel; 0: never (default: {seconds})",
    )


def _prepare(args: argparse.Namespace) -> Kernel:
    which = {name: getattr(args, name) for name in ("kernel", "kdir", "kbuild", "flavour")}
    return prepare(**which, options=args.config, words=args.make)


def _spec(args: argparse.Namespace, kernel: Kernel) -> GuestSpec:
    return GuestSpec(
        image=kernel.image,
        release=kernel.release,
        modules=(driver(driver_module(kernel, args.driver), args.memory),),
        memory_mib=args.memory,
        append=args.append,
        kaslr=kaslr.wanted(kernel, args.kaslr),
        slowdown=kernel.slowdown,
    )


def _in_guest(
    args: argparse.Namespace,
    kernel: Kernel,
    command: list[str],
    *,
    interactive: bool = False,
    files: Iterable[Path] = (),
    within_s: float | None = None,
) -> int:
    """Run a command, which needs these files, in a guest with the driver loaded; its exit status."""
    uapi.ensure()
    spec = _spec(args, kernel)._replace(kept=tuple(map(os.fspath, files)))
    return run(spec, command, run_dir=runs.new(), interactive=interactive, within_s=within_s)


def _demo(args: argparse.Namespace) -> int:
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        os.environ["FORCE_COLOR"] = "1"  # the guest's standard output is no terminal
    # A guest that died is no other number than a command that failed.
    return min(_in_guest(args, _prepare(args), [*_MODULE, "dmirror.demo"], within_s=args.limit), 1)


def _peer(args: argparse.Namespace) -> int:
    kernel = _prepare(args)
    suite = build_peer(kernel)
    command = [*_MODULE, "dmirror.peer", str(suite)]
    return min(_in_guest(args, kernel, command, files=[suite], within_s=args.limit), 1)


def _bench(args: argparse.Namespace) -> int:
    from dmirror import figures

    kernel = _prepare(args)
    uapi.ensure()
    modules = [driver_module(kernel, driver) for driver in (figures.OURS, figures.TREES)]
    spec = GuestSpec(
        image=kernel.image,
        release=kernel.release,
        memory_mib=args.memory,
        append=args.append,
        kaslr=kaslr.wanted(kernel, args.kaslr),
        slowdown=kernel.slowdown,
        kept=tuple(map(str, modules)),
    )
    run_dir = runs.new()
    measured = run_dir / "measured.json"
    command = [*_MODULE, "dmirror.bench", str(measured), *map(str, modules)]
    try:
        status = run(spec, command, run_dir=run_dir, within_s=args.limit)
    finally:
        if measured.exists():  # also what there is so far of a run that was interrupted
            figures.report(
                measured,
                kernel.build / "bench.json",
                kernel=kernel.label,
                flavour=kernel.flavour,
                accelerator=accelerator.choose(kernel.image).name,
            )
    if status:
        raise CannotRun("the benchmark ended early", f"the guest's console is in {run_dir / console.LOG}")
    return 0


def _shell(args: argparse.Namespace) -> int:
    return _in_guest(args, _prepare(args), [os.environ.get("SHELL", "/bin/sh")], interactive=True)


def _gdb(args: argparse.Namespace) -> int:
    from dmirror.vm import debugger

    return _wait_for(debugger.command(args.folder, args.arguments))


def _log(args: argparse.Namespace) -> int:
    from dmirror.vm import symbols

    print("\n".join(symbols.log(args.folder)))
    return 0


def _run(args: argparse.Namespace) -> int:
    from dmirror.scenario import commands as scenarios

    words = [str(args.program), *args.arguments]
    if args.model:
        return scenarios.predict(map(Path, words), args.kernel or _default_kernel())
    play = args.program.suffix == scenarios.SUFFIX
    for word in words if play else words[:1]:
        visible.refuse_unreadable(Path(word), "a Python program of yours, or scenarios, FILE.dms")
    if play:
        scenarios.checked(map(Path, words))
    command = [*_MODULE, "dmirror.scenario"] if play else [sys.executable]
    files = [path for path in map(Path, words) if path.exists()]
    return _in_guest(args, _prepare(args), [*command, *words], files=files, within_s=args.limit)


def _pytest(args: argparse.Namespace, *arguments: str) -> list[str]:
    """The command of a session."""
    selection = ["-k", args.expression] if args.expression else []
    uncached = ["-p", "no:cacheprovider"] if INSTALLED else []  # pytest keeps it beside the tests
    return session.command(*uncached, *arguments, *selection, *args.pytest)


def _wait_for(command: list[str], beside: subprocess.Popen[bytes] | None = None) -> int:
    """Run a command to its end, which it comes to by itself after Ctrl-C or SIGTERM: it has results to write. Another
    one, which runs already, is told the same."""
    process = subprocess.Popen(command, cwd=ROOT)
    processes = [process, beside] if beside else [process]

    def tell(number: int, _: object = None) -> None:
        for one in processes:
            one.send_signal(number)

    before = signal.signal(signal.SIGTERM, tell)
    try:
        status, *_ = [one.wait() for one in processes]
        return status
    except KeyboardInterrupt:
        if not os.isatty(0):  # a terminal has told all of its processes
            tell(signal.SIGINT)
        for one in processes:
            one.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _guest_options(args: argparse.Namespace) -> list[str]:
    """For pytest."""
    options = [f"--dmirror-memory={args.memory}", f"--dmirror-driver={args.driver}"]
    options += [f"--dmirror-flavour={args.flavour}", f"--dmirror-append={args.append}"]
    options += [f"--dmirror-config={line}" for line in args.config]
    options += [f"--dmirror-make={word}" for word in args.make]
    options += ["--dmirror-kaslr"] if args.kaslr else []
    return [*options, f"--dmirror-guests={args.guests}"] if args.guests is not None else options


def _test(args: argparse.Namespace) -> int:
    # First what takes long or cannot be done: a wrong name need not wait for the host tests.
    environment.refuse_for_sessions()
    kernel = _prepare(args)
    driver_module(kernel, args.driver)
    options = _guest_options(args)
    if args.kdir is None and args.kbuild is None:
        options.append(f"--dmirror-kernel={args.kernel or _default_kernel()}")
    else:
        given = {"kernel": args.kernel, "kdir": args.kdir, "kbuild": args.kbuild}
        options += [f"--dmirror-{name}={value}" for name, value in given.items() if value is not None]
    given = {"torture": args.torture, "seed": args.seed}
    options += [f"--dmirror-{name}={value}" for name, value in given.items() if value is not None]
    if args.random is not None:
        options += ["--random-order-bucket=global", f"--random-order-seed={args.random}"]
    if args.times is not None:
        options.append(f"--count={args.times}")
    if args.bisect:
        return _bisect(args, kernel, options)
    options.append("--dmirror-fail-on-empty")
    host, device = _sessions(args, _pytest(args, "tests/host"), _pytest(args, *GUEST_TESTS, *options))
    if streams.GONE in (host, device):
        return streams.GONE
    if device == trial.ALL_SKIPPED:
        print("dmirror: nothing was tested: every device test was skipped, for the reasons above", file=sys.stderr)
        device = 0
        empty = True
    else:
        empty = device == trial.NO_TESTS
    if not {host, device} <= {0, 1, trial.NO_TESTS}:
        return 2
    if host == device == trial.NO_TESTS:
        raise CannotRun(f"no test matches {args.expression!r}", "make test T= takes an expression of pytest -k")
    if 1 in (host, device):
        return 1
    return 2 if empty and args.fail_on_empty else 0


def _sessions(args: argparse.Namespace, host: list[str], device: list[str]) -> tuple[int, int]:
    """The statuses of the two sessions: of all tests one after the other; of a part, in which the host's are few or
    none, side by side, with what the guests leave of the processors."""
    if not args.expression:
        status = _wait_for(host)
        return status, _wait_for(device) if status in (0, 1) else status
    host = ["nice", "-n19", *host]
    with TemporaryFile() as said, subprocess.Popen(host, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT) as session:
        status = _wait_for(device, beside=session)
        if session.returncode != trial.NO_TESTS:
            said.seek(0)
            print(said.read().decode(errors="replace"), end="", flush=True)
    return session.returncode, status


def _bisect(args: argparse.Namespace, kernel: Kernel, arguments: list[str]) -> int:
    """Good or bad. Raises Untestable where no test says."""
    tests = _device_tests(args, kernel, arguments, runs.new())
    outcomes = {verdict.outcome for verdict in tests.values()}
    if outcomes == {results.SKIPPED}:
        reason = next(iter(tests.values())).reason
        raise Untestable("run any of these tests", f"all of them were skipped: {reason}", "choose others with -k")
    return int(results.FAILED in outcomes)


def _device_tests(
    args: argparse.Namespace, kernel: Kernel, arguments: list[str], folder: Path, *, title: str = ""
) -> dict[str, results.Verdict]:
    """Verdicts by node id; with a title what pytest prints goes to a file in the run's folder."""
    selection = ["-k", args.expression] if args.expression else []
    status = trial.run([*arguments, *selection, *args.pytest], folder, title=title)
    return trial.verdicts(status, folder, expression=args.expression, guest=lambda: _in_guest(args, kernel, ["true"]))


def _series(args: argparse.Namespace) -> int:
    from dmirror import mails, series

    read = mails.read(args.mails)
    for line in read.left_out:
        print(f"dmirror: left out: {line}", file=sys.stderr)
    tree = base(kernel=args.base, kdir=args.kdir, flavour=args.flavour)

    def attempt(place: Path, name: str, folder: Path) -> dict[str, str]:
        kernel = prepare(kdir=place, flavour=args.flavour, options=args.config, words=args.make)
        driver_module(kernel, args.driver)
        arguments = [f"--dmirror-kdir={place}", *_guest_options(args)]
        tests = _device_tests(args, kernel, arguments, folder, title=f"testing {name}")
        return {test: verdict.outcome for test, verdict in tests.items()}

    rows: list[series.Row] = []
    try:
        for row in series.run(tree, read.patches, attempt, what=repr(_what(args)), resume=args.resume):
            rows.append(row)
    finally:
        if rows:  # also what there is so far of a series that was interrupted
            print(series.text(rows))
            print(f"dmirror: the runs are in {series.folder_of(tree) / 'runs'}", file=sys.stderr)
    return series.verdict(rows)


def _what(args: argparse.Namespace) -> list[object]:
    """What verdicts depend on beside the kernel's source."""
    build = [args.flavour, args.config, args.make, args.driver]
    return [*build, args.append, args.kaslr, args.memory, args.expression, args.pytest]


def _fuzz(args: argparse.Namespace) -> int:
    from dmirror.fuzz import command

    if args.model_only:
        return command.model_only(args.seed, args.scenarios)
    kernel = _prepare(args)
    resume = command.LAST if args.resume == _LAST else args.resume
    guests = args.guests or fitting(CPUS, args.memory)
    return command.run(kernel, _spec(args, kernel), seed=args.seed, seconds=args.time, guests=guests, resume=resume)


def _default_kernel() -> str:
    from dmirror.kernel import catalogue

    return catalogue.load().default


def _contracts(args: argparse.Namespace) -> int:
    from dmirror import contracts

    sections, tests = contracts.catalogue(), contracts.collected()
    wrong = list(contracts.missing(sections, tests))
    page = contracts.markdown(sections, tests)
    if args.docs:
        contracts.write(contracts.PAGE, page)
    elif contracts.PAGE.read_text() != page:
        wrong.append("docs/contracts.md is not what the tests say: dmirror contracts --docs makes it")
    runs = results.kept()
    rows = contracts.table(sections, tests, runs)
    wrong += contracts.unlisted(rows, runs)
    if args.html:
        contracts.write(args.html, contracts.html(rows, runs))
    if not args.check:
        print(contracts.text(rows, runs))
    for line in wrong:
        print(f"dmirror: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _report(args: argparse.Namespace) -> int:
    from dmirror import contracts
    from dmirror.report import table
    from dmirror.report.html import html
    from dmirror.report.junit import junit
    from dmirror.report.ktap import ktap
    from dmirror.report.summary import summaries

    runs = table.chosen(args.folders)
    for file, form in ((args.html, html), (args.junit, junit), (args.ktap, ktap)):
        if file:
            contracts.write(file, form(runs))
    print(table.text(runs))
    return 1 if any(one.failed for one in summaries(runs)) else 0


def _matrix(args: argparse.Namespace) -> int:
    from dmirror import contracts, matrix
    from dmirror.report.html import html
    from dmirror.screen import screen

    more = {"expression": args.expression or "", "append": args.append, "kaslr": args.kaslr}
    more |= {"config": tuple(args.config), "make": tuple(args.make), "pytest": tuple(args.pytest)}
    wanted = matrix.plan(args.kernels, args.flavours, args.drivers, memory_mib=args.memory, **more)
    if args.resume is None:
        folder = runs.new(matrix.KIND)
    else:
        if wanted != matrix.plan("all", "default", "dmirror"):
            raise CannotRun("--resume goes on with what that matrix was started with", "leave the other options out")
        folder = matrix.last() if args.resume == _LAST else args.resume.expanduser().resolve()
        wanted = matrix.recall(folder)
        runs.again(folder)
    work = matrix.Matrix(folder, wanted, matrix.commands(wanted))
    with screen() as show:
        work.run(args.guests or fitting(CPUS, wanted.memory_mib), show)
    recorded = [row.run for row in work.cells if row.run]
    if recorded:
        page = html(recorded)
        for file in (folder / matrix.REPORT, args.html):
            if file:
                contracts.write(file, page)
        print(f"report: {folder / matrix.REPORT}")
    print(work.text())
    if work.interrupted is not None:
        print(f"dmirror: interrupted; dmirror matrix --resume={folder} goes on", file=sys.stderr)
        return 128 + work.interrupted
    return work.status()


def _fmt(args: argparse.Namespace) -> int:
    from dmirror.scenario import commands as scenarios

    return scenarios.fmt(args.files, check_only=args.check)


def _check(args: argparse.Namespace) -> int:
    from dmirror.scenario import commands as scenarios

    return scenarios.check_files(args.files)


def _build(args: argparse.Namespace) -> int:
    kernel = _prepare(args)
    uapi.ensure()
    module = driver_module(kernel, args.driver)
    print(f"label={kernel.label}\nsource={kernel.source}\nbuild={kernel.build}\nmodule={module}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    print(refresh(args.kernel))
    return 0


def _completion(args: argparse.Namespace) -> int:
    from dmirror import manual

    print(manual.completion(_parser(), args.shell))
    return 0


def _man(args: argparse.Namespace) -> int:
    from dmirror import manual

    print(manual.page(_parser(), __version__), end="")
    return 0


def _add_test_options(test: argparse.ArgumentParser) -> None:
    test.add_argument("-k", dest="expression", metavar="EXPRESSION", help="a part of them, as pytest -k")
    test.add_argument("--guests", metavar="N", help="how many guests at once (default: as many as fit)")
    test.add_argument("--torture", metavar="SECONDS", help="how long each torture test goes on (default: 1)")
    test.add_argument("--times", metavar="N", type=int, help="how often each device test runs (default: once)")
    test.add_argument("--random", metavar="SEED", type=int, help="the device tests in a random order, this one")
    test.add_argument("--seed", metavar="N", help="where its random choices begin, as a failure reports it")
    test.add_argument("--fail-on-empty", action="store_true", help="end with 2 where no device test ran")
    test.add_argument("--bisect", action="store_true", help="for `git bisect run`: its exit statuses, no host tests")
    test.add_argument("pytest", nargs="*", metavar="-- ARGS", help="more arguments for pytest")


def _add_series_options(patches: argparse.ArgumentParser) -> None:
    which = patches.add_argument_group("what it is tried on (default: the newest stable series)")
    which.add_argument("--base", metavar="SERIES", help="a known kernel, such as 7.3")
    which.add_argument("--kdir", metavar="TREE", type=_place, help="a kernel tree, copied, not written to")
    which.add_argument("--flavour", metavar="NAME", default="default", help="another build of it")
    _add_build_options(which)
    _add_guest_options(patches)
    patches.add_argument("--driver", choices=("dmirror", "test_hmm"), default="dmirror", help="the module")
    patches.add_argument("-k", dest="expression", metavar="EXPRESSION", help="a part of the tests, as pytest -k")
    patches.add_argument("--guests", metavar="N", help="how many guests at once (default: as many as fit)")
    patches.add_argument("--resume", action="store_true", help="take verdicts that an earlier run came to")
    patches.add_argument("mails", nargs="+", metavar="MBOX", type=Path, help="the series, as `git am` takes it")
    patches.set_defaults(pytest=[])


def _add_fuzz_options(fuzz: argparse.ArgumentParser) -> None:
    _add_kernel_options(fuzz)
    _add_guest_options(fuzz)
    fuzz.add_argument("--driver", choices=("dmirror", "test_hmm"), default="dmirror", help="the module")
    fuzz.add_argument("--seed", metavar="N", type=int, help="where its random choices begin (default: anywhere)")
    fuzz.add_argument("--time", metavar="SECONDS", type=float, help="how long it goes on (default: until Ctrl-C)")
    fuzz.add_argument("--guests", metavar="N", type=_guests, help="how many at once (default: auto, as many as fit)")
    goes_on = "go on with the last campaign, or with that one"
    fuzz.add_argument("--resume", metavar="FOLDER", type=Path, nargs="?", const=_LAST, help=goes_on)
    fuzz.add_argument("--model-only", action="store_true", help="the model against itself, without a guest")
    many = "how many for --model-only (default: 10000)"
    fuzz.add_argument("--scenarios", metavar="N", type=int, default=10_000, help=many)


def _parser() -> argparse.ArgumentParser:  # noqa: PLR0915  (one for each)
    parser = argparse.ArgumentParser(prog="dmirror", description="A test driver for HMM, and the harness that runs it.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, function: object, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(function=function)
        return verb

    demo = add("demo", _demo, "build what is missing, boot, and tell the story of the filtered MIGRATE event")
    test = add("test", _test, "the host tests, then the device tests in guests")
    peer = add("peer", _peer, "the kernel tree's own hmm-tests on the driver")
    bench = add("bench", _bench, "time the driver and the tree's own side by side in one guest")
    shell = add("shell", _shell, "an interactive guest with the driver loaded")
    program = add("run", _run, "a Python program of yours, or scenarios, in a guest with the driver loaded")
    build = add("build", _build, "build kernel and module, and print where they are")
    for verb in (demo, test, peer, bench, shell, program, build):
        _add_kernel_options(verb)
    for verb in (demo, test, peer, bench, shell, program):
        _add_guest_options(verb)
    for verb in (demo, test, peer, shell, program, build):
        verb.add_argument("--driver", choices=("dmirror", "test_hmm"), default="dmirror", help="the module")
    for verb, limit_s in ((demo, 300), (peer, 1200), (bench, 7200), (program, 3600)):
        _add_limit(verb, limit_s)
    _add_test_options(test)
    patches = add("series", _series, "a patch series on a copy of a tree: does each patch build, what fails with it")
    _add_series_options(patches)
    listed = add("contracts", _contracts, "what the last runs said of each contract; fails where one has no test")
    listed.add_argument("--html", metavar="FILE", type=Path, help="the table as a page, too")
    listed.add_argument("--docs", action="store_true", help="make docs/contracts.md anew from the tests' markers")
    listed.add_argument("--check", action="store_true", help="print only what is wrong")
    report = add("report", _report, "what the last runs said: a table, and a page or a file for a machine")
    report.add_argument(
        "folders", nargs="*", metavar="RUN", type=Path, help="folders of runs (default: the last of each kernel)"
    )
    report.add_argument("--html", metavar="FILE", type=Path, help="as a page that stands alone")
    report.add_argument("--junit", metavar="FILE", type=Path, help="as JUnit's XML")
    report.add_argument("--ktap", metavar="FILE", type=Path, help="as KTAP, for the kernel's own CI")
    program.add_argument("--model", action="store_true", help="scenarios: only what the model says of them, no guest")
    program.add_argument(
        "program", metavar="PROGRAM", type=Path, help="such as docs/findings/h_11.py, or a scenario: FILE.dms"
    )
    program.add_argument("arguments", nargs="*", metavar="ARG", help="what it is given; more scenarios")
    gdb = add("gdb", _gdb, "gdb on a guest that runs, with the symbols of its kernel and its modules")
    log = add("log", _log, "the console of the last guest, with file and line")
    for verb in (gdb, log):
        verb.add_argument("--folder", metavar="DIR", type=Path, help="that of the guest (default: the last one's)")
    gdb.add_argument("arguments", nargs="*", metavar="-- ARGS", help="more arguments for gdb")
    many = add("matrix", _matrix, "the host tests, then the device tests on kernels x flavours x drivers, side by side")
    many.add_argument("--kernels", metavar="LIST", default="all", help="such as 6.1,7.2 or ./linux (default: all)")
    many.add_argument("--flavours", metavar="LIST", default="default", help="such as default,debug, or all")
    _add_build_options(many)
    many.add_argument("--drivers", metavar="LIST", default="dmirror", help="dmirror,test_hmm, or all")
    many.add_argument("-k", dest="expression", metavar="EXPRESSION", help="a part of the tests, as pytest -k")
    many.add_argument("--guests", metavar="N", type=_guests, help="how many at once (default: auto, as many as fit)")
    many.add_argument(
        "--resume",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        const=_LAST,
        help="run what has no verdict yet in the last matrix, or in that one",
    )
    many.add_argument("--html", metavar="FILE", type=Path, help="the report as a page, there too")
    _add_guest_options(many)
    many.add_argument("pytest", nargs="*", metavar="-- ARGS", help="more arguments for pytest")
    fmt = add("fmt", _fmt, "write scenarios as they are written: spaces, order, comments in their places")
    fmt.add_argument("--check", action="store_true", help="change nothing, show what would be, and end with 1")
    checked = add("check", _check, "look through scenarios: grammar, names, ranges; no kernel is needed")
    for verb in (fmt, checked):
        verb.add_argument("files", nargs="+", metavar="FILE", type=Path, help="such as tests/scenarios/fork.dms")
    _add_fuzz_options(add("fuzz", _fuzz, "random scenarios on a kernel against what the model says of them"))
    fetch = add("fetch", _fetch, "look for a newer version of a known kernel, and fetch it")
    fetch.add_argument("--kernel", metavar="SERIES", help="a known one (default: the newest stable series)")
    completion = add("completion", _completion, "a script with which a shell completes verbs, options and files")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    add("man", _man, "the manual page: dmirror man | man -l -")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    bisecting = "--bisect" in (sys.argv[1:] if argv is None else argv)
    try:
        args = _parser().parse_args(argv)
        status: int = args.function(args)
        sys.stdout.flush()
    except CannotRun as error:
        print(f"dmirror: {error}", file=sys.stderr)
        if bisecting:
            return _SKIP if isinstance(error, Untestable) else _STOP
        return 2
    except KeyboardInterrupt:
        print("dmirror: interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:  # of argparse, with 2, or of a signal
        if bisecting and error.code:
            raise SystemExit(_STOP) from error
        raise
    except Exception:
        if not bisecting:
            raise
        traceback.print_exc()  # whose status would be 1
        return _STOP
    return status
