# SPDX-License-Identifier: GPL-2.0
"""A scenario as a C program that stands alone: what it can do of it, in at most 80 lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dmirror.scenario import tree, words
from dmirror.scenario.record import address
from dmirror.scenario.text import format_item

MOST_LINES = 80

_HEAD = r"""#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct cmd { uint64_t addr, ptr, npages, cpages, faults; };	/* lib/test_hmm_uapi.h */
enum { READ, WRITE, TO_DEVICE, TO_SYSTEM, SNAPSHOT, EXCLUSIVE, RELEASE = 7 };
volatile int *now;	/* the step whose turn it is, of all processes */
int me, pid[3], fd[3][4];	/* processes by number, their mirrors by device */
uint64_t data[512 * 8];

/* For process @who at step @n, once, in its turn. */
#define AT(n, who) for (; me == (who) && turn(n); *now = (n) + 1)
#define FAILED(what) do { if ((what) < 0) printf("step %d: %s\n", *now, strerror(errno)); } while (0)

static int turn(int n)
{
	while (*now < n)
		sched_yield();
	return *now == n;
}

static void device(int call, int on, char *addr, int npages, uint64_t value, int more)
{
	struct cmd cmd = { .addr = (uintptr_t)addr, .ptr = (uintptr_t)data, .npages = npages };

	for (int i = 0; i < npages; i++)
		data[i * 512] = value + i * more;
	FAILED(ioctl(on, _IOWR('H', call, struct cmd), &cmd));
}
"""
_CALLS = {
    "unmaps": "munmap({a}, {b})",
    "locks": "mlock({a}, {b})",
    "unlocks": "munlock({a}, {b})",
}


class _Cannot(Exception):
    """It cannot say this."""


def program(scenario: tree.Scenario) -> str:
    """The program. A comment in it says what it leaves out."""
    return _Program(scenario).text()


class _Program:
    def __init__(self, scenario: tree.Scenario) -> None:
        self._scenario = scenario
        self._regions = {region.name: number for number, region in enumerate(scenario.regions)}
        self._processes = {tree.MAIN: 0}
        self._parents: dict[str, int] = {}
        self._left_out: list[str] = []

    def text(self) -> str:
        body = ["", "int main(void)", "{"]
        body.append("\tnow = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);")
        for region in self._scenario.regions:
            body += self._region(region)
        for device, process in tree.mirrors(tree.walk(self._scenario.items)):
            if process == tree.MAIN:
                body.append(f"\t{_opened(device, 0)}")
        steps = list(self._steps())
        end = ["\treturn 0;", "}"]
        head = _HEAD.splitlines()
        room = MOST_LINES - len(head) - len(body) - len(end) - 7
        fitting = len(steps)
        while sum(map(len, steps[:fitting])) > room:
            fitting -= 1
        if fitting < len(steps):
            self._left_out.insert(0, f"the last {len(steps) - fitting} steps, for want of room")
        said = [f" * {line}" for line in self._left_out[:3]]
        if len(self._left_out) > 3:
            said[2] += f", and {len(self._left_out) - 3} more"
        comment = ["// SPDX-License-Identifier: GPL-2.0", f"/* {self._scenario.title.replace('*/', '')}"]
        comment += [" * Left out:", *said, " */"] if said else [" */"]
        return "\n".join([*comment, *head, *body, *chain.from_iterable(steps[:fitting]), *end]) + "\n"

    def _region(self, region: tree.Region) -> list[str]:
        flags = "MAP_SHARED" if region.kind in ("shared", "memfd") else "MAP_PRIVATE"
        if region.kind in ("memfd", "private file"):
            self._left_out.append(f"{region.name} is {region.kind} memory: it is anonymous here")
        pages = tree.Pages(region.name, 0, region.count)
        whole = self._at(pages)
        lines = [f"\tmmap({whole}, PROT_READ | PROT_WRITE, {flags} | MAP_ANONYMOUS | MAP_FIXED, -1, 0);"]
        if region.written:
            lines.append(f"\t{self._store(pages, region.written)}")
        elif region.read:
            lines.append(f"\t{self._each(pages)} *(volatile char *)({self._page(pages)});")
        if region.rights != "read-write":
            lines.append(f"\tmprotect({whole}, {words.RIGHTS[region.rights]});")
        return lines

    def _steps(self) -> Iterator[list[str]]:
        """The lines of each."""
        number = 0
        for item in self._scenario.items:
            try:
                lines = list(self._step(item, number))
            except _Cannot:
                self._left_out.append(format_item(item)[0].partition(",")[0])
                continue
            yield lines
            number += 1

    def _step(self, item: tree.Item, n: int) -> Iterator[str]:
        match item:
            case tree.Fork():
                yield from self._fork(item, n)
            case tree.Leave(actor, how) if how != "execs":
                who, parent = self._processes[actor.name], self._parents[actor.name]
                yield f"\tif (me == {who} && turn({n})) _exit(0);"
                yield f"\tAT({n}, {parent}) waitpid(pid[{who}], NULL, 0);"
            case tree.Load() | tree.Store() | tree.Add():
                yield f"\tAT({n}, {self._processes[item.actor.name]}) {self._access(item)}"
            case tree.Call():
                yield f"\tAT({n}, {self._processes[item.actor.name]}) FAILED({self._call(item)});"
            case tree.Step() if hasattr(item, "device"):
                if item.held:
                    self._left_out.append(
                        f"{format_item(item)[0].partition(', held')[0]} is held, and the steps meanwhile"
                    )
                yield f"\tAT({n}, {self._processes[item.device.process]}) {self._on_device(item)}"
            case _:
                raise _Cannot

    def _fork(self, step: tree.Fork, n: int) -> Iterator[str]:
        child = self._processes[step.child.name] = len(self._processes)
        if child > 2:
            raise _Cannot
        parent = self._parents[step.child.name] = self._processes[step.actor.name]
        yield f"\tif (me == {parent} && turn({n})) {{"
        yield f"\t\tif (!(pid[{child}] = fork())) {{"
        yield f"\t\t\tme = {child};"
        for device in tree.opened_at_fork(list(tree.walk(self._scenario.items)), step.child.name):
            yield f"\t\t\t{_opened(device, child)}"
        yield f"\t\t\t*now = {n + 1};"
        yield "\t\t}"
        yield "\t}"

    # Expressions

    def _at(self, pages: tree.Pages) -> str:
        """The address and the length."""
        count = next(region.count for region in self._scenario.regions if region.name == pages.region)
        stop = count if pages.stop is None else pages.stop
        start = address(self._regions[pages.region]) + pages.first * 4096
        return f"(char *){start:#x}, {stop - pages.first} * 4096"

    def _npages(self, pages: tree.Pages) -> str:
        return self._at(pages).rpartition(", ")[2].partition(" ")[0]

    def _page(self, pages: tree.Pages) -> str:
        return f"{self._at(pages).partition(',')[0]} + i * 4096"

    def _each(self, pages: tree.Pages) -> str:
        return f"for (int i = 0; i < {self._npages(pages)}; i++)"

    def _store(self, pages: tree.Pages, value: tree.Value) -> str:
        if not value.numbered and len(value.numbers) > 1:
            raise _Cannot
        more = " + i" if value.numbered else ""
        return f"{self._each(pages)} *(volatile uint64_t *)({self._page(pages)}) = {value.numbers[0]}{more};"

    def _access(self, step: tree.Load | tree.Store | tree.Add) -> str:
        if isinstance(step, tree.Store):
            return self._store(step.pages, step.value)
        word = f"(volatile uint64_t *)({self._page(step.pages)})"
        if isinstance(step, tree.Add):
            return f"{self._each(step.pages)} __atomic_fetch_add({word}, {step.amount}, __ATOMIC_SEQ_CST);"
        return f'{self._each(step.pages)} printf("reads %#lx\\n", (long)*{word});'

    def _call(self, step: tree.Call) -> str:
        at = self._at(step.pages)
        first, length = at.split(", ")
        match step.verb:
            case "protects" if step.rights is not None:
                return f"mprotect({at}, {words.RIGHTS[step.rights]})"
            case "advises":
                return f"madvise({at}, {words.ADVICES[step.advice]} /* {step.advice} */)"
            case "moves" if step.to is not None:
                new = self._at(step.to).partition(",")[0]
                return f"(long)mremap({at}, {length}, MREMAP_MAYMOVE | MREMAP_FIXED, {new})"
            case "maps":
                return f"(long)mmap({at}, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)"
        if step.verb not in _CALLS:
            raise _Cannot
        return _CALLS[step.verb].format(a=first, b=length)

    def _on_device(self, step: tree.Step) -> str:  # noqa: PLR0911  (one for each)
        device: tree.Device = step.device  # type: ignore[attr-defined]
        on = f"fd[{self._processes[device.process]}][{tree.DEVICES[device.name]}]"
        match step:
            case tree.Turn(_, "closes"):
                return f"close({on});"
            case tree.Turn():
                return _opened(device.name, self._processes[device.process])
            case tree.Evict():
                return f"device(RELEASE, {on}, 0, 1, 0, 0);"
            case tree.DeviceRead(_, pages):
                return self._range("READ", on, pages)
            case tree.DeviceWrite(_, pages, value):
                return self._range("WRITE", on, pages, value.numbers[0], value.numbered)
            case tree.Migrate(_, pages, to):
                return self._range(f"TO_{to.upper()}", on, pages)
            case tree.Exclusive(_, pages):
                return self._range("EXCLUSIVE", on, pages)
            case tree.Snapshot(_, pages):
                return self._range("SNAPSHOT", on, pages)
        raise _Cannot

    def _range(self, call: str, on: str, pages: tree.Pages, value: int = 0, numbered: bool = False) -> str:
        start = self._at(pages).partition(",")[0]
        return f"device({call}, {on}, {start}, {self._npages(pages)}, {value}, {int(numbered)});"


def _opened(device: str, process: int) -> str:
    number = tree.DEVICES[device]
    return f'fd[{process}][{number}] = open("/dev/hmm_dmirror{number}", O_RDWR | O_CLOEXEC);'
