# SPDX-License-Identifier: GPL-2.0
"""Reads a tree's Kconfig files, to explain why an option did not take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

# A parsed expression: ("sym", name), ("not", e), ("and", a, b), ("or", a, b), ("cmp", operator, left, right).
Expr = tuple[object, ...]

_TOKEN = re.compile(r"""\s*(&&|\|\||!=|<=|>=|[!=<>()]|"[^"]*"|'[^']*'|\$|[\w.\-/]+)""")
_OPENERS = re.compile(r"(?:menuconfig|config)\s+(\w+)$")
_CONSTANTS = {"y": 2, "m": 1, "n": 0}
_ON = {"y": 2, "m": 1}
_MACRO = "$"  # what stands for $(...): only kconfig can ask the compiler, so it counts as met
_NO_NAME = (_MACRO, '"', "'")
_ENOUGH = " (one of them is enough)"


@dataclass
class Definition:
    """One `config` block: where it stands and everything it depends on, enclosing menus included."""

    name: str
    where: str
    depends: list[str] = field(default_factory=list)
    prompt: bool = False
    prompt_if: str | None = None
    type: str = ""


class Kconfig:
    """The options of one tree, for one architecture."""

    def __init__(self, tree: Path, *, srcarch: str = "x86") -> None:
        self._tree = tree
        self._srcarch = srcarch

    @cached_property
    def _options(self) -> dict[str, list[Definition]]:
        found: dict[str, list[Definition]] = {}
        self._read("Kconfig", [], found)
        return found

    def has(self, name: str) -> bool:
        return name in self._options

    def depends_on(self, name: str, on: str) -> bool:
        """Whether a `depends on` of option `name`, or of what encloses it, names the option `on`."""
        return any(on in symbols(parse(expr)) for each in self._options.get(name, []) for expr in each.depends)

    def explain(self, name: str, wanted: str, config: Mapping[str, str]) -> str:
        """Why option `name` did not become `wanted` in `config` (names without CONFIG_ to values)."""
        definitions = self._options.get(name)
        if not definitions:
            return f"this tree has no option {name}"
        reasons = []
        for each in definitions:
            off = [why for expr in each.depends for why in unmet(parse(expr), config)]
            if off:
                depends = " && ".join(f"({expr})" if "||" in expr else expr for expr in each.depends)
                reasons.append(f"it depends on {depends}, and {' and '.join(dict.fromkeys(off))} ({each.where})")
            elif not each.prompt:
                reasons.append(f"it has no prompt, other options select it ({each.where})")
            elif each.prompt_if and (hidden := unmet(parse(each.prompt_if), config)):
                reasons.append(f"its prompt shows only if {each.prompt_if}, and {' and '.join(hidden)} ({each.where})")
            elif wanted == "n":
                reasons.append(f"another option selects it ({each.where})")
            elif wanted == "m" and each.type == "bool":
                reasons.append(f"it is a bool, m is not one of its values ({each.where})")
            elif asked := [expr for expr in each.depends if "$(" in expr]:
                reasons.append(f"the compiler may not meet {' && '.join(asked)} ({each.where})")
            else:
                reasons.append(f"its dependencies are met; is {wanted} one of its values? ({each.where})")
        return "; ".join(dict.fromkeys(reasons))

    def _read(self, name: str, enclosing: list[str], found: dict[str, list[Definition]]) -> None:
        stack: list[str] = list(enclosing)
        depth: list[int] = []  # how much of `stack` to keep when the innermost block ends
        current: Definition | None = None
        scope: str | None = None  # "menu" or "choice" while its own attributes may follow
        for number, line in _logical_lines(self._tree / name):
            word, _, rest = line.partition(" ")
            rest = rest.strip()
            opener = _OPENERS.match(line)
            if opener:
                current = Definition(opener.group(1), f"{name}:{number}", depends=list(stack))
                found.setdefault(current.name, []).append(current)
                scope = None
            elif word in ("if", "menu", "choice"):
                depth.append(len(stack))
                if word == "if":
                    stack.append(rest)
                current, scope = None, word
            elif word in ("endif", "endmenu", "endchoice"):
                del stack[depth.pop() :]
                current = scope = None
            elif word == "source":
                self._source(rest, stack, found)
                current = scope = None
            elif word in ("comment", "mainmenu"):
                current = scope = None
            elif line.startswith("depends on "):
                expr = _implied(line.removeprefix("depends on ").strip())
                if current:
                    current.depends.append(expr)
                elif scope in ("menu", "choice"):
                    stack.append(expr)
            elif current:
                _attribute(current, word, rest)

    def _source(self, quoted: str, stack: list[str], found: dict[str, list[Definition]]) -> None:
        name = quoted.strip("\"'")
        for variable in ("SRCARCH", "HEADER_ARCH"):
            name = name.replace(f"$({variable})", self._srcarch).replace(f"${variable}", self._srcarch)
        if (self._tree / name).is_file():
            self._read(name, stack, found)


def parse(text: str) -> Expr:
    """Parse a Kconfig expression. Raises ValueError when it is not one."""
    expr, rest = _or(list(_tokens(text)))
    if rest:
        raise ValueError(f"unexpected {rest[0]!r} in {text!r}")
    return expr


def symbols(expr: Expr) -> set[str]:
    """All option names in an expression."""
    if expr[0] == "sym":
        name = str(expr[1])
        return set() if name in _CONSTANTS or name[0] in _NO_NAME else {name}
    return set().union(*(symbols(part) for part in expr[1:] if isinstance(part, tuple)))


