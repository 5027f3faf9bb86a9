# SPDX-License-Identifier: GPL-2.0
"""How the kernel writes each sort of complaint, and what one says in a line.

Sources: lib/bug.c, kernel/panic.c, arch/x86/mm/fault.c, mm/kasan/report.c, kernel/kcsan/report.c, lib/ubsan.c,
kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/hung_task.c, kernel/watchdog.c, mm/slub.c, mm/oom_kill.c.

Regular expressions are text, which re compiles when it meets it first, and keeps: what no guest sees costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NamedTuple


class Form(NamedTuple):
    """How one sort of complaint is written."""

    kind: str
    begins: str
    ends: str | None = None  # its last line; None: it is one line
    alone: bool = True  # begins a complaint also within another one's text, to which it cannot belong
    goes_on: str | None = None  # what still belongs to it after its end
    warns: bool = False  # a WARNING belongs to its text
    leads_to: str = ""  # if a complaint of this kind follows, it is that one's beginning


_TRACE = r"---\[ end (trace|Kernel panic)"
STACK = r"^ *</TASK>|---\[ end trace"
RULE = r"^={20,}$"
PANICKED = r"---\[ end Kernel panic"
_DUMPED = r"page dumped because"
_KILLED = r"[Oo]ut of memory.*: Kill(ed)? process|no killable processes"
# Registers again, stacks of other processors, repairs, locks.
_REGISTERS = r"^(RIP|RSP|Code|CS|FS|GS|CR2|DR\d|R[A-Z0-9]{2}): |^note: .* exited with|^Modules linked in:"
OTHERS = r"^Sending NMI|^\s*$|^Showing all locks held|^INFO: task .* blocked on "
_REPAIRS = r"^FIX |^---\[ end trace|^irq event stamp|^(hard|soft)irqs last "
_LOCKS = r"^\s*#\d+: |^-{5,}$|^\d+\.\d+\.\d+\S* #|leaving the kernel|locks? held by"
_INDENTED = r"^\s+\S"
_REAPED = r"^oom_reaper: "


def _forms(kind: str, *begins: str, **how: Any) -> tuple[Form, ...]:
    return tuple(Form(kind, text, **how) for text in begins)


(CUT,) = _forms("WARNING", r"-+\[ cut here \]-+", ends=_TRACE)
(PANIC,) = _forms("panic", r"(?<!end )Kernel panic - not syncing", ends=PANICKED)
# The first that matches a line says what it is.
FORMS = (
    CUT,
    *_forms("KASAN", r"BUG: KASAN:", ends=RULE),
    *_forms("KCSAN", r"BUG: KCSAN:", ends=RULE),
    *_forms("KMSAN", r"BUG: KMSAN:", ends=RULE),
    *_forms("KFENCE", r"BUG: KFENCE:", ends=RULE),
    *_forms("bad rss-counter", r"BUG: Bad rss-counter|BUG: non-zero pgtables_bytes"),
    *_forms("bad page state", r"BUG: Bad page (state|map): \d+ messages suppressed|BUG: Bad page cache"),
    *_forms("bad page state", r"BUG: Bad page state", ends=STACK),
    *_forms("bad page map", r"BUG: Bad (page map|rss)", ends=STACK),
    *_forms("soft lockup", r"BUG: soft lockup|BUG: workqueue lockup|[Hh]ard LOCKUP on cpu", ends=STACK, goes_on=OTHERS),
    *_forms("lockdep", r"WARNING: lock held when returning to user", goes_on=_LOCKS),
    *_forms(
        "lockdep",
        r"BUG: (sleeping function|scheduling (while atomic|in a non-blocking)|assuming )",
        r"WARNING: (possible |suspicious RCU|bad (unlock|contention)|inconsistent lock|.* still has locks held)",
        r"WARNING: (held lock freed|Nested lock|chain_key|\S+-safe -> \S+-unsafe)",
        r"\[ BUG: Invalid wait context \]|\[ BUG: .*locks? ",
        r"BUG: (MAX_LOCK|MAX_STACK_TRACE|key \S+ (has )?not|looking up invalid subclass)",
        r"INFO: trying to register|BUG: workqueue leaked",
        ends=STACK,
    ),
    *_forms("RCU stall", r"INFO: rcu\S* (self-)?detected.*stall", ends=STACK, goes_on=OTHERS),
    *_forms("hung task", r"INFO: task \S.* blocked .*more than \d+ seconds", ends=STACK, goes_on=OTHERS),
    *_forms("stack overflow", r"BUG: .*stack guard page was hit", ends=_TRACE, goes_on=_REGISTERS),
    *_forms("GPF", r"general protection fault", ends=_TRACE, goes_on=_REGISTERS),
    *_forms(
        "oops", r"BUG: kernel NULL pointer|BUG: unable to handle|^Unable to handle", ends=_TRACE, goes_on=_REGISTERS
    ),
    *_forms(
        "oops",
        r"(divide error|invalid opcode|stack segment|double fault|int3): ",
        r"Oops:|Oops -|[Ii]nternal error:|[Uu]nable to handle page fault",
        ends=_TRACE,
        goes_on=_REGISTERS,
        alone=False,
    ),
    *_forms("list corruption", r"list_(add|del)(_\w+)? corruption", alone=False),
    *_forms("slab corruption", r"^\[.* overwritten\] 0x", goes_on=RULE, leads_to="slab corruption"),
    *_forms("slab corruption", r"^BUG \S+ \(.*\): ", ends=STACK, goes_on=_REPAIRS, warns=True),
    *_forms("slab corruption", r"(slab|cache_from_obj).*corruption|Wrong slab cache", alone=False),
    *_forms("refcount", r"refcount_t: ", alone=False),
    *_forms("percpu ref", r"percpu.ref.*(<= 0|underflow)", alone=False),
    *_forms("ODEBUG", r"ODEBUG: (?!selftest passed|Out of memory)", alone=False),
    *_forms("UBSAN", r"UBSAN: ", ends=_TRACE, alone=False),
    *_forms("OOM", r"invoked oom-killer", ends=_KILLED, goes_on=_REAPED),
    *_forms("kmemleak", r"kmemleak: \d+ new suspected"),
    *_forms("kmemleak", r"^unreferenced object 0x", goes_on=_INDENTED),
    PANIC,
    *_forms("stack overflow", r"Kernel stack is corrupted|corrupted stack end|kernel stack overflow", ends=_TRACE),
    *_forms("BUG", r"kernel BUG at|BUG: ", ends=_TRACE, alone=False, goes_on=_REGISTERS),
    *_forms("WARNING", r"WARNING: ", ends=_TRACE, alone=False),
    *_forms("WARNING", r"INFO: NMI handler|sysfs: cannot create duplicate|kobject: .*tried to init", alone=False),
    *_forms("WARNING", r"[Tt]rying to (v?free\(?\)?|unmap) ", alone=False),
    # VM_WARN_ON_PAGE() and its kin show the page first.
    *_forms("bad page state", r"^page: ?(\S+ )?refcount:", ends=_DUMPED, alone=False, leads_to="WARNING"),
    *_forms("bad page state", r"page dumped because", alone=False),
)
# Each form's beginning has one of these: most lines are no beginning of anything, and looking for words is quick.
_WORDS = (
    *("BUG", "WARNING", "INFO", "cut here", "panic", "Oops", "UBSAN", "ODEBUG", "LOCKUP", "fault", "nable to handle"),
    *(
        "error",
        "invalid opcode",
        "stack",
        "int3",
        "corruption",
        "overwritten",
        "slab",
        "refcount",
        "percpu",
        "oom-killer",
    ),
    *("kmemleak", "unreferenced", "create duplicate", "tried to init", "rying to", "page dumped"),
)
# What stands in the text of a WARNING or BUG and says more than that.
_FINER = (
    *(form for form in FORMS if form.kind in ("list corruption", "refcount", "percpu ref", "ODEBUG", "UBSAN")),
    *_forms("slab corruption", r"cache_from_obj|[Ss]lab cache"),
    *_forms("lockdep", r"DEBUG_LOCKS_WARN_ON"),
)

# The kernel's own lines have at most 1,024 characters (LOG_LINE_MAX).
WIDEST = 1100
# What follows the lines in which a complaint says what it is about.
_DETAILS = r"Modules linked in:|CPU: \d|Call Trace:|Hardware name:|RIP: "

_SITE = r"WARNING: (?:CPU: \d+ PID: \d+ )?(?:at )?(\S+:\d+) (?:at )?([^\s+]+)\+0x"
_FUNCTION = r"^(?:RIP: [0-9a-f]+:|pc : )([^\s+]+\+0x\S+)"
_BY_KASAN = r"KASAN: (\S+) in range \S+"
_NUMBERED = r": [0-9a-f]{4,16} \[#\d+\].*"
_USAGE = r"^(\S+:\d+) .*usage!"
_OVERWRITTEN = r"^\[(.* overwritten)\] 0x"
_SIZE = r" \(size \d+\)"
# Of a backtrace the first function that does not allocate for others.
_OWNER = r"^ +(?:\[<\w+>\] )?((?!\S*(?:alloc|kmem_cache|kmemdup|kstrdup))\S+\+0x\S+)"
_SLAB = r"^BUG (\S+) \(.*?\): "
_WHY_DUMPED = r"^page dumped because: (.*)"
_KILLED_OR_NONE = r"(Memory cgroup out|Out) of memory.*"


def form(line: str) -> Form | None:
    """The form that a line begins, or names within one that has begun. No more than WIDEST characters of it."""
    if not any(word in line for word in _WORDS):
        return None
    return next((each for each in FORMS if re.search(each.begins, line)), None)


def head(lines: Iterable[str]) -> list[str]:
    """The lines before registers and stacks."""
    return [*takewhile(lambda line: not re.match(_DETAILS, line), lines)]


def said(lines: tuple[str, ...], name: int, kind: str) -> tuple[str, str]:
    """Kind and title of a complaint that has been found to be of a kind by the line `name`; -1 if by none."""
    lines = tuple(line[:WIDEST] for line in lines)
    if name < 0:
        name = next((at for at, line in enumerate(lines) if not re.search(CUT.begins, line)), 0)
    if kind in ("WARNING", "BUG"):
        kind, finer = next(
            ((each.kind, line) for each in _FINER for line in head(lines) if re.search(each.begins, line)), (kind, "")
        )
        if finer:
            return kind, _plain(finer)
    if kind == "WARNING":
        return kind, _warning(name, lines)
    line = lines[name].strip()
    by_kasan = _first(_BY_KASAN, lines[:20]) if kind in ("oops", "GPF") else None
    if by_kasan:
        # KASAN's inline checks fault in the shadow of what is dereferenced.
        kind, title = "oops" if by_kasan.group(1) == "null-ptr-deref" else kind, by_kasan.group()
    else:
        title = _DETAILED.get(kind, _as_it_is)(_plain(line), lines)
    function = _first(_FUNCTION, lines) if kind in _HAS_PLACE else None
    return kind, f"{title} in {function.group(1)}" if function else title


def _warning(name: int, lines: tuple[str, ...]) -> str:
    line = lines[name].strip()
    site = re.search(_SITE, line)
    if site is None:
        return line
    # WARN()'s own words stand right before its place, in older kernels right after.
    after = head(lines[name + 1 : name + 2])
    words = [word.strip() for word in (*lines[max(name - 1, 0) : name], *after) if not re.search(CUT.begins, word)]
    shown = _first(_WHY_DUMPED, lines[:name])
    words = [word for word in (*words, shown.group() if shown else "") if word]
    return _local(f"WARNING: {site.group(1)} at {site.group(2)}") + (f": {words[0]}" if words else "")


def _as_it_is(title: str, lines: tuple[str, ...]) -> str:
    return title


def _crash(title: str, lines: tuple[str, ...]) -> str:
    return re.sub(_NUMBERED, "", title).removeprefix("Oops: ")


def _lockdep(title: str, lines: tuple[str, ...]) -> str:
    usage = _first(_USAGE, lines)
    title = re.sub(r" detected!?$|!$|^\[ | \]$", "", title)
    return f"{title}: {usage.group(1)}" if usage and "RCU" in title else title


def _bad_page(title: str, lines: tuple[str, ...]) -> str:
    why = _first(_WHY_DUMPED, lines)
    return f"{title}: {why.group(1)}" if why and why.group() != title else title


def _rss(title: str, lines: tuple[str, ...]) -> str:
    return re.sub(r" mm:\S+", "", title)


def _slab(title: str, lines: tuple[str, ...]) -> str:
    which = _first(_OVERWRITTEN, lines)
    return re.sub(_SLAB, r"slab \1: ", title) + (f": {which.group(1)}" if which else "")


def _stall(title: str, lines: tuple[str, ...]) -> str:
    return re.sub(r":( \{.*)?$", "", title)


def _leak(title: str, lines: tuple[str, ...]) -> str:
    size, owner = _first(_SIZE, lines), _first(_OWNER, lines)
    return f"unreferenced object{size.group()}" + (f" of {owner.group(1)}" if owner else "") if size else title


def _oom(title: str, lines: tuple[str, ...]) -> str:
    ended = _first(_KILLED_OR_NONE, lines)
    return ended.group() if ended else title


_DETAILED = {
    "lockdep": _lockdep,
    "bad page state": _bad_page,
    "bad rss-counter": _rss,
    "slab corruption": _slab,
    "RCU stall": _stall,
    "kmemleak": _leak,
    "OOM": _oom,
    "oops": _crash,
    "GPF": _crash,
}
_HAS_PLACE = ("oops", "GPF", "BUG", "stack overflow", "soft lockup", "RCU stall")


def _first(pattern: str, lines: Iterable[str]) -> re.Match[str] | None:
    return next((found for found in map(re.compile(pattern).search, lines) if found), None)


def _plain(line: str) -> str:
    """Without the words that every complaint of a kind begins with."""
    return _local(re.sub(r"^.{0,40}?\b(?:BUG|WARNING|INFO): ", "", line.strip()))


def _local(title: str) -> str:
    """Without the folders of a module's file: before v6.13 they are all there."""
    return re.sub(r"(?<= )/\S*/(?=[^\s/]+:\d+)", "", title)
