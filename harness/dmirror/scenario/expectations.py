# SPDX-License-Identifier: GPL-2.0
"""What a scenario's file expects against what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dmirror.scenario import tree, words
from dmirror.scenario.record import SLOT, Event, Looked, Outcome
from dmirror.scenario.seen import Memory, Page

_PAGE = 4096  # bytes

_HOLDS: dict[str | None, Callable[[Sequence[bool]], bool]] = {
    None: all,
    "always": all,
    "never": lambda held: not any(held),
    "sometimes": any,
}


def wrong_outcome(step: tree.Step, outcome: Outcome) -> list[str]:
    """How a step ended that should have ended otherwise, a sentence or none."""
    wanted = step.outcome
    if isinstance(wanted, tree.Fails):
        if outcome.failed != words.canonical(wanted.name):
            return [f"{outcome.failed or 'it succeeded'}; expected {wanted.name}"]
        return []
    if wanted is None:
        return [f"{outcome.failed}; nothing is said of a failure"] if outcome.failed else []
    if outcome.failed:
        return [f"{outcome.failed}; expected {_numbers(wanted.numbers)}"]
    numbers = wanted.of(len(outcome.values))
    if outcome.values != numbers:
        return [f"read {_numbers(outcome.values)}; expected {_numbers(numbers)}"]
    return []


def _numbers(numbers: Sequence[int]) -> str:
    if len(set(numbers)) == 1 and len(numbers) > 1:
        return f"{numbers[0]} in each of {len(numbers)} pages"
    return ", ".join(str(number) for number in numbers[:16]) + (", …" if len(numbers) > 16 else "")


def wrong(item: tree.Expect, seen: Sequence[Memory], looked: Looked, addresses: dict[str, int]) -> Iterator[str]:
    """Why an expectation does not hold; `seen` is what was there, behind a `par` after each of its rounds."""
    match item:
        case tree.Saw():
            yield from _saw(item, looked.events, addresses)
        case tree.Counts():
            if looked.number != item.number:
                yield f"{item.counter} went on by {looked.number}; expected {item.number}"
        case tree.Charged():
            if abs(looked.number - item.pages) > looked.slack:
                yield f"{looked.number} pages are charged, up to {looked.slack} more or less; expected {item.pages}"
        case _:
            found = [_found(item, memory) for memory in seen]
            if not _HOLDS[item.verdict]([not text for text in found]):
                texts = list(dict.fromkeys(text for text in found if text)) or ["it held each time"]
                times = f"{item.verdict}, in {len(seen)} rounds: " if item.verdict else ""
                yield times + "; ".join(texts[:3])


def _found(item: tree.Expect, memory: Memory) -> str:
    """What is there instead of what is expected, "" where it is as expected."""
    if isinstance(item, tree.Where):
        return _differs(item.places, [page.place for page in _pages(memory, item.process, item.pages)])
    if isinstance(item, tree.Allowed):
        return _differs(item.rights, [page.rights for page in _pages(memory, item.process, item.pages)])
    assert isinstance(item, tree.Maps)
    pages = _pages(memory, item.device.process, item.pages)
    mapped = [item.device.name in page.entries for page in pages]
    if all(has == item.mapped for has in mapped):
        return ""
    return f"of {len(pages)} pages it maps " + (", ".join(str(n) for n, has in enumerate(mapped) if has) or "none")


def _pages(memory: Memory, process: str, pages: tree.Pages) -> Sequence[Page]:
    return memory.get(process, {}).get(pages.region, [])[pages.first : pages.stop]


def _differs(wanted: Sequence[str], found: Sequence[str]) -> str:
    every = list(wanted) * len(found) if len(wanted) == 1 else list(wanted)
    return "" if found and every == list(found) else f"found {runs(found)}"


def named(device: tree.Device) -> str:
    """`A`, or `A of kid`."""
    return device.name if device.process == tree.MAIN else f"{device.name} of {device.process}"


def runs(words: Sequence[str]) -> str:
    """`A A A ram` as the language says it: `A x3 ram`."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(words) + 1):
        if end == len(words) or words[end] != words[start]:
            parts.append(words[start] if end - start == 1 else f"{words[start]} x{end - start}")
            start = end
    return " ".join(parts) or "nothing"


def _saw(item: tree.Saw, events: Sequence[Event], addresses: dict[str, int]) -> Iterator[str]:
    found = [event for event in events if _is(item, event, addresses)]
    if item.times is None:
        if not found:
            yield f"it saw none; it saw {_listed(events)}"
    elif len(found) != item.times:
        yield f"it saw {len(found)}, expected {item.times}; it saw {_listed(events)}"


def _is(item: tree.Saw, event: Event, addresses: dict[str, int]) -> bool:
    kind, owner, outcome, start, end, _ = event
    if kind != item.event or (item.outcome and outcome != item.outcome):
        return False
    if item.owner and owner != ("own" if item.owner == item.device.name else "other"):
        return False
    if item.over is None:
        return True
    base = addresses[item.over.region]
    first = base + item.over.first * _PAGE
    last = base + (SLOT if item.over.stop is None else item.over.stop * _PAGE)
    return start < last and end > first


def _listed(events: Sequence[Event]) -> str:
    said = [f"{kind}{f' ({owner})' if owner else ''} {outcome}" for kind, owner, outcome, *_ in events]
    return ", ".join(said) or "nothing"
