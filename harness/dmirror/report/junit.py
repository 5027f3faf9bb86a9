# SPDX-License-Identifier: GPL-2.0
"""Runs as JUnit's XML, in the form that pytest itself writes and CI systems read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from dmirror.journal import Run
from dmirror.report.summary import Summary, headline, one_line, printable, said, summaries, words
from dmirror.results import DEFECT, FAILED, SKIPPED, Verdict


def junit(runs: Iterable[Run]) -> str:
    """A suite for each run, with what was tested as properties; a case for each test, in the order they ran.

    The type of a failure is its cause. What says nothing of the kernel (cause "harness", and one more case for a run
    that was cut off) is an error. A known defect is skipped, of type "defect".
    """
    root = Element("testsuites", name="dmirror")
    for one in summaries(runs):
        _suite(root, one)
    indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(root: Element, one: Summary) -> None:
    run = one.run
    suite = SubElement(root, "testsuite", name=printable(one.name))
    properties = SubElement(suite, "properties")
    for name, value in asdict(run.subject).items():
        SubElement(properties, "property", name=name, value=printable(str(value)))
    for nodeid, verdict in run.tests.items():
        _case(suite, nodeid, verdict)
    if one.cut_off:
        case = SubElement(suite, "testcase", classname="dmirror", name="the whole run", time="0")
        SubElement(case, "error", type="harness", message=one.cut_off)
    suite.attrib |= {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": str(len(suite.findall("testcase/skipped"))),
        "time": f"{one.seconds:.3f}",
        "timestamp": datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _case(suite: Element, nodeid: str, verdict: Verdict) -> None:
    classname, name = _names(nodeid)
    case = SubElement(suite, "testcase", classname=classname, name=name, time=f"{verdict.seconds:.3f}")
    if verdict.outcome == FAILED:
        kind = "error" if verdict.cause == "harness" else "failure"
        found = SubElement(case, kind, type=verdict.cause or "unknown", message=headline(verdict))
        found.text = words(verdict)
    elif verdict.outcome in (DEFECT, SKIPPED):
        SubElement(case, "skipped", type=verdict.outcome, message=one_line(verdict.reason))
    parts = [
        f"{said(complaint)}\n\n{printable(complaint.decoded or complaint.raw)}" for complaint in verdict.complaints
    ]
    if verdict.outcome == FAILED and verdict.console:
        parts.append(f"console: {printable(verdict.console)}")
    if parts:
        SubElement(case, "system-out").text = "\n\n".join(parts)


def _names(nodeid: str) -> tuple[str, str]:
    """As pytest has them: the file and the class with dots, then the function with its parameters."""
    path, bracket, parameters = printable(nodeid).partition("[")
    file, *inner = path.split("::")
    parts = [file.removesuffix(".py").replace("/", "."), *inner]
    return ".".join(parts[:-1]) or parts[0], parts[-1] + bracket + parameters
