# SPDX-License-Identifier: GPL-2.0
"""What a scenario has while it is played: processes with regions, mirrors of them with logs, groups, pins, holds."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

from dmirror.events import Event as Logged
from dmirror.memory import MAP_FIXED_NOREPLACE, MAP_HUGETLB, PAGE, Span
from dmirror.mirror import Counters, Mirror
from dmirror.process import PATIENCE
from dmirror.scenario import orders, tree, words
from dmirror.scenario.agents import Agent, Agents
from dmirror.scenario.orders import Packed
from dmirror.scenario.record import BASE, SLOT, Entry, Event, Stretch, address
from dmirror.scenario.seen import Mirrored, Raw
from dmirror.scenario.sight import Sight
from dmirror.uapi import ffi, lib

# arch/x86/entry/syscalls/syscall_64.tbl
_OPEN, _CLOSE, _MMAP, _FTRUNCATE = 2, 3, 9, 77
_PIPE, _VMSPLICE, _MOVE_PAGES, _MEMFD = 22, 278, 279, 319
_MPOL_MF_MOVE = 2

_GROUPS = Path("/sys/fs/cgroup")
_SPLIT = Path("/sys/kernel/debug/split_huge_pages")
_VMSTAT = Path("/proc/vmstat")
_RECORDS = 16384  # of a mirror's log: many times what a scenario makes

CHARGE_SLACK = 64 * (os.cpu_count() or 1)
"""Pages: so many for each processor may not be in memory.stat yet (MEMCG_CHARGE_BATCH, mm/memcontrol.c)."""


class Unsupported(Exception):
    """The machine lacks what the scenario needs."""


class World:
    """The state of one play. `agents` act, `mirrors` are open, `places` are where the regions are.

    `logged`: what mirrors are told is kept; `counted`: what they count from the beginning is known.
    """

    def __init__(self, agents: Agents, regions: Sequence[tree.Region], *, logged: bool, counted: bool) -> None:
        self.agents = agents
        self.regions = {region.name: region for region in regions}
        self.places = orders.places(regions)
        self.mirrors: dict[Mirrored, Mirror] = {}
        self._logged, self._counted = logged, counted
        self._processes = {tree.MAIN}
        self._sight: Sight | None = None
        self._pins: dict[str, list[tuple[int, int, int]]] = {}  # by process: page, reader, writer
        self._forgotten: dict[Mirrored, int] = {}
        self._events: dict[Mirrored, list[Logged]] = {}
        self._counters: dict[Mirrored, Counters] = {}
        self._group: Path | None = None
        self._charge = 0

    # Memory

    def span(self, pages: tree.Pages) -> Span:
        """Where pages of a region are."""
        return orders.within(self.places, pages)

    def declare(self, region: tree.Region) -> None:
        """Map it in the first process, populated as it says."""
        main = self.agents[tree.MAIN]
        span = self.places[region.name]
        self.map(tree.MAIN, span, region, fresh=True)
        if region.written is not None:
            for order in orders.stores(span, region.written):
                main.ask(*order)
        elif region.read:
            main.ask(lib.AGENT_LOAD, span.addr, span.npages)
        if region.rights != "read-write":
            main.call("mprotect", orders.MPROTECT, span.addr, span.bytes, words.RIGHTS[region.rights])

    def map(self, process: str, span: Span, region: tree.Region, *, fresh: bool = False) -> None:
        """mmap(2) of pages of a region as it was declared; a file that is mapped again is another one."""
        agent = self.agents[process]
        rights = words.RIGHTS["read-write" if fresh else region.rights]
        private, fd = region.kind in ("anonymous", "private file", "hugetlb"), -1
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        if region.kind in ("anonymous", "shared", "hugetlb"):
            flags |= mmap.MAP_ANONYMOUS
        if region.kind == "hugetlb":
            flags |= MAP_HUGETLB
        if region.kind == "memfd":
            fd = agent.call("memfd_create", _MEMFD, self._put(b"dmirror\0"), 0)
        elif region.kind == "private file":
            fd = agent.call("open", _OPEN, self._put(b"/tmp\0"), os.O_TMPFILE | os.O_RDWR, 0o600)
        if fd >= 0:
            agent.call("ftruncate", _FTRUNCATE, fd, span.bytes)
        agent.call("mmap", _MMAP, span.addr, span.bytes, rights, flags | MAP_FIXED_NOREPLACE, fd & orders.REGISTER, 0)
        if fd >= 0:
            agent.call("close", _CLOSE, fd)
        if region.huge and region.kind == "anonymous":
            agent.call("madvise", orders.MADVISE, span.addr, span.bytes, mmap.MADV_HUGEPAGE)

    def _put(self, data: bytes) -> int:
        """Its address, where every agent sees it until the next one."""
        self.agents.scratch[: len(data)] = data
        return int(lib.AGENT_SCRATCH)

    # What a process does

    def pin(self, process: str, span: Span) -> None:
        """A pipe for each page, which holds a reference on it (vmsplice(2))."""
        agent = self.agents[process]
        for page in range(span.npages):
            agent.call("pipe", _PIPE, self._put(bytes(8)))
            reader, writer = memoryview(self.agents.scratch[:8]).cast("i")
            self._pins.setdefault(process, []).append((span[page].addr, reader, writer))
            vector = span[page].addr.to_bytes(8, "little") + PAGE.to_bytes(8, "little")
            agent.call("vmsplice", _VMSPLICE, writer, self._put(vector), 1, 0)

    def unpin(self, process: str, span: Span) -> None:
        """Close the pipes of those pages."""
        agent = self.agents[process]
        for pin in [pin for pin in self._pins.get(process, []) if span.addr <= pin[0] < span.end]:
            self._pins[process].remove(pin)
            for fd in pin[1:]:
                agent.call("close", _CLOSE, fd)

    def move_to_node(self, process: str, span: Span, node: int) -> None:
        """move_pages(2). OSError as the call's, or with the status of the first page that was not moved."""
        npages = span.npages
        addresses = b"".join(span[page].addr.to_bytes(8, "little") for page in range(npages))
        at = self._put(addresses + node.to_bytes(4, "little") * npages + bytes(4 * npages))
        agent = self.agents[process]
        agent.call("move_pages", _MOVE_PAGES, 0, npages, at, at + 8 * npages, at + 12 * npages, _MPOL_MF_MOVE)
        status = memoryview(self.agents.scratch[12 * npages : 16 * npages]).cast("i")
        for page, number in enumerate(status):
            if number < 0:
                raise OSError(-number, f"move_pages of page {page} of {span}: {os.strerror(-number)}")

    def swap_out(self, process: str, span: Span) -> None:
        """MADV_PAGEOUT until nothing is present, and all of it is on disk. TimeoutError after PATIENCE."""
        agent = self.agents[process]
        until = time.monotonic() + PATIENCE
        while True:
            agent.call("madvise", orders.MADVISE, span.addr, span.bytes, words.ADVICES["pageout"])
            # Each processor adds what it has counted for itself. And pages that were just faulted in wait in a batch
            # of the processor for the list that reclaim looks at.
            Path("/proc/sys/vm/stat_refresh").write_text("1")
            # What is still being written is back at once, in the swap cache, and no device takes it from there.
            if not any(word >> 63 for word in span.pagemap(agent.pid)) and not _counts(_VMSTAT)["nr_writeback"]:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"{span} of {process} is still in memory after {PATIENCE:.0f} s of MADV_PAGEOUT")
            os.sched_yield()

    def split(self, process: str, span: Span) -> None:
        """Every huge page of the span, by debugfs."""
        if not _SPLIT.exists():
            raise Unsupported("this kernel has no /sys/kernel/debug/split_huge_pages: CONFIG_DEBUG_FS")
        _SPLIT.write_text(f"{self.agents[process].pid},{span.addr:#x},{span.end:#x}")

    # Processes

    def fork(self, parent: str, name: str) -> None:
        self.agents.fork(parent, name)
        self._processes.add(name)
        self._sight = None
        if parent in self._pins:
            self._pins[name] = list(self._pins[parent])

    def gone(self, name: str) -> None:
        """A process has ended, or is another program: what was its is not looked at any more."""
        self._processes.discard(name)
        self._sight = None
        self._pins.pop(name, None)

    def limit(self, pages: int | None) -> None:
        """The limit of all of the scenario's processes, in pages beyond what is charged now; None: none."""
        group = self.group()
        value = "max" if pages is None else str(int((group / "memory.current").read_text()) + pages * PAGE)
        (group / "memory.max").write_text(value)

    def group(self) -> Path:
        """The memory group of the scenario's processes, made when it is first asked for."""
        if self._group is None:
            if "memory" not in (_GROUPS / "cgroup.subtree_control").read_text():
                raise Unsupported("no memory control at /sys/fs/cgroup: mount cgroup2 there with the memory controller")
            self._group = _GROUPS / f"dmirror-scenario-{os.getpid()}"
            self._group.mkdir()
            for process in self._processes:
                (self._group / "cgroup.procs").write_text(str(self.agents[process].pid))
            self._charge = self._charged()
        return self._group

    def charged(self) -> int:
        """Pages charged since the group was made."""
        self.group()
        return self._charged() - self._charge

    def _charged(self) -> int:
        """Pages of memory that processes map or files have, by memory.stat: not the kernel's own for them."""
        assert self._group is not None
        stat = _counts(self._group / "memory.stat")
        return (stat["anon"] + stat["file"]) // PAGE

    # Mirrors

    def open(self, device: tree.Device) -> None:
        """The device mirrors the process; its log begins."""
        key = (device.name, device.process)
        number = tree.DEVICES[device.name]
        mirror = Mirror.received(self.agents[device.process].open(number), number)
        self.mirrors[key] = mirror
        self._sight = None
        if self._logged:
            os.set_blocking(mirror.fd, False)
            mirror.own("LOG", flags=lib.DMIRROR_LOG_START, records=_RECORDS)
            self._events[key] = []
            self._forgotten[key] = 0
        if self._counted:
            self._counters[key] = mirror.counters()

    def close(self, device: tree.Device) -> None:
        self.mirror(device).close()
        del self.mirrors[(device.name, device.process)]
        self._sight = None

    def mirror(self, device: tree.Device) -> Mirror:
        """The one that is open. OSError EBADF where it was closed."""
        mirror = self.mirrors.get((device.name, device.process))
        if mirror is None:
            raise OSError(errno.EBADF, f"{device.name} of {device.process} is closed")
        return mirror

    def counted(self, device: tree.Device, counter: str) -> int:
        """How far a counter has gone since the mirror was opened."""
        key = (device.name, device.process)
        return int(getattr(self.mirrors[key].counters() - self._counters[key], counter))

    def events(self, device: tree.Device) -> tuple[Event, ...]:
        """What the mirror itself was told since the last `forget events`, of the regions."""
        key = (device.name, device.process)
        self._read(key)
        return tuple(
            (event.type, event.owner or "", event.outcome.removesuffix(" atomic"), event.start, event.end, event.pages)
            for event in self._events[key][self._forgotten[key] :]
            if event.told and not event.watch and self._ours(event)
        )

    def _ours(self, event: Logged) -> bool:
        return event.end > BASE and event.start < address(len(self.regions))

    def _read(self, key: Mirrored) -> None:
        mirror = self.mirrors[key]
        size = ffi.sizeof("struct dmirror_event")
        while True:
            try:
                data = os.read(mirror.fd, 1024 * size)
            except BlockingIOError:
                return
            records = ffi.from_buffer("struct dmirror_event[]", data)
            self._events[key].extend(Logged.decode(record, self.places) for record in records)

    def forget(self) -> None:
        """From here on `events` counts anew."""
        for key in self.mirrors:
            self._read(key)
            self._forgotten[key] = len(self._events[key])

    def table(self) -> str:
        """All that the mirrors were told and did, for somebody who reads why a scenario failed."""
        parts = []
        for key in self.mirrors:
            self._read(key)
            lines = [
                f"  {event.type:<16}{event.place:<28}{event.owner or '':<6}{event.outcome:<10}{event.pages:>6}"
                f"  {event.said}".rstrip()
                for event in self._events[key]
                if self._ours(event)
            ]
            parts.append("\n".join([f"{key[0]} of {key[1]}:", *lines]))
        return "\n".join(parts)

    # To look at it

    def look(self) -> Raw:
        """What page tables of processes and devices have; nothing is faulted."""
        return self._see().look()

    def play(self, packed: Packed, taken: list[Entry | Stretch]) -> None:
        """Play steps in one call; `taken` gets what came of them, even if they do not come to their end. Raises as
        Agent.receive."""
        sight = self._see()
        before, ended = sight.last, []
        try:
            for data in sight.play(packed, [self._descriptor(who) for who in packed.who], self._late):
                ended.append(data)
        finally:
            taken.append(Stretch(before, sight.who, sight.regions, b"".join(ended)))

    def _descriptor(self, who: str | Mirrored) -> int:
        """An agent's channel, or a mirror; -1, and so EBADF, where that was closed."""
        if isinstance(who, str):
            return self.agents[who].channel
        return self.mirrors[who].fd if who in self.mirrors else -1

    def _late(self, who: str | Mirrored) -> None:
        assert isinstance(who, str)
        self.agents[who].late()

    def _see(self) -> Sight:
        if self._sight is None:
            self._sight = Sight(
                self.places,
                {key: mirror.fd for key, mirror in self.mirrors.items() if key[1] in self._processes},
                {name: agent.pagemap() for name, agent in self.agents.all.items() if name in self._processes},
            )
        return self._sight

    # The end

    def clear(self) -> bool:
        """Close what is open, end all processes but the first, and unmap its regions. Whether it can be used again."""
        for mirror in self.mirrors.values():
            mirror.close()
        for name in [name for name in self._processes if name != tree.MAIN]:
            self.gone(name)
        others = [agent for agent in self.agents.all.values() if agent.pid != self.agents.first]
        for agent in others:
            agent.kill()
        for agent in others:
            if agent.name in self.agents.all:
                self.agents.end(agent.name)
        whole = tree.MAIN in self._processes
        if whole and self._pins.get(tree.MAIN):
            for span in self.places.values():
                self.unpin(tree.MAIN, span)
        if whole:
            main: Agent = self.agents[tree.MAIN]
            main.call("munmap", orders.MUNMAP, BASE, len(self.regions) * SLOT)
        self.gone(tree.MAIN)
        if self._group is not None:
            if whole:
                (_GROUPS / "cgroup.procs").write_text(str(self.agents[tree.MAIN].pid))
            self._group.rmdir()
        return whole


def _counts(file: Path) -> dict[str, int]:
    """A file of names and numbers, as /proc/vmstat and memory.stat are."""
    return {name: int(number) for name, number in (line.split() for line in file.read_text().splitlines())}
