# SPDX-License-Identifier: GPL-2.0
"""A scenario as text, as `dmirror fmt` writes it: parsed, it is the same tree again."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

from dmirror.scenario import tree
from dmirror.scenario.lexer import INDENT
from dmirror.scenario.tree import MAIN, At, Comment

_TIMES = {0: "never", 1: "once", 2: "twice"}


def format(scenario: tree.Scenario) -> str:
    """The whole file. Comments and blank lines are where they were, as far as the tree knows lines."""
    title = scenario.title.replace("\\", "\\\\").replace('"', '\\"')
    page = _Page(sorted(scenario.comments, key=lambda comment: comment.at.line))
    page.line(f'scenario "{title}"', scenario.at)
    if scenario.contracts:
        page.line(f"contract {', '.join(scenario.contracts)}", scenario.contract_at)
    for need in scenario.needs:
        page.line(format_need(need), need.at)
    if scenario.regions and scenario.regions[0].at == tree.NOWHERE:
        page.blank()
    for region in scenario.regions:
        page.line(_region(region), region.at)
    if scenario.items and scenario.items[0].at == tree.NOWHERE:
        page.blank()
    page.items(scenario.items, 0, None)
    page.rest()
    return "\n".join(page.lines) + "\n"


def format_item(item: tree.Item) -> list[str]:
    """The lines of one item, those of its blocks indented."""
    page = _Page([])
    page.items((item,), 0, None)
    return [line for line in page.lines if line]


def format_pages(pages: tree.Pages) -> str:
    """`buf`, `buf[3]` or `buf[2:6]`."""
    if pages.stop is None:
        return pages.region if pages.first == 0 else f"{pages.region}[{pages.first}:]"
    only = pages.stop == pages.first + 1
    return f"{pages.region}[{pages.first}]" if only else f"{pages.region}[{pages.first}:{pages.stop}]"


def subject(step: tree.Step) -> tree.Actor | tree.Device:
    """Who does it."""
    who: tree.Actor | tree.Device = getattr(step, "device", None) or step.actor  # type: ignore[attr-defined]
    return who


def format_subject(who: tree.Actor | tree.Device) -> str:
    """`CPU`, `A`, or `A of kid`."""
    return _device(who) if isinstance(who, tree.Device) else who.name


@dataclass
class _Page:
    """The lines so far, and the comments that none of them has yet."""

    comments: list[Comment]
    lines: list[str] = field(default_factory=list)
    last: int = 0  # the line of the file that the last line is, 0: of none

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def line(self, text: str, at: At, depth: int = 0) -> None:
        """One line, with the comments that stand before it and behind it."""
        if at != tree.NOWHERE:
            while self.comments and self.comments[0].at.line < at.line:
                self._comment(depth)
        self._gap(at)
        self.lines.append(" " * INDENT * depth + text)
        if at != tree.NOWHERE and self.comments and self.comments[0].at.line == at.line:
            self.lines[-1] += f"  {_hash(self.comments.pop(0))}"

    def _gap(self, at: At) -> None:
        if self.last and at.line > self.last + 1:
            self.blank()
        self.last = at.line

    def _comment(self, depth: int) -> None:
        comment = self.comments.pop(0)
        self._gap(comment.at)
        self.lines.append(" " * INDENT * depth + _hash(comment))

    def items(self, items: tuple[tree.Item, ...], depth: int, after: At | None) -> None:
        """`after`: where that stands which follows them."""
        for number, item in enumerate(items, 1):
            following = items[number].at if number < len(items) else after
            if isinstance(item, tree.Par):
                self._par(item, depth, following)
                continue
            self.line(_line(item), item.at, depth)
            if isinstance(item, tree.Step) and item.held:
                self.items(item.block, depth + 1, item.resumes)
                self._end(item.at, item.resumes, depth + 1)
                self.line(f"{_subject(item)} resumes", item.resumes, depth)

    def _par(self, par: tree.Par, depth: int, after: At | None) -> None:
        self.line("par" if par.times == 1 else f"par {par.times} times", par.at, depth)
        places = par.columns_at or (tree.NOWHERE,) * len(par.columns)
        for column, at, following in zip(par.columns, places, (*places[1:], after), strict=True):
            self.line("column", at, depth + 1)
            self.items(column, depth + 2, following)
            self._end(at, following, depth + 2)
        self._end(par.at, after, depth + 1)

    def _end(self, opened: At, after: At | None, depth: int) -> None:
        """The comments at the end of a block: those that are indented deeper than what opened it."""
        while (
            self.comments
            and self.comments[0].at.column > opened.column
            and (after is None or self.comments[0].at.line < after.line)
        ):
            self._comment(depth)

    def rest(self) -> None:
        while self.comments:
            self._comment(0)


def _hash(comment: Comment) -> str:
    return f"# {comment.text}".rstrip()


def format_need(need: tree.Need | tree.NeedKernel) -> str:
    """A line such as `needs swap`."""
    if isinstance(need, tree.Need):
        return f"needs {need.what} {need.value}".rstrip()
    low, high = (f"{release[0]}.{release[1]}" if release else "" for release in (need.low, need.high))
    if not low:
        return f"needs kernel before {high}"
    return f"needs kernel {low} or newer" + (f", before {high}" if high else "")


def _region(region: tree.Region) -> str:
    unit = ("huge " if region.huge else "") + ("page" if region.count == 1 else "pages")
    said = [f"region {region.name}: {region.kind} {region.count} {unit}"]
    if region.rights != "read-write":
        said.append(region.rights)
    if region.written:
        said.append(f"written {_value(region.written)}")
    if region.read:
        said.append("read")
    if region.shared_with:
        said.append(f"shared with {region.shared_with}")
    return ", ".join(said)


def _value(value: tree.Value) -> str:
    numbers = ", ".join(map(hex if value.hexadecimal else str, value.numbers))
    return f"numbered from {numbers}" if value.numbered else numbers


def _device(device: tree.Device) -> str:
    return device.name if device.process == MAIN else f"{device.name} of {device.process}"


def _subject(step: tree.Step) -> str:
    return format_subject(subject(step))


def _line(item: tree.Item) -> str:
    match item:
        case tree.Expect():
            return " ".join(["expect", *([item.verdict] if item.verdict else []), _expectation(item)])
        case tree.Forget():
            return "forget events"
        case tree.Step():
            return f"{_subject(item)} {_deed(item)}{_outcome(item)}{_tail(item)}"
    raise TypeError(f"{item!r} is no item of one line")


def _outcome(step: tree.Step) -> str:
    match step.outcome:
        case tree.Value() as value:
            return f" == {_value(value)}"
        case tree.Fails(name):
            return f" {'raises' if isinstance(step, tree.Load | tree.Store | tree.Add) else 'fails'} {name}"
    return ""


def _tail(step: tree.Step) -> str:
    if step.held:
        by = f" by {_device(step.held.by)}" if step.held.by else ""
        return f", held {step.held.point}{by}"
    return ", waits" if step.waits else ""


def _deed(step: tree.Step) -> str:  # noqa: PLR0911, PLR0912  (one for each)
    match step:
        case tree.Load() | tree.DeviceRead():
            return f"reads {format_pages(step.pages)}"
        case tree.Store() | tree.DeviceWrite():
            return f"writes {format_pages(step.pages)} = {_value(step.value)}"
        case tree.Add():
            return f"adds {step.amount} to {format_pages(step.pages)}"
        case tree.Call():
            return _call(step)
        case tree.Limit():
            return f"limits memory to {_pages(step.pages)}" if step.pages is not None else "lifts the memory limit"
        case tree.Fork():
            return f"forks {step.child.name}"
        case tree.Thread():
            return f"starts thread {step.thread.name}"
        case tree.Leave() | tree.Turn():
            return step.how
        case tree.Peek():
            return f"peeks {format_pages(step.pages)}"
        case tree.Migrate():
            return f"migrates {format_pages(step.pages)} to {step.to}"
        case tree.Exclusive():
            return f"takes {format_pages(step.pages)} exclusively"
        case tree.Snapshot():
            return f"snapshots {format_pages(step.pages)}"
        case tree.Evict():
            return "evicts everything"
        case tree.Inject():
            return f"fails its next {step.what}" if step.nth == 1 else f"fails its {step.what} {step.nth}"
    raise TypeError(f"{step!r} is no step of the language")


def _call(call: tree.Call) -> str:
    pages = format_pages(call.pages)
    match call.verb:
        case "protects":
            return f"protects {pages} {call.rights}"
        case "moves" if call.to:
            return f"moves {pages} to {format_pages(call.to)}"
        case "advises":
            return f"advises {pages} {call.advice}"
        case "moves to node":
            return f"moves {pages} to node {call.number}"
    return f"{call.verb} {pages}"


def _pages(count: int) -> str:
    return f"{count} {'page' if count == 1 else 'pages'}"


def _each(words: tuple[str, ...]) -> str:
    """`A A ram`, and `A x3` from three on."""
    said = []
    for word, run in groupby(words):
        count = len(list(run))
        said += [f"{word} x{count}"] if count > 2 else [word] * count
    return " ".join(said)


def _of(process: str) -> str:
    return "" if process == MAIN else f" of {process}"


def _expectation(expect: tree.Expect) -> str:
    match expect:
        case tree.Where():
            return f"where {format_pages(expect.pages)}{_of(expect.process)} == {_each(expect.places)}"
        case tree.Allowed():
            return f"rights {format_pages(expect.pages)}{_of(expect.process)} == {_each(expect.rights)}"
        case tree.Maps():
            maps = "maps" if expect.mapped else "does not map"
            return f"{_device(expect.device)} {maps} {format_pages(expect.pages)}"
        case tree.Saw():
            return _saw(expect)
        case tree.Counts():
            return f"{_device(expect.device)} counted {expect.number} {expect.counter}"
        case tree.Charged():
            return f"{_pages(expect.pages)} charged"
    raise TypeError(f"{expect!r} is no expectation of the language")


def _saw(saw: tree.Saw) -> str:
    said = f"{_device(saw.device)} saw {saw.event}"
    said += f" from {saw.owner}" if saw.owner else ""
    said += f" over {format_pages(saw.over)}" if saw.over else ""
    said += f", {saw.outcome}" if saw.outcome else ""
    if saw.times is not None:
        said += f", {_TIMES.get(saw.times, f'{saw.times} times')}"
    return said
