# SPDX-License-Identifier: GPL-2.0
"""How a guest is started: virtme-run's command line, and the scripts that the guest finds in its run folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from dmirror import environment, modules
from dmirror.errors import CannotRun
from dmirror.paths import QEMU, ROOT, cache
from dmirror.vm import accelerator, console, visible
from dmirror.vm.image import PythonImage
from dmirror.vm.spec import GuestSpec

DISKS = {"swap": 512, "file": 128}
"""Empty disks of every guest, by what a test makes of them, in MiB. In the guest their serial is dmirror-NAME."""

PID = "qemu.pid"
"""In a guest's folder while it runs: the process id of its QEMU."""

STUB = "gdb"
"""In a guest's folder: the socket of QEMU's gdb stub."""

SECTIONS = "sections-"
"""In a guest's folder, with a module's name behind it: a line for each of its sections, name:address."""

TEXT = "text"
"""In a guest's folder, with KASLR: the line of /proc/kallsyms that says where the kernel stands."""

# So long before a command's time is over its guest says where it stands.
_EARLIER_S = 2.0

_LONGEST_SOCKET = 107  # bytes of its path, unix(7)

# A signal for the parent's death does not come when the parent died before it was asked for. So each of the two
# looks for its parent once the signal is set.
_UNDER_US = '[ "$PPID" = "$0" ] || exit 1; DMIRROR_VIRTME_RUN=$$ exec "$@"'
_UNDER_VIRTME_RUN = '[ "$PPID" = "$DMIRROR_VIRTME_RUN" ] || exit 1; echo $$ >"$0"; exec "$@"'


def virtme_run_command(
    spec: GuestSpec,
    run_dir: Path,
    qemu: Path,
    image: PythonImage | None,
    ports: dict[str, int],
    *,
    interactive: bool,
) -> list[str]:
    """virtme-run's command line. It kills the guest with us: setpriv's signal comes when the parent dies."""
    emulated = accelerator.choose(spec.image).name == "tcg"
    command = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _UNDER_US, str(os.getpid())]
    command += [sys.executable, os.fspath(_virtme_run())]
    command += ["--kimg", os.fspath(spec.image), "--mods", "none", "--force-9p", "--disable-monitor"]
    # Of two nodes no processors share a package or its cache, else the kernel warns (topology_sane() in
    # arch/x86/kernel/smpboot.c): each is a socket of its own.
    cpus = f"{spec.cpus},sockets={spec.cpus}"
    command += ["--memory", f"{spec.memory_mib}M", "--cpus", cpus, "--qemu-bin", os.fspath(qemu)]
    options = ["-no-reboot"]
    # cache=loose reads a file once per guest instead of once per page: nothing else writes to a root of
    # read-only files.
    kernel = ["rootflags=version=9p2000.L,trans=virtio,access=any,msize=262144,cache=loose"]
    kernel += ["console=hvc0" if interactive else "console=ttyS0", "loglevel=6", "panic=-1", "oops=panic"]
    kernel += ["transparent_hugepage=madvise", "hugepagesz=2M", "hugepages=64"]
    kernel.append("secretmem.enable=1")  # off by default until 6.5
    # Whoever waits for a grace period of RCU waits for the next ticks, emulated or not: 20 ms for device memory that is
    # given back, which is done hundreds of times.
    kernel.append("rcupdate.rcu_expedited=1")
    if not spec.kaslr:
        kernel.append("nokaslr")  # two boots are alike
    if spec.set_aside is not None:
        kernel.append(f"memmap={spec.set_aside}")
    # Tests write their names to the kernel log, as often as they start.
    kernel.append("printk.devkmsg=on")
    if emulated:
        command.append("--disable-kvm")
        options += ["-accel", "tcg,thread=multi"]
        # Who is told of fast string instructions copies by the byte, and each of them is emulated alone: a read() of
        # cached pages takes five times as long.
        options += ["-cpu", "max,-erms"]
        # The watchdog of clock sources takes an emulator's pauses for a broken clock.
        kernel.append("tsc=reliable")
        # A guest that measures its clock believes the PIT, even where the HPET contradicts. When a busy host stops
        # QEMU at that moment, the clock may go ten times as fast as it should, and so do all time limits.
        khz = accelerator.tsc_khz()
        if khz is not None:
            kernel.append(f"tsc_early_khz={khz}")
    if image is not None:
        options += ["-drive", f"if=none,id=python,format=raw,readonly=on,file={_comma(image.file)}"]
        options += ["-device", "virtio-blk-pci,drive=python"]
    options += ["-fsdev", f"local,id=run,security_model=none,multidevs=remap,path={_comma(run_dir)}"]
    options += ["-device", "virtio-9p-pci,fsdev=run,mount_tag=dmirror.run"]
    for name in DISKS:
        options += ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={_comma(run_dir / name)}"]
        options += ["-device", f"virtio-blk-pci,drive={name},serial=dmirror-{name}"]
    for node, mib in enumerate(spec.nodes_mib):
        options += ["-object", f"memory-backend-ram,id=node{node},size={mib}M"]
        theirs = "".join(f",cpus={cpu}" for cpu in range(node, spec.cpus, 2))
        options += ["-numa", f"node,nodeid={node},memdev=node{node}{theirs}"]
    options += _stub(run_dir)
    for name, descriptor in ports.items():
        options += ["-chardev", f"socket,id=port-{name},fd={descriptor}"]
        options += ["-device", f"virtserialport,name=dmirror.{name},chardev=port-{name}"]
    kernel += _appended(spec)
    # virtme-run puts its own init= last; after "--" it is only an argument to ours. In one --kopt and with
    # tabs, since argparse drops a lone "--" and virtme-run quotes what has spaces.
    kernel.append(f"init={QEMU / 'guest-init.sh'}\t--\t{run_dir}")
    command += [f"--kopt={option}" for option in kernel]
    command += [f"--qemu-opt={option}" for option in options]
    return command


