# SPDX-License-Identifier: GPL-2.0
"""Tracepoints, as those see them who have the format and no header of ours: trace-cmd, perf."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs(capability="steer", config="CONFIG_EVENT_TRACING")

EVENTS = Path("/sys/kernel/tracing/events/dmirror")


def trace_cmd(*arguments):
    done = subprocess.run(["trace-cmd", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("event", ["dmirror_invalidate", "dmirror_action"])
def test_a_format_has_values_and_no_names_of_an_enum(mirror, event):
    (form,) = re.findall("^print fmt: (.*)$", (EVENTS / event / "format").read_text(), re.MULTILINE)
    assert "__print_symbolic" in form
    assert "DMIRROR_" not in form


def test_trace_cmd_names_what_a_migration_and_its_cpu_fault_do(mirror, region, tmp_path):
    trace = tmp_path / "trace.dat"
    trace_cmd("start", "-e", "dmirror")
    try:
        with mirror.events():
            mirror.migrate_to_device(region.fill(1))
            region.touch()
            region.unmap()
        trace_cmd("stop")
        trace_cmd("extract", "-o", str(trace))
    finally:
        trace_cmd("reset")
    said = trace_cmd("report", "-i", str(trace))
    actions = re.findall(r"dmirror_action: .*?context=\d+ (\S+) \[", said)
    events = re.findall(r"dmirror_invalidate: .*?watch=0 (\S+) \[.* owner=(\S+) (\S+)", said)
    phases = ["BEGIN", "SETUP", "COPIED", "PAGES", "MAPPED", "END"]
    assert [name for name in actions if name.startswith("MIGRATE_")] == [f"MIGRATE_{phase}" for phase in phases]
    assert actions.count("CPU_END") == len(region)
    assert ("MIGRATE", "own", "filtered") in events
    assert ("UNMAP", "undefined", "obeyed") in events