def value(expr: Expr, config: Mapping[str, str]) -> int:
    """The tristate value of an expression: 0 n, 1 m, 2 y."""
    match expr:
        case ("sym", str(name)):
            if name in _CONSTANTS or name == _MACRO:
                return _CONSTANTS.get(name, 2)
            return _ON.get(config.get(name, "n"), 0)
        case ("not", tuple(part)):
            return 2 - value(part, config)
        case ("and", tuple(left), tuple(right)):
            return min(value(left, config), value(right, config))
        case ("or", tuple(left), tuple(right)):
            return max(value(left, config), value(right, config))
        case ("cmp", str(operator), tuple(left), tuple(right)):
            return 2 if _compare(operator, _text(left, config), _text(right, config)) else 0
    raise ValueError(f"not an expression: {expr!r}")


def unmet(expr: Expr, config: Mapping[str, str]) -> list[str]:
    """In words, what keeps an expression from being true: nothing when it is."""
    if value(expr, config) > 0:
        return []
    match expr:
        case ("and", tuple(left), tuple(right)):
            return unmet(left, config) + unmet(right, config)
        case ("or", tuple(left), tuple(right)):
            both = " and ".join(unmet(left, config) + unmet(right, config))
            return [f"{both.replace(_ENOUGH, '')}{_ENOUGH}"]
        case ("sym", str(name)):
            return [f"{name} is off"]
        case ("not", tuple(part)):
            return [f"{', '.join(sorted(symbols(part)))} is on"]
    return [f"{_show(expr)} does not hold"]


def _logical_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without comments, continuation joined and help texts left out."""
    help_indent: int | None = None
    in_help = False
    joined = ""
    for number, raw in enumerate(path.read_text(errors="replace").splitlines(), 1):
        text = raw.expandtabs()
        if in_help:
            indent = len(text) - len(text.lstrip())
            if not text.strip():
                continue
            if help_indent is None and indent > 0:
                help_indent = indent
            if help_indent is not None and indent >= help_indent:
                continue
            in_help, help_indent = False, None
        line = joined + text.strip()
        if line.endswith("\\"):
            joined = line[:-1]
            continue
        joined = ""
        if line in ("help", "---help---"):
            in_help = True
        elif line and not line.startswith("#"):
            yield number, re.sub(r"\s+#.*$", "", line) if '"' not in line else line


def _attribute(definition: Definition, word: str, rest: str) -> None:
    if word in ("bool", "tristate", "int", "hex", "string", "prompt"):
        if word != "prompt":
            definition.type = word
        prompt = re.match(r"(\"[^\"]*\"|'[^']*')\s*(?:if\s+(.*))?$", rest)
        if prompt:
            definition.prompt = True
            definition.prompt_if = prompt.group(2)
    elif word in ("def_bool", "def_tristate"):
        definition.type = word.removeprefix("def_")


def _implied(text: str) -> str:
    """`A if B`, as newer trees write it, in the words of older ones."""
    expr, conditional, condition = text.partition(" if ")
    return f"!({condition}) || ({expr})" if conditional else text


def _tokens(text: str) -> Iterator[str]:
    """The tokens of an expression; a macro call, brackets and all, is one `$`."""
    at = 0
    while match := _TOKEN.match(text, at):
        at = match.end()
        if match.group(1) == _MACRO:
            depth = 0
            for at in range(match.end(), len(text)):
                depth += {"(": 1, ")": -1}.get(text[at], 0)
                if depth == 0:
                    break
            at += 1
        yield match.group(1)
    if text[at:].strip():
        raise ValueError(f"unexpected {text[at:].strip()!r} in {text!r}")


def _or(tokens: list[str]) -> tuple[Expr, list[str]]:
    left, rest = _and(tokens)
    while rest and rest[0] == "||":
        right, rest = _and(rest[1:])
        left = ("or", left, right)
    return left, rest


def _and(tokens: list[str]) -> tuple[Expr, list[str]]:
    left, rest = _atom(tokens)
    while rest and rest[0] == "&&":
        right, rest = _atom(rest[1:])
        left = ("and", left, right)
    return left, rest


def _atom(tokens: list[str]) -> tuple[Expr, list[str]]:
    if not tokens:
        raise ValueError("an expression ends too early")
    first, rest = tokens[0], tokens[1:]
    if first == "!":
        part, rest = _atom(rest)
        return ("not", part), rest
    if first == "(":
        part, rest = _or(rest)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket is not closed")
        return part, rest[1:]
    left: Expr = ("sym", first)
    if rest and rest[0] in ("=", "!=", "<", ">", "<=", ">="):
        if len(rest) < 2:
            raise ValueError("an expression ends too early")
        return ("cmp", rest[0], left, ("sym", rest[1])), rest[2:]
    return left, rest


def _text(expr: Expr, config: Mapping[str, str]) -> str:
    name = str(expr[1])
    if name[0] in "\"'":
        return name[1:-1]
    return name if name in _CONSTANTS or name[0].isdigit() else config.get(name, "n").strip('"')


def _compare(operator: str, left: str, right: str) -> bool:
    if operator in ("=", "!="):
        return (left == right) == (operator == "=")
    try:
        one, other = int(left, 0), int(right, 0)
    except ValueError:
        return False
    return {"<": one < other, ">": one > other, "<=": one <= other, ">=": one >= other}[operator]


def _show(expr: Expr) -> str:
    return f"{_show_atom(expr[2])} {expr[1]} {_show_atom(expr[3])}" if expr[0] == "cmp" else repr(expr)


def _show_atom(expr: object) -> str:
    return str(expr[1]) if isinstance(expr, tuple) else str(expr)