def _appended(spec: GuestSpec) -> list[str]:
    try:
        words = shlex.split(spec.append)
    except ValueError as error:
        raise CannotRun(f"APPEND={spec.append} cannot be split into words: {error}", "close the quotation") from error
    if spec.kaslr and "nokaslr" in words:
        raise CannotRun("--kaslr and APPEND=nokaslr contradict each other", "leave one of them out")
    if "kaslr" in words:
        raise CannotRun(
            "APPEND=kaslr is no parameter of x86 kernels, which have it unless they are told", "give --kaslr"
        )
    return words


def _virtme_run() -> Path:
    script = Path(sysconfig.get_path("scripts"), "virtme-run")
    if not script.exists():
        raise CannotRun(f"no {script}", f"{sys.executable} -m pip install virtme-ng")
    return script


def qemu_wrapper(run_dir: Path) -> str:
    """What virtme-run starts as QEMU: notes its process id and dies with virtme-run, however that ends."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _UNDER_VIRTME_RUN]
    command += [os.fspath(run_dir / PID), os.fspath(accelerator.find_qemu())]
    return f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'


def set_up_script(
    spec: GuestSpec,
    run_dir: Path,
    image: PythonImage | None,
    *,
    interactive: bool,
    as_interpreter: bool,
    within_s: float | None,
) -> str:
    """What guest-init.sh reads: calls of its functions."""
    kept = {Path.cwd(), ROOT, cache(), Path(sys.prefix), Path(sys.base_prefix), *map(Path, spec.kept)}
    kept |= {Path(shlex.split(module)[0]) for module in spec.modules}
    kept |= {Path(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder}
    lines = ["stdio=" + ("console" if interactive else "ports")]
    lines += [shlex.join(["keep", os.fspath(path)]) for path in sorted(visible.brought(kept))]
    lines.append(shlex.join(["share", os.fspath(run_dir)]))
    if image is not None:
        lines.append(shlex.join(["overlay_python", *map(os.fspath, image.paths)]))
    if spec.kaslr:
        lines.append(f"kernel_text {TEXT}")
    if spec.modules:
        load = [shlex.join(["module", *shlex.split(module)]) for module in spec.modules]
        lines += ["modules() {", f"echo {shlex.quote(console.MODULES_FOLLOW)} >/dev/kmsg", *load, "}"]
        lines.append(f"beside {modules.FIFO} modules" if as_interpreter else "modules")
    if within_s is not None:
        lines.append(f"says_where {max(within_s - _EARLIER_S, within_s / 2):g}")
    return "\n".join(lines) + "\n"


def job_script(spec: GuestSpec, argv: list[str], run_dir: Path, *, interactive: bool) -> str:
    program = shutil.which(argv[0])
    if program is None:
        raise CannotRun(
            f"no command {argv[0]!r} to run in the guest",
            "name one that the host has: its root is the host's",
        )
    variables = environment.of_guest() | {
        "HOME": "/tmp",
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONDONTWRITEBYTECODE": "1",
        # All threads share the heap that dmirror.quiet provides for.
        "MALLOC_ARENA_MAX": "1",
        "DMIRROR_CACHE": os.fspath(cache()),
        "DMIRROR_IN_GUEST": "1",
        "DMIRROR_SLOWDOWN": str(spec.slowdown),
        "DMIRROR_RUN_DIR": os.fspath(run_dir),
    }
    lines = [f"cd {shlex.quote(os.getcwd())} || exit 125"]
    if interactive and sys.stdin.isatty():
        size = os.get_terminal_size(0)
        if size.lines and size.columns:
            lines.append(f"/bin/busybox stty rows {size.lines} cols {size.columns}")
    lines.append("[ ! -d /sys/fs/cgroup/dmirror-tests ] || echo $$ >/sys/fs/cgroup/dmirror-tests/cgroup.procs")
    words = ["exec", "/bin/busybox", "env", "-i", *(f"{k}={v}" for k, v in sorted(variables.items()))]
    words += [os.path.abspath(program), *argv[1:]]
    return "\n".join([*lines, shlex.join(words), ""])


def _stub(run_dir: Path) -> list[str]:
    path = run_dir / STUB
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        return []
    return ["-gdb", f"unix:{_comma(path)},server=on,wait=off"]


def _comma(path: Path) -> str:
    return os.fspath(path).replace(",", ",,")
