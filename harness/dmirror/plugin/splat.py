# SPDX-License-Identifier: GPL-2.0
"""The kernel's own voice: a complaint in the kernel log during a test fails that test."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from dmirror.plugin.kmsg import LogReader
from dmirror.plugin.options import is_device_test
from dmirror.splats import TEST_STARTS, Splat, complaints, harmless, parse
from dmirror.vm.console import MODULES_FOLLOW

_KMSG = Path("/dev/kmsg")
_TAINTED = Path("/proc/sys/kernel/tainted")
_LOCKDEP = Path("/proc/lockdep_stats")  # kernel/locking/lockdep_proc.c, with CONFIG_LOCKDEP
_KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
_KMEMLEAK_AGE_S = 5.0  # younger objects are not reported: jiffies_min_age in mm/kmemleak.c
# Documentation/admin-guide/clearing-warn-once.rst
_CLEAR_WARN_ONCE = Path("/sys/kernel/debug/clear_warn_once")

# Bits of /proc/sys/kernel/tainted that a complaint sets; an out-of-tree module (12) and a missing signature
# (13) do not.
_TAINTS = {
    4: "machine check",
    5: "bad page",
    7: "oops or BUG",
    9: "warning",
    14: "soft lockup",
}


COMPLAINTS, DECODED = "dmirror-complaints", "dmirror-decoded"
"""User properties of a report: complaints as as_property() has them, and as fields of results.Complaint."""

CAUSE, CONSOLE = "dmirror-cause", "dmirror-console"
"""User properties of the report of a test whose guest died: one of results.CAUSES, and the guest's console log."""

BETWEEN = "dmirror-between"
"""A user property, or of a worker's output: what between() makes a report of."""

SILENT = "dmirror-lockdep-silent"
"""A user property of the report of the test after which lockdep was first found silent."""


def as_property(splat: Splat, *, between: bool = False) -> dict[str, Any]:
    """A complaint as a report carries it to the host: of plain types, which is what execnet takes."""
    return {
        "kind": splat.kind,
        "title": str(splat.title),
        "lines": [str(line) for line in splat.lines],
        "between": between,
    }


def between(nodeid: str, location: list[Any], complaints: list[dict[str, Any]]) -> pytest.TestReport:
    """The report of what the kernel said after a test's end, before the next one began."""
    texts = [f"{one['title']}\n\n" + "\n".join(one["lines"]) for one in complaints]
    said = "\n\n".join(f"the kernel complained after this test, before the next: {text}" for text in texts)
    path, line, name = location
    properties = [(COMPLAINTS, complaints)]
    return pytest.TestReport(nodeid, (path, line, name), {}, "failed", said, "teardown", user_properties=properties)


def failure(nodeid: str, said: str, properties: list[tuple[str, object]]) -> pytest.TestReport:
    """The report of a test of which no other came."""
    path, _, name = nodeid.partition("::")
    location = (path, None, name.replace("::", "."))
    return pytest.TestReport(nodeid, location, {}, "failed", said, "call", user_properties=properties)


