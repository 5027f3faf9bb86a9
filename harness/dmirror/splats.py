# SPDX-License-Identifier: GPL-2.0
"""What in a kernel log is a complaint: where it begins and ends, of which kind it is, what it says in one line.

Pure: no device and no file but qemu/harmless.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from dmirror import splatforms
from dmirror.paths import QEMU
from dmirror.splatforms import CUT, OTHERS, PANIC, PANICKED, RULE, STACK, Form

KINDS = (
    "WARNING",
    "BUG",
    "oops",
    "GPF",
    "KASAN",
    "KCSAN",
    "KMSAN",
    "KFENCE",
    "UBSAN",
    "lockdep",
    "RCU stall",
    "hung task",
    "soft lockup",
    "bad page state",
    "bad page map",
    "bad rss-counter",
    "refcount",
    "percpu ref",
    "list corruption",
    "slab corruption",
    "stack overflow",
    "ODEBUG",
    "kmemleak",
    "OOM",
    "panic",
)
"""Of complaints. `lockdep` has all that is wrong with locks and contexts, sleeping in atomic context among it."""

TEST_STARTS = "dmirror-test: "
"""Begins the message that plugin/splat.py writes when a test starts. No complaint goes on beyond it."""


class Message(str):
    """A message of the kernel log, and who said it: "T92" or "C1" where the kernel has PRINTK_CALLER, else ""."""

    __slots__ = ("caller",)
    caller: str

    def __new__(cls, text: str, caller: str = "") -> Message:
        message = super().__new__(cls, text)
        message.caller = caller
        return message


class Splat(NamedTuple):
    """One complaint of the kernel."""

    kind: str  # of KINDS
    title: str  # in one line what it says
    lines: tuple[str, ...]

    @property
    def head(self) -> str:
        """What it is about, without registers and stacks."""
        return "\n".join(splatforms.head(self.lines))

    def __str__(self) -> str:
        return "\n".join(self.lines)


# A text that lacks its own end does not swallow the rest of the log, and a log full of beginnings does not grow.
_LONGEST = 250
_MOST_AT_ONCE = 8

_BACKTRACE = r"^NMI backtrace for (?!.*skipped)"
# A panic for these reasons is the end of the complaint before it.
_CONSEQUENCE = (
    r"not syncing: (Fatal exception|Fatal hardware|.*panic_on_|hung_task:|softlockup:|RCU Stall|kernel stack overflow"
    r"|System is deadlocked on memory|Out of memory|Attempted to kill init|Hard LOCKUP)"
)

# What has file and function: a complaint has one such line.
_PLACES = {"WARNING": r"WARNING: .*\+0x", "BUG": r"kernel BUG at"}

_PREFIX = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *([TC]\d+)[^\]]*\])? ?|^<\d+>(?:\[ *([TC]\d+)\] ?)?")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def messages(console: str) -> list[str]:
    """The messages of a console log, without terminal escapes, level, time and caller; parse() still knows that."""
    found: list[str] = []
    # Not splitlines(): what ends a line for Unicode is only a character to the kernel.
    for line in console.removesuffix("\n").split("\n"):
        text = _ESCAPES.sub("", line)
        prefix = _PREFIX.match(text)
        if prefix is None:
            found.append(Message(text))
        else:
            found.append(Message(text[prefix.end() :], prefix.group(1) or prefix.group(2) or ""))
    return found


def parse(messages: Iterable[str]) -> list[Splat]:
    """The complaints in a piece of kernel log, in the order in which they begin: messages without prefixes of time.

    Every line of a complaint is in one of them at least. One that is cut off by the end of the log is one, too.
    """
    reader = _Reader()
    for message in messages:
        caller = message.caller if isinstance(message, Message) else ""
        for line in message.split("\n"):
            reader.read(line, caller)
    return [text.splat() for text in reader.found]


class _Harmless(NamedTuple):
    """An entry of qemu/harmless.toml."""

    regex: re.Pattern[str]  # found in the head
    kinds: tuple[str, ...]  # none: of any kind
    unless: re.Pattern[str] | None  # found anywhere in it
    reason: str


@cache
def _harmless() -> tuple[_Harmless, ...]:
    with (QEMU / "harmless.toml").open("rb") as file:
        entries = tomllib.load(file)["line"]
    return tuple(
        _Harmless(
            re.compile(entry["regex"]),
            tuple(entry.get("kinds", ())),
            re.compile(entry["unless"]) if "unless" in entry else None,
            entry["reason"],
        )
        for entry in entries
    )


def harmless(splat: Splat) -> str | None:
    """Why that complaint is none to us, as qemu/harmless.toml has it; None where it is one."""
    text = str(splat)
    return next(
        (
            each.reason
            for each in _harmless()
            if (not each.kinds or splat.kind in each.kinds)
            and each.regex.search(splat.head)
            and not (each.unless and each.unless.search(text))
        ),
        None,
    )


def complaints(messages: Iterable[str]) -> list[Splat]:
    """What parse() finds, without what is harmless."""
    return [splat for splat in parse(messages) if harmless(splat) is None]


@dataclass
class _Text:
    """A complaint while it is read."""

    form: Form
    ends: str | None
    lines: list[str]
    name: int  # of these the one that says what it is
    placed: bool  # its line with file and function has been seen, or there is none
    own: int | None = None  # where another began within it
    over: bool = False

    def splat(self) -> Splat:
        lines = tuple(self.lines)
        own = lines if self.name >= (self.own or len(lines)) else lines[: self.own]
        kind, title = splatforms.said(own, self.name, self.form.kind)
        return Splat(kind, title, lines)


@dataclass
class _Group:
    """Complaints that began within one another. Two processors that speak at once cannot be told apart without
    PRINTK_CALLER: each complaint gets every line until all of them have ended."""

    texts: list[_Text]
    live: bool = True  # the line before was part of it


class _Reader:
    def __init__(self) -> None:
        self.found: list[_Text] = []
        self._groups: dict[str, _Group] = {}  # by caller
        self._newest: _Group | None = None  # of all callers
        self._before: dict[str, str] = {}  # the line before, by caller

    def read(self, line: str, caller: str) -> None:
        if line.startswith(TEST_STARTS):
            self._groups.clear()
            self._before.clear()
            self._newest = None
            return
        short = line[: splatforms.WIDEST]
        form = splatforms.form(short)
        group = self._groups.get(caller)
        if group is not None and group.live:
            group.live = _goes_on(group, form, short)
        if group is not None and group.live:
            self._within(group, form, line, short)
        elif form is PANIC and re.search(_CONSEQUENCE, short) and (earlier := group or self._newest):
            self._again(earlier, PANICKED, line, short, caller)
        elif re.search(_BACKTRACE, short) and self._newest and self._newest.texts[-1].form.goes_on == OTHERS:
            self._again(self._newest, STACK, line, short, caller)
        elif form is not None:
            self._newest = self._groups[caller] = _Group([])
            self._begin(self._newest, form, self._before.get(caller, ""))
            self._append(self._newest, line, short)
        self._before[caller] = line

    def _again(self, group: _Group, ends: str, line: str, short: str, caller: str) -> None:
        group.live = True
        group.texts[-1].ends, group.texts[-1].over = ends, False
        self._groups[caller] = group
        self._append(group, line, short)

    def _begin(self, group: _Group, form: Form, before: str) -> None:
        for text in group.texts:
            text.own = len(text.lines) if text.own is None else text.own
        lines = [before] if re.search(RULE, before) else []
        placed = form is not CUT and not form.warns and (form.alone or form.kind in _PLACES)
        text = _Text(form, form.ends, lines, -1 if form is CUT else len(lines), placed)
        text.over = form.ends is None
        self.found.append(text)
        group.texts = [*group.texts[1 - _MOST_AT_ONCE :], text]

    def _within(self, group: _Group, form: Form | None, line: str, short: str) -> None:
        newest = group.texts[-1]
        unnamed = next((text for text in group.texts if text.name < 0), None)
        if form is None:
            pass
        elif form is PANIC and re.search(_CONSEQUENCE, short):
            newest.ends, newest.over = form.ends, False
        elif form.alone and form.kind == newest.form.leads_to:
            newest.form, newest.ends, newest.over = form, form.ends, False
            newest.name = -1 if form is CUT else len(newest.lines)
            newest.placed = not form.warns and form is not CUT
        elif _is_words_of(newest, form):
            newest.ends, newest.over, newest.placed = form.ends, False, True
        elif form.kind in _PLACES and re.search(_PLACES[form.kind], short):
            unplaced = next((text for text in group.texts if not text.placed), None)
            if unplaced is None:
                self._begin(group, form, newest.lines[-1])
            else:
                unplaced.placed = True
                if unplaced.name < 0:
                    unplaced.name, unplaced.form = len(unplaced.lines), form
        elif form.alone and not (form is CUT and newest.form.warns):
            self._begin(group, form, newest.lines[-1])
        elif unnamed is not None:
            unnamed.name = len(unnamed.lines)
            unnamed.form = form
        self._append(group, line, short)

    def _append(self, group: _Group, line: str, short: str) -> None:
        for text in group.texts:
            text.lines.append(line)
        ended = next(
            (text for text in group.texts if not text.over and text.ends and re.search(text.ends, short)), None
        )
        if ended is not None:
            ended.over = True


def _goes_on(group: _Group, form: Form | None, short: str) -> bool:
    newest = group.texts[-1]
    if len(newest.lines) >= _LONGEST:
        return False
    if not all(text.over for text in group.texts):
        return True
    if form is not None and form.alone:
        return form.kind == newest.form.leads_to
    if form is not None and _is_words_of(newest, form):
        return True
    return newest.form.goes_on is not None and re.search(newest.form.goes_on, short) is not None


def _is_words_of(text: _Text, form: Form) -> bool:
    """Whether a line that is a complaint by itself is what a WARN() says before its place: the console does not show
    "cut here" (lib/bug.c says it at KERN_INFO)."""
    return len(text.lines) == 1 and not text.form.alone and text.form.ends is None and form.kind in ("WARNING", "BUG")
