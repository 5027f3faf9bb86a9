# SPDX-License-Identifier: GPL-2.0
"""What could have stood where a scenario's text goes wrong, in words of the language."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from dmirror.scenario import words
from dmirror.scenario.faults import Fault, listed, nearest
from dmirror.scenario.lexer import KEYWORDS, SIGNS, Tokens, tokens
from dmirror.scenario.text import format_subject, subject
from dmirror.scenario.tree import DEVICES, MAIN, At

_SPELLED = {token: repr(word) for word, token in reversed(KEYWORDS.items())} | {MAIN: repr(MAIN)}
_SPELLED |= {token: repr(sign) for token, sign in SIGNS.items()}
_SPELLED |= {"NEWLINE": "the end of the line", "STRING": 'a title in "…"', "RELEASE": "a kernel's series such as 6.12"}
_SPELLED |= {"ID": "a contract's id such as Z-02", "NUMBER": "a number", "COUNT": "a count such as x3"}
_SPELLED |= {"MIRROR": f"a device ({listed(DEVICES)})"}

# A name, by the rule that takes it.
_NAMED = {
    "place": ["a region's name"],
    "actor": ["a process's name"],
    "new": ["a new name"],
    "resource": [*map(repr, words.NEEDS[:-2])],
    "advice": ["an advice such as 'dontneed'"],
    "capability": ["a capability such as 'device_thp'"],
    "counter": ["a counter such as 'pages_to_device'"],
    "where": [*map(repr, words.PLACES)],
    "allowed": [*map(repr, words.ALLOWED)],
    "config": ["an option such as CONFIG_KSM"],
    "errno": ["an errno such as EFAULT"],
    "signal": ["a signal such as SIGSEGV"],
    "event": [f"an event ({listed(words.EVENTS)})"],
}
_VOCABULARY: dict[str, Iterable[str]] = {
    "resource": words.NEEDS,
    "advice": words.ADVICES,
    "capability": words.CAPABILITIES,
    "counter": words.COUNTERS,
    "where": words.PLACES,
    "allowed": words.ALLOWED,
    "event": words.EVENTS,
}
# Never asked for: they stand for something else than text.
_HIDDEN = {"START", "BAD", "NOTHING", "error", "INDENT", "DEDENT", "$end"}
_OF_DEVICES = ("MIGRATES", "PEEKS", "TAKES", "SNAPSHOTS", "EVICTS", "CLOSES", "OPENS")
_OF_PROCESSES = (
    *("ADDS", "FORKS", "STARTS", "EXITS", "EXECS", "DIES", "MAPS", "UNMAPS", "PROTECTS", "MOVES", "ADVISES"),
    *("LOCKS", "UNLOCKS", "PINS", "UNPINS", "SWAPS", "COLLAPSES", "SPLITS", "LIMITS", "LIFTS"),
)
_STARTS = ("CONTRACT", "NEEDS", "REGION", "PAR", "COLUMN", "EXPECT", "FORGET")
_BEFORE = ("START", "INDENT", "DEDENT", "EXPECT", "ALWAYS", "NEVER", "SOMETIMES")  # who does or has something
_ORDER = (*tokens, "error", "$end")
_OPENS = 'a scenario begins with its title: scenario "what it shows"'


BROKEN = object()
"""In the place of an item that could not be read."""


class Expected:
    """The part of a grammar that yacc calls where no rule goes on."""

    parser: Any
    given: Tokens
    faults: list[Fault]
    said: set[tuple[str, int]]
    stack: list[int]
    """The states that yacc was in when it took its last token: it may reduce before it finds that no rule goes on."""

    def next(self) -> Any:
        """The token that yacc takes next, None at the end."""
        self.stack = list(self.parser.statestack)
        return self.given.token()

    def p_error(self, token: Any) -> None:
        """Say so, unless that only follows from what was said; yacc then goes on behind the end of the line."""
        expected = self._expected()
        first = self.given.all[1:2]
        if first and first[0].type != "SCENARIO" and (token is None or token.lineno == first[0].lineno):
            at = At(first[0].lineno, first[0].lexpos, first[0].endlexpos - first[0].lexpos)
            self.faults.append(Fault.at(at, _OPENS, nearest(self._word(first[0]), ["scenario"])))
            return
        if first and first[0].type != "SCENARIO" and token is not None and token.type == "SCENARIO":
            return  # here it is
        if token is None or token.type in ("DEDENT", "INDENT"):
            self._ended(token, expected)
            return
        at = At(token.lineno, token.lexpos, token.endlexpos - token.lexpos)
        if token.type == "BAD":
            self.faults.append(Fault.at(at, token.value.message, token.value.suggestion))
        elif token.type in ("RESUMES", "COLUMN") and (token.after_broken or self._after_broken()):
            pass
        elif token.type == "RESUMES" and "RESUMES" not in expected and "READS" in expected:
            self.faults.append(Fault.at(at, "there is nothing held here that could be resumed"))
        elif token.type == "SCENARIO":
            self.faults.append(Fault.at(at, "there is a title already"))
        elif (begun := self._begun()) is not None:
            self.faults.append(begun)
        elif set(expected) == {"COLUMN"}:
            if not token.after_broken and self._first(
                token, "in a par stands 'column', and its steps are indented below that"
            ):
                self.faults.append(Fault.at(at, "in a par stands 'column', and its steps are indented below that"))
        elif not self._unresumed(at):
            self.faults.append(Fault.at(at, self._message(token, expected), self._suggested(token, expected)))

    # The state that yacc is in

    def _expected(self) -> dict[str, set[str]]:
        """The tokens that can come, and for each by which rules it would be taken in."""
        found = {}
        for token in sorted(self.parser.action[self.stack[-1]], key=_ORDER.index):
            if token not in _HIDDEN and (state := self._reached(token)) is not None:
                taken = [act for act in self.parser.action[state].values() if act < 0]
                found[token] = {self.parser.productions[-act].name for act in taken}
        if "SCENARIO" in found:
            return {"SCENARIO": found["SCENARIO"]}
        if "READS" in found:  # whatever is said of RESUMES is said above
            found.pop("RESUMES", None)
        if "PAR" in found:
            found.pop("COLUMN", None)
        if "COMMA" in found:
            found.pop("LIST", None)
        return found

    def _reached(self, token: str) -> int | None:
        """The state behind that token: None where it cannot come, whatever is reduced before it."""
        parser, stack = self.parser, list(self.stack)
        while (act := parser.action[stack[-1]].get(token)) is not None:
            if act >= 0:
                return int(act)
            rule = parser.productions[-act]
            if rule.len:
                del stack[-rule.len :]
            stack.append(parser.goto[stack[-1]][rule.name])
        return None

    def _after_broken(self) -> bool:
        """Whether the item before could not be read."""
        symbols = [symbol for symbol in self.parser.symstack if hasattr(symbol, "type")]
        lists = [symbol.value for symbol in symbols if symbol.type in ("items", "lines")]
        return "broken_line" in [symbol.type for symbol in symbols] or (bool(lists) and lists[-1][-1:] == [BROKEN])

    def _first(self, token: Any, message: str) -> bool:
        """Whether that is not said yet of the block that this stands in."""
        blocks = [symbol.lineno for symbol in self.parser.symstack if getattr(symbol, "type", "") == "INDENT"]
        key = (message, blocks[-1] if blocks else token.lineno)
        new = key not in self.said
        self.said.add(key)
        return new

    # What to say

    def _begun(self) -> Fault | None:
        """Where a line begins with a word that nothing begins with."""
        *before, last = self.parser.symstack
        if last.type != "NAME" or before[-1].type not in ("lines", "title", "items", "INDENT", "broken_line"):
            return None
        made = self._made()
        if last.value in made:
            return None
        starts = [word for word, kind in KEYWORDS.items() if kind in _STARTS]
        said = f"{last.value!r} is no process here, and nothing else begins with it"
        suggestion = nearest(last.value, [*starts, *made, MAIN, *DEVICES])
        return Fault(last.lineno, last.lexpos, last.endlexpos - last.lexpos, said, suggestion)

    def _ended(self, token: Any, expected: dict[str, set[str]]) -> None:
        """A block, or the text, is over too early."""
        last = self.given.all[-1] if token is None else token
        at = At(max(last.lineno, 1), last.lexpos)
        if not self._unresumed(at):
            said = _OPENS if "SCENARIO" in expected else f"something is missing here: {self._spelled(expected)}"
            self.faults.append(Fault.at(at, said))
        if token is not None:  # yacc would drop it, and look for the end of a line behind it
            again = type(token)()
            again.__dict__.update(token.__dict__)
            self.given.again(again)
            token.type = "NEWLINE"

    def _unresumed(self, at: At) -> bool:
        """Say it where the block of a held step is over, and what holds it is not."""
        symbols = self.parser.symstack
        kinds = [getattr(symbol, "type", "") for symbol in symbols]
        if "hold" not in kinds or kinds[-1] == "items":
            return False
        place = len(kinds) - 1 - kinds[::-1].index("hold")
        if kinds[place + 1 : place + 5] != ["NEWLINE", "INDENT", "items", "DEDENT"]:
            return False
        step = symbols[place - 3].value
        if symbols[place + 2].lineno == step.at.line:
            return True  # its block is missing, which is said
        who = format_subject(subject(step))
        said = f"the step of line {step.at.line} is held: '{who} resumes' has to follow its block"
        self.faults.append(Fault.at(at, said))
        return True

    def _message(self, token: Any, expected: dict[str, set[str]]) -> str:
        word = self._word(token)
        could = self._spelled(expected)
        if "NAME" in expected and {"new", "place", "actor"} & expected["NAME"]:
            if word in KEYWORDS:
                return f"{word!r} is a word of the language, and cannot be a name; expected {could}"
            if token.type == "COUNT":
                return f"{word!r} is a number of times, and cannot be a name; expected {could}"
        if token.type in _OF_DEVICES and "FORKS" in expected:
            return f"{word!r} is what a device does, as in 'A {word}', and not a process"
        if token.type in _OF_PROCESSES and "MIGRATES" in expected:
            return f"{word!r} is what a process does, as in 'CPU {word}', and not a device"
        found = "the line ends here" if token.type == "NEWLINE" else f"{word!r} cannot stand here"
        return f"{found}; expected {could}"

    def _word(self, token: Any) -> str:
        if token.type == "NEWLINE":
            return ""
        line = self.given.lines[token.lineno - 1]
        return str(line[token.lexpos - 1 : token.endlexpos - 1])

    def _spelled(self, expected: dict[str, set[str]]) -> str:
        said = []
        for token, rules in expected.items():
            named = [_NAMED[rule] for rule in sorted(rules) if rule in _NAMED] if token in ("NAME", "CAPITALS") else []
            said += [text for texts in named for text in texts] or [_SPELLED[token]]
        return listed(dict.fromkeys(said)) if said else "nothing"

    def _suggested(self, token: Any, expected: dict[str, set[str]]) -> str:
        word = self._word(token)
        if token.type in ("EQUALS", "IS") and (sign := {"EQUALS": "IS", "IS": "EQUALS"}[token.type]) in expected:
            return SIGNS[sign]
        if token.type in ("HELD", "WAITS") and "COMMA" in expected:
            return f", {word}"
        if whose := self._whose(token):
            return whose
        if "WHERE" in expected and word in self._after("REGION"):
            return f"where {word}"
        could = [word for word, kind in KEYWORDS.items() if kind in expected]
        could += [MAIN] if MAIN in expected else []
        could += DEVICES if "MIRROR" in expected else []
        for rules in (expected.get("NAME", set()), expected.get("CAPITALS", set())):
            for rule in rules & _VOCABULARY.keys():
                could += _VOCABULARY[rule]
            if rules & {"place", "actor"}:
                could += sorted(self._named())
        return nearest(word, could) if word not in could else ""

    def _whose(self, token: Any) -> str:
        """Of `A reads buf of kid`, `CPU reads buf of kid` and `where kid buf`, how the language says it."""
        of_line = self.given.of_line[token.lineno]
        before = [other for other in of_line if other.lexpos < token.lexpos and other.type not in _BEFORE]
        kinds = [other.type for other in before]
        if kinds[-2:] in (["WHERE", "NAME"], ["RIGHTS", "NAME"]) and token.value in self._after("REGION"):
            return f"{self._word(before[-2])} {token.value} of {before[-1].value}"
        if token.type != "OF" or "OF" in kinds:
            return ""
        whose = next(other for other in of_line if other.lexpos > token.lexpos)
        if len(before) < 3 or before[0].type not in ("MIRROR", "NAME", MAIN) or whose.type not in ("NAME", MAIN):
            return ""
        line = self.given.lines[token.lineno - 1]
        done = line[before[0].endlexpos : before[-1].endlexpos - 1]
        who = f"{before[0].value} of {whose.value}" if before[0].type == "MIRROR" else whose.value
        return f"{who} {done}"

    def _after(self, *kinds: str) -> set[str]:
        """The names that stand behind such words."""
        pairs = pairwise(self.given.all)
        return {name.value for word, name in pairs if word.type in kinds and name.type == "NAME"}

    def _made(self) -> set[str]:
        """The processes and threads that the text makes, wherever it does."""
        return self._after("FORKS", "THREAD", "WITH")

    def _named(self) -> set[str]:
        """The names that the text has so far."""
        return {token.value for token in self.given.all if token.type == "NAME"}
