# SPDX-License-Identifier: GPL-2.0
"""Counters are exact: against the log, against what was done, in debugfs; and the tracepoints say what the log says."""

import mmap
import re
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmirror.counters import STAYED
from dmirror.events import CLEAR, EXCLUSIVE, KERNEL_EVENTS, MIGRATE, PROTECTION_VMA, UNMAP
from dmirror.memory import READ, RW
from dmirror.mirror import Mirror
from dmirror.process import ChildKilled, in_child
from dmirror.threads import Task

pytestmark = pytest.mark.needs(capability="steer")

DEBUGFS = Path("/sys/kernel/debug/dmirror/hmm_dmirror0")
TRACEFS = Path("/sys/kernel/tracing")


def change_memory(mirror, memory):
    """What raises events of several kinds, in a process that does other things beside."""
    memory[:4].advise(mmap.MADV_DONTNEED)
    memory[4:8].protect(READ)
    memory[4:8].protect(RW)
    memory[8].unmap()
    mirror.migrate_to_device(memory[10:])
    memory[10:].touch()


class TestEvents:
    def test_of_each_kind_as_many_as_the_log_has(self, still):
        one = still(change_memory)
        one.mirror.read(one.memory)
        before = one.mirror.counters()
        with one.mirror.events() as log:
            one.run()
            counts = one.mirror.counters() - before
            log.read()
        for name in KERNEL_EVENTS:
            told = log.select(name)
            filtered = [event for event in told if event.filtered]
            assert counts.seen[name] == len(told), name
            assert counts.filtered[name] == len(filtered), name
            assert counts.obeyed[name] == len(told) - len(filtered), name
        assert counts.events_seen == sum(counts.seen.values()) >= 1 + 2 + 1 + 7
        assert counts.events_filtered == sum(counts.filtered.values()) == 1
        assert counts.events_obeyed == sum(counts.obeyed.values())
        told = log.select(KERNEL_EVENTS)
        assert counts.entries_dropped >= sum(event.pages for event in told if not event.filtered) >= 4 + 4 + 1 + 6
        assert counts.entries_kept == sum(event.pages for event in told if event.filtered) == 6
        for name in (CLEAR, PROTECTION_VMA, UNMAP, MIGRATE):
            assert counts.obeyed[name]

    def test_of_a_process_that_stands_still_none_but_ours(self, still):
        one = still()
        before = one.mirror.counters()
        one.mirror.migrate_to_device(one.memory)
        one.mirror.migrate_to_system(one.memory[:6])
        one.mirror.exclusive(one.memory[:4])
        one.mirror2.migrate_to_device(one.memory[4:6])
        counts = one.mirror.counters() - before
        none = dict.fromkeys(KERNEL_EVENTS, 0)
        assert counts.seen == none | {MIGRATE: 3, EXCLUSIVE: 4}
        assert counts.filtered == none | {MIGRATE: 2, EXCLUSIVE: 4}
        assert counts.obeyed == none | {MIGRATE: 1}
        assert counts.events_refused == 0


class TestEntries:
    def test_installed_and_dropped_make_those_present(self, still):
        one = still()
        one.mirror.read(one.memory[:8])
        one.mirror.migrate_to_device(one.memory[4:])
        one.load(5)
        counts = one.mirror.counters()
        assert counts.entries_installed == 8 + 12
        assert counts.entries_dropped == 4 + 1
        assert counts.entries_present == counts.entries_installed - counts.entries_dropped == 15

    def test_faults_and_the_walks_repeated_for_them(self, still):
        one = still()
        one.mirror.read(one.memory)
        one.mirror.read(one.memory)
        counts = one.mirror.counters()
        assert (counts.faults, counts.fault_retries) == (1, 0)