class KernelLog:
    """Fails a test during which the kernel complained, or after which it did. Registered where the tested kernel is
    the running one.

    `at_boot` has what it complained of before it loaded our modules, `tainted_at_boot` the bits of
    /proc/sys/kernel/tainted that were set before the first test.
    """

    def __init__(self, *, only_device_tests: bool = False) -> None:
        self._only_device_tests = only_device_tests
        # Both are root's; who may not open them may not open the driver either, and the tests say so.
        self._log = LogReader()
        self._writer = _opened_for_writing()
        self.at_boot, self._unclaimed = self._before_and_since_modules()
        self._tainted = self.tainted_at_boot = _tainted()
        self._lockdep_watches: bool | None = None  # none: not asked yet
        self._last: pytest.Item | None = None

    def pytest_unconfigure(self) -> None:
        self._log.close()
        if self._writer is not None:
            os.close(self._writer)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Holds a test's reports back until its teardown is over: a complaint during it changes the test's
        one verdict."""
        if self._only_device_tests and not is_device_test(item):
            return None
        hook = item.ihook
        expected = [str(marker.args[0]) for marker in item.iter_markers("complains")]
        if expected:
            self._warn_again()
        self._say(f"{TEST_STARTS}{item.nodeid}")
        earlier = parse(self._new())
        before = self._unclaimed + _not_harmless(earlier)
        self._unclaimed = []
        late = self._late(before) if self._last and before else None
        self._last = item
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        # A message without a newline cannot be read until the next one has begun.
        self._say("dmirror-test ended", level=7)
        now = parse(self._new())
        _amend(reports, [] if late else before, _not_harmless(now), self._new_taints(), expected)
        # To ask takes a moment, and what silences lockdep is heard, be it harmless or not.
        if self._lockdep_watches is None or (self._lockdep_watches and (earlier or now)):
            self._lockdep_watches = not _lockdep_silent()
            if not self._lockdep_watches:
                reports[-1].user_properties.append((SILENT, True))
        if late and hasattr(item.config, "workerinput"):
            # A worker reports of none but its present test.
            reports[0].user_properties.append((BETWEEN, late))
        elif late:
            hook.pytest_runtest_logreport(report=between(**late))
        for report in reports:
            # The host wants none of them, and they are a third of what an emulated processor has to pack.
            report.keywords = {}
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._last is None:
            return
        found = complaints([*self._new(), *_leaks()])
        if found and hasattr(session.config, "workeroutput"):
            session.config.workeroutput[BETWEEN] = self._late(found)
        elif found:
            session.config.hook.pytest_runtest_logreport(report=between(**self._late(found)))

    def _late(self, found: list[Splat]) -> dict[str, Any]:
        """The arguments of between() for the last test."""
        assert self._last is not None
        properties = [as_property(one, between=True) for one in found]
        return {"nodeid": self._last.nodeid, "location": list(self._last.location), "complaints": properties}

    def _before_and_since_modules(self) -> tuple[list[Splat], list[Splat]]:
        """Complaints of the boot and of the modules' loading. What the kernel said before is not about the driver."""
        messages = self._new()
        marks = [i for i, message in enumerate(messages) if MODULES_FOLLOW in message]
        return (complaints(messages[: marks[-1]]), complaints(messages[marks[-1] :])) if marks else ([], [])

    def _say(self, message: str, *, level: int = 5) -> None:
        if self._writer is not None:
            os.write(self._writer, f"<{level}>{message[:800]}\n".encode())

    def _warn_again(self) -> None:
        """What the kernel warns of once, it warns of once more."""
        with suppress(OSError):  # then the missing complaint fails the test, unless it is the first
            _CLEAR_WARN_ONCE.write_text("1")

    def _new(self) -> list[str]:
        return self._log.new()

    def _new_taints(self) -> list[str]:
        before, self._tainted = self._tainted, _tainted()
        now = self._tainted
        return [name for bit, name in _TAINTS.items() if (now & ~before) >> bit & 1]


def _amend(
    reports: list[pytest.TestReport], before: list[Splat], during: list[Splat], taints: list[str], expected: list[str]
) -> None:
    # The call's verdict if there was a call, else the setup's that failed or skipped.
    report = reports[1] if len(reports) > 2 else reports[0]
    unexpected = [splat for splat in during if not any(re.search(pattern, splat.head) for pattern in expected)]
    parts = [f"the kernel complained during this test: {splat.title}\n\n{splat}" for splat in unexpected]
    if report.passed:
        parts += [
            f"the kernel did not complain during this test, as it should, of {pattern!r}"
            for pattern in expected
            if not any(re.search(pattern, splat.head) for splat in during)
        ]
    parts += [f"the kernel complained before this test, loading a module: {splat.title}\n\n{splat}" for splat in before]
    if taints and not (before or during):
        parts.append(f"the kernel became tainted during this test: {', '.join(taints)}; its log has no line about it")
    if not parts:
        return
    if unexpected or before:
        report.user_properties.append((COMPLAINTS, [as_property(splat) for splat in [*unexpected, *before]]))
    text = "\n\n".join(parts)
    if report.failed:
        report.sections.append(("kernel log", text))
        return
    report.outcome = "failed"
    report.longrepr = text
    report.__dict__.pop("wasxfail", None)


def _not_harmless(splats: list[Splat]) -> list[Splat]:
    return [splat for splat in splats if harmless(splat) is None]


def _lockdep_silent() -> bool:
    """Whether the running kernel has lockdep, and it has ended its work (debug_locks_off())."""
    try:
        lines = _LOCKDEP.read_text().splitlines()
    except (FileNotFoundError, PermissionError):
        return False
    return any(line.split() == ["debug_locks:", "0"] for line in lines)


def _leaks() -> list[str]:
    """What kmemleak knows of (Documentation/dev-tools/kmemleak.rst), where the kernel has it."""
    if not _KMEMLEAK.exists():
        return []
    time.sleep(_KMEMLEAK_AGE_S)
    # What one scan takes for lost may just have been on its way from one place to another.
    for _ in range(2):
        _KMEMLEAK.write_text("scan")
    return _KMEMLEAK.read_text().splitlines()


def _opened_for_writing() -> int | None:
    try:
        return os.open(_KMSG, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _tainted() -> int:
    return int(_TAINTED.read_text())
