# SPDX-License-Identifier: GPL-2.0
"""Debian's signed source packages, through a private apt root that leaves the system's own lists alone."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from dmirror.errors import CannotRun
from dmirror.kernel import disk, progress

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_INSTEAD = "give KDIR=<a kernel tree> instead"


@dataclass(frozen=True)
class Package:
    """One version of a package that the suites hold."""

    name: str
    version: str


def archives(index_targets: str) -> dict[str, str]:
    """The URI of each Debian archive that apt is set up with, by its Label (`Debian`, `Debian-Security`).

    `index_targets` is the output of `apt-get indextargets`. Before the first `apt-get update` apt knows no
    Label yet; the name of the suite in Base-URI tells the two apart then.
    """
    found: dict[str, str] = {}
    for stanza in index_targets.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if "Repo-URI" not in fields or fields.get("Origin", "Debian") != "Debian":
            continue
        label = fields.get("Label")
        if label is None:
            if "debian-archive" not in fields.get("Signed-By", ""):
                continue
            label = "Debian-Security" if fields.get("Base-URI", "").rstrip("/").endswith("-security") else "Debian"
        if label in ("Debian", "Debian-Security"):
            found.setdefault(label, fields["Repo-URI"])
    return found


def sources_list(suites: tuple[str, ...], uris: dict[str, str]) -> str:
    """The lines of a sources.list for these suites. Raises CannotRun when an archive is not known."""
    lines = []
    for suite in suites:
        label = "Debian-Security" if suite.endswith("-security") else "Debian"
        uri = uris.get(label)
        if uri is None and label == "Debian-Security" and "Debian" in uris:
            continue  # a mirror without the security archive still has every point release
        if uri is None:
            raise CannotRun("apt is not set up with a Debian archive", _INSTEAD)
        lines.append(f"deb [signed-by={_KEYRING}] {uri} {suite} main\n")
    return "".join(lines)


def newest(madison: str, *, candidates: bool) -> str | None:
    """The highest version in the output of `apt-cache madison`; release candidates only if asked for."""
    versions = [line.split("|")[1].strip() for line in madison.splitlines() if line.count("|") == 2]
    return max(
        (version for version in versions if candidates or "~rc" not in version),
        key=functools.cmp_to_key(_compare),
        default=None,
    )


class PrivateApt:
    """An apt root of its own below `root`: lists, cache and sources; signatures are verified as always."""

    def __init__(self, root: Path, sources: str) -> None:
        self._root = root
        for folder in ("lists/partial", "cache/archives/partial", "state"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "sources.list").write_text(sources)
        (root / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{root}/sources.list";\n'
            f'Dir::Etc::sourceparts "-";\n'
            f'Dir::State "{root}/state";\n'
            f'Dir::State::lists "{root}/lists";\n'
            'Dir::State::status "/var/lib/dpkg/status";\n'
            f'Dir::Cache "{root}/cache";\n'
            # apt's own user may not enter a cache folder below a home folder.
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            # Without it a suite that cannot be reached is a mere warning.
            'APT::Update::Error-Mode "any";\n'
            'Acquire::Retries "2";\n'
            'Acquire::http::Timeout "20";\n'
            'Acquire::https::Timeout "20";\n'
        )

    def find(self, name: str, *, candidates: bool) -> Package | None:
        """The newest version of a package in the suites that can be read; None when they hold none.

        A suite that apt refuses (expired, gone from the mirror, not signed) is left out, and that is said.
        Raises CannotRun when nothing was found and a suite could not be read.
        """
        with progress.step(f"asking the archive for {name}"):
            update = self._run("apt-get", "-qq", "update")
            listing = self._run("apt-cache", "madison", name)
        version = newest(listing.stdout, candidates=candidates)
        if update.returncode != 0:
            reason = _reason(update.stderr)
            if version is None:
                raise CannotRun(f"cannot look up {name}: {reason}", f"check the network, or {_INSTEAD}")
            progress.say(f"a suite is left out: {reason}")
        return Package(name, version) if version else None

    def fetch(self, package: Package, folder: Path) -> Path:
        """Download and verify a package into `folder`. Raises CannotRun when apt fails."""
        with progress.bar(f"downloading {package.name} {package.version}", total=100) as bar:
            reader, writer = os.pipe()
            follower = threading.Thread(target=_follow, args=(reader, bar))
            follower.start()
            try:
                status = f"APT::Status-Fd={writer}"
                wanted = f"{package.name}={package.version}"
                done = self._run("apt-get", "-qq", "-o", status, "download", wanted, cwd=folder, pass_fds=(writer,))
            finally:
                os.close(writer)
                follower.join()
        debs = list(folder.glob("*.deb"))
        if done.returncode != 0 or len(debs) != 1:
            if "No space left" in done.stderr:
                raise disk.full(folder.parent)
            raise CannotRun(f"cannot download {wanted}: {_reason(done.stderr)}", f"check the network, or {_INSTEAD}")
        return debs[0]

    def _run(
        self, command: str, *arguments: str, cwd: Path | None = None, pass_fds: tuple[int, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, "-c", str(self._root / "apt.conf"), *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=pass_fds,
            check=False,
        )


def system_archives() -> dict[str, str]:
    """The Debian archives this machine's apt is set up with. Raises CannotRun when there is none."""
    if shutil.which("apt-get") is None:
        raise CannotRun("known kernels are source packages of Debian, and there is no apt-get here", _INSTEAD)
    listing = subprocess.run(
        ["apt-get", "indextargets"],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    uris = archives(listing.stdout)
    if "Debian" not in uris:
        raise CannotRun("known kernels are source packages of Debian, and apt has no Debian archive here", _INSTEAD)
    if not _KEYRING.exists():
        raise CannotRun(f"{_KEYRING} is missing", "apt-get install debian-archive-keyring")
    return uris


def _compare(one: str, other: str) -> int:
    if one == other:
        return 0
    less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
    return -1 if less else 1


def _follow(reader: int, bar: progress.Bar) -> None:
    with os.fdopen(reader) as lines:
        for line in lines:
            done = re.match(r"dlstatus:\d+:([\d.]+):", line)
            if done:
                bar.at(float(done.group(1)))


def _reason(stderr: str) -> str:
    """The first line of apt's errors that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")] or lines or ["apt gave no reason"]
    return errors[0].removeprefix("E: ")