class TestPages:
    def test_by_direction(self, mirror, region):
        before = mirror.counters()
        mirror.migrate_to_device(region.fill(1))
        mirror.migrate_to_device(region)
        mirror.migrate_to_system(region[:10])
        counts = mirror.counters() - before
        assert (counts.pages_to_device, counts.pages_to_system) == (16, 10)
        assert (counts.huge_to_device, counts.huge_to_system) == (0, 0)
        assert counts.stayed == dict.fromkeys(STAYED, 0) | {"absent": 16}

    def test_that_stayed_by_reason(self, mirror, region):
        region.fill(1)
        before = mirror.counters()
        with mirror.inject("device_alloc", 1), mirror.inject("copy", 2):
            mirror.migrate(region, skip=[4, 5, 6], reference=[8, 9])
        mirror.migrate(region[12:])
        stayed = (mirror.counters() - before).stayed
        wanted = {"memory": 1, "copy": 1, "skipped": 3, "core": 2, "absent": 4}
        assert stayed == dict.fromkeys(STAYED, 0) | wanted

    def test_that_cpu_faults_brought_back_or_failed_to(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        before = mirror.counters()
        region[:4].touch()
        with mirror.inject("system_alloc", 1):
            region[4].touch()
        with mirror.inject("copy", 1), pytest.raises(ChildKilled) as caught:
            in_child(region[5].touch)
        assert caught.value.signal == signal.SIGBUS
        counts = mirror.counters() - before
        assert (counts.dev_cpu_faults, counts.dev_pages_faulted) == (4 + 2 + 1, 5)
        assert (counts.dev_fault_oom, counts.dev_fault_failed) == (1, 1)
        assert (counts.dev_small_freed, counts.dev_pages_in_use) == (5, -5)

    def test_that_were_evicted(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        with Mirror(0) as other:
            other.migrate_to_device(region)
            before = mirror.counters()
        assert (mirror.counters() - before).dev_pages_evicted == 0  # none of those are its own
        mirror.release()
        mirror.release()
        counts = mirror.counters() - before
        assert (counts.dev_pages_evicted, counts.dev_pages_displaced, counts.dev_releases) == (16, 0, 2)


def shown():
    """The file's numbers: of the device, and of each context by the process that opened it, by their words."""
    head, *contexts = DEBUGFS.read_text().split("\n\n")
    numbers = {}
    for part in contexts:
        title, *lines = part.splitlines()
        process = re.fullmatch(r"context (\d+) of process (\d+)", title)
        numbers[int(process[2])] = {line.split()[0]: [int(n) for n in re.findall(r"\d+", line)] for line in lines}
        numbers[int(process[2])]["id"] = int(process[1])
    return {line[:18].strip(): [int(n) for n in re.findall(r"\d+", line)] for line in head.splitlines()}, numbers


class TestDebugfs:
    def test_the_file_says_the_same_of_the_device(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        region[:3].touch()
        c = mirror.counters()
        device, _ = shown()
        assert device == {
            "pages in use": [c.dev_pages_in_use],
            "small folios": [c.dev_small_allocated, c.dev_small_freed],
            "huge folios": [c.dev_huge_allocated, c.dev_huge_freed, c.dev_huge_split],
            "CPU faults": [c.dev_cpu_faults, c.dev_pages_faulted, c.dev_fault_oom, c.dev_fault_failed],
            "evicted": [c.dev_pages_evicted, c.dev_pages_displaced, c.dev_releases],
            "contexts": [c.dev_contexts],
        }

    def test_the_file_says_the_same_of_a_mirror(self, still):
        one = still()
        one.mirror.read(one.memory)
        one.mirror.migrate(one.memory, skip=[1, 2])
        one.mirror.migrate(one.memory[:8], to="system")
        c = one.mirror.counters()
        assert c.stayed["skipped"] == 2 and c.stayed["absent"] == 2
        _, contexts = shown()
        lines = contexts[one.child.pid]
        assert lines["events"] == [c.events_seen, c.events_filtered, c.events_obeyed, c.events_refused]
        for name in KERNEL_EVENTS:
            wanted = [c.seen[name], c.filtered[name], c.obeyed[name]]
            assert lines.get(name, [0, 0, 0]) == wanted
        wanted = [c.entries_present, c.entries_installed, c.entries_dropped, c.entries_kept]
        assert lines["entries"] == wanted
        assert lines["faults"] == [c.faults, c.fault_retries]
        text = DEBUGFS.read_text()
        assert f"to the device   {c.pages_to_device} pages, {c.huge_to_device} huge folios" in text
        assert f"to the system   {c.pages_to_system} pages, {c.huge_to_system} huge folios" in text
        assert "stayed          2 skipped" in text

    def test_the_file_can_be_read_while_a_thread_is_held(self, still):
        """Also one that holds the lock that the numbers are under."""
        one = still()
        with one.mirror.hold("fault.before_install") as held, Task(one.mirror.read, one.memory):
            held.wait()
            text = DEBUGFS.read_text()
            held.resume()
        assert "busy" in text


TRACED = re.compile(
    r"-(?P<tid>\d+)\s+\[\d+\].*? dmirror_(?P<kind>invalidate|action): "
    r"device=(?P<device>\d+) context=(?P<context>\d+) (?:watch=(?P<watch>\d+) )?(?P<type>\w+) "
    r"\[(?P<start>\w+), (?P<end>\w+)\) (?P<rest>.*)"
)


@contextmanager
def tracing():
    """The group dmirror, and no event of any other, from here on; a file of what was traced."""
    if not (TRACEFS / "events").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=True)
    switch = TRACEFS / "events" / "dmirror" / "enable"
    (TRACEFS / "trace").write_text("")
    switch.write_text("1")
    try:
        yield TRACEFS / "trace"
    finally:
        switch.write_text("0")


def traced(file, context):
    lines = [TRACED.search(line) for line in file.read_text().splitlines() if not line.startswith("#")]
    return [line for line in lines if line["device"] == "0" and int(line["context"]) == context]


@pytest.mark.needs(config="CONFIG_EVENT_TRACING")
class TestTracepoints:
    def test_what_is_traced_is_what_is_logged(self, still):
        one = still(change_memory)
        one.mirror.read(one.memory)
        context = shown()[1][one.child.pid]["id"]
        with tracing() as file, one.mirror.watch(one.memory) as watch, one.mirror.events() as log:
            one.mirror.exclusive(one.memory[9])
            one.run()
            one.mirror.read(one.memory[:2])
            log.read()
            lines = traced(file, context)
        assert len(lines) == len(log.seen) > 20
        assert any(event.watch == watch.id for event in log.seen)
        for line, event in zip(lines, log.seen, strict=True):
            assert (line["type"], int(line["tid"])) == (event.type, event.tid)
            assert (int(line["start"], 0), int(line["end"], 0)) == (event.start, event.end)
            if event.told:
                outcome = "filtered" if event.filtered else "obeyed"
                owner = event.owner or "undefined"
                assert int(line["watch"]) == event.watch
                assert line["rest"] == f"seq={event.interval_seq} owner={owner} {outcome} entries={event.pages}"
            else:
                assert line["rest"] == f"pages={event.pages} index={event.index} result={event.result}"

    def test_no_log_is_needed(self, mirror, region):
        with tracing() as file:
            mirror.migrate_to_device(region.fill(1))
            region[3].touch()
            text = file.read_text()
        for what in ("MIGRATE ", "MIGRATE_BEGIN ", "MIGRATE_END ", "CPU_BEGIN ", "CPU_END ", "FREE "):
            assert what in text

    def test_nothing_is_traced_unasked(self, mirror, region):
        with tracing() as file:
            pass
        file.write_text("")
        mirror.migrate_to_device(region.fill(1))
        assert "dmirror_" not in file.read_text()
