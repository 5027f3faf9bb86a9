# SPDX-License-Identifier: GPL-2.0
"""On the host: what the kernel said in a guest, with file and line, before what pytest says of the test."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

import pytest

from dmirror.kernel.decode import annotate
from dmirror.kernel.dwarf import Symbols
from dmirror.plugin.splat import COMPLAINTS, DECODED
from dmirror.results import Complaint
from dmirror.vm import symbols
from dmirror.vm.spec import GuestSpec


class Preceded:
    """A failure as pytest shows it, and a text before it."""

    def __init__(self, text: str, failure: Any) -> None:
        self._text = text
        self._failure = failure
        self.reprcrash = getattr(failure, "reprcrash", None)

    def __str__(self) -> str:
        return f"{self._text}\n\n{self._failure}"

    def toterminal(self, out: Any) -> None:
        """As pytest asks for it."""
        out.line(self._text)
        out.line("")
        if hasattr(self._failure, "toterminal"):
            self._failure.toterminal(out)
        else:
            out.line(str(self._failure))


class Decoder:
    """Puts the decoded text of complaints first in a report, and the raw text into a section of it."""

    def __init__(self, spec: GuestSpec) -> None:
        self._spec = spec

    @cached_property
    def _symbols(self) -> tuple[Symbols, dict[str, Symbols]]:
        return symbols.of(self._spec)  # when there is something to decode: it takes a moment

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: list[Any] = [value for name, value in report.user_properties if name == COMPLAINTS]
        complaints = [self._decode(**one) for value in told for one in value]
        if not complaints:
            return
        report.user_properties.append((DECODED, [asdict(one) for one in complaints]))
        text = "\n\n".join(one.decoded for one in complaints)
        if isinstance(report.longrepr, str):
            # It is about these: the raw texts stand in it, or it is one sentence about a guest that died.
            longrepr = report.longrepr
            for one in complaints:
                longrepr = longrepr.replace(one.raw, one.decoded)
            report.longrepr = longrepr if complaints[0].decoded in longrepr else f"{longrepr}\n\n{text}"
        else:
            report.longrepr = Preceded(text, report.longrepr)  # type: ignore[assignment]
        report.sections.append(("kernel log, raw", "\n\n".join(one.raw for one in complaints)))

    def _decode(self, kind: str, title: str, lines: list[str], between: bool) -> Complaint:
        raw = "\n".join(lines)
        return Complaint(kind, title, "\n".join(annotate(lines, *self._symbols)), raw, between)
