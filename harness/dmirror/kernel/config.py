# SPDX-License-Identifier: GPL-2.0
"""Config fragments: what a flavour asks for, made into a .config, every option of it verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmirror.errors import CannotRun, Untestable
from dmirror.kernel.kconfig import Kconfig
from dmirror.paths import QEMU

_FRAGMENTS = QEMU / "config"
_NOT_FLAVOURS = ("base", "required")

_SET = re.compile(r'CONFIG_(\w+)=("(?:[^"\\]|\\.)*"|[^\s#]+)\s*(?:#\s*(.*))?$')
_UNSET = re.compile(r"# CONFIG_(\w+) is not set\s*(?:#\s*(.*))?$")
_CONDITION = re.compile(r"only if (\w+) (?:depends on (\w+)|exists)$")


@dataclass(frozen=True)
class Option:
    """One line of a fragment. `remark` is the comment behind it: a condition, or a reason."""

    name: str  # without CONFIG_
    value: str
    remark: str
    where: str  # file:line

    def counts(self, kconfig: Kconfig) -> bool:
        """Whether the line's condition holds in that tree; a line without one always counts."""
        condition = _CONDITION.match(self.remark)
        if not condition:
            return True
        name, on = condition.groups()
        return kconfig.depends_on(name, on) if on else kconfig.has(name)

    def line(self) -> str:
        return f"# CONFIG_{self.name} is not set" if self.value == "n" else f"CONFIG_{self.name}={self.value}"


def flavours(folder: Path = _FRAGMENTS) -> tuple[str, ...]:
    """Every flavour: `default`, and one for each further fragment."""
    further = sorted(path.stem for path in folder.glob("*.config") if path.stem not in (*_NOT_FLAVOURS, "default"))
    return ("default", *further)


def options(flavour: str, folder: Path = _FRAGMENTS, *, given: Sequence[str] = ()) -> tuple[Option, ...]:
    """The options of a flavour: base.config, overridden by its own fragment, then by what is `given`. CannotRun."""
    known = flavours(folder)
    if flavour not in known:
        raise CannotRun(f"FLAVOUR={flavour} is not a known flavour", f"known are {', '.join(known)}")
    own = folder / f"{flavour}.config"
    merged = {option.name: option for option in read_fragment(folder / "base.config")}
    if own.exists():
        merged |= {option.name: option for option in read_fragment(own)}
    of_given = [_option(line, f"--config {line}") for line in given]
    if of_given:
        _check_needed(of_given)
    merged |= {option.name: option for option in of_given}
    return tuple(merged.values())


def read_fragment(path: Path) -> list[Option]:
    """All options of one fragment. Raises CannotRun for a line that is neither an option nor a comment."""
    lines = [(number, text.strip()) for number, text in enumerate(path.read_text().splitlines(), 1)]
    return [
        _option(line, f"{path.name}:{number}")
        for number, line in lines
        if line and (not line.startswith("#") or _UNSET.match(line))
    ]


def _check_needed(given: Sequence[Option]) -> None:
    """Raise CannotRun where what is given is not as it is needed: the kernel would be built and not boot."""
    needed = {option.name: option for option in read_fragment(_FRAGMENTS / "required.config")}
    for option in given:
        other = needed.get(option.name)
        if other and other.value != option.value:
            raise CannotRun(
                f"{option.where}: {other.value} is needed by the {other.remark}", f"leave out {option.name}"
            )


def _option(line: str, where: str) -> Option:
    if match := _SET.match(line):
        return Option(match.group(1), match.group(2), match.group(3) or "", where)
    if match := _UNSET.match(line):
        return Option(match.group(1), "n", match.group(2) or "", where)
    raise CannotRun(f"{where}: {line!r} is not an option", "write CONFIG_NAME=value")


def read_config(path: Path) -> dict[str, str]:
    """The options that a .config sets, names without CONFIG_; one that is off is not in it."""
    return {match.group(1): match.group(2) for line in path.read_text().splitlines() if (match := _SET.match(line))}


def wrong(wanted: Sequence[Option], config: Mapping[str, str]) -> list[Option]:
    """The options that are not in `config` what they should be."""
    return [option for option in wanted if config.get(option.name, "n") != option.value]


def verify(wanted: Sequence[Option], config: Mapping[str, str], kconfig: Kconfig) -> None:
    """Raise CannotRun naming the options that did not take, each with the dependency that kept it off."""
    failed = wrong(wanted, config)
    if not failed:
        return
    first, *others = failed
    also = f"; neither did {', '.join('CONFIG_' + option.name for option in others)}" if others else ""
    raise Untestable(
        "build",
        f"{first.where}: CONFIG_{first.name}={first.value} did not take, it is {config.get(first.name, 'n')};"
        f" {kconfig.explain(first.name, first.value, config)}{also}",
        "add what is off to the fragment, or take the option out of it",
    )


def check_built(config: Mapping[str, str], *, where: Path | str, who: str | None = None) -> None:
    """Check the .config of a kernel that we did not configure against required.config.

    `who` limits the check to what the `driver` or the `guest` needs. Raises CannotRun naming the missing
    options, who needs them, and the mend.
    """
    required = read_fragment(_FRAGMENTS / "required.config")
    missing = wrong([option for option in required if option.remark.startswith(who or "")], config)
    if not missing:
        return
    first, *others = missing
    also = f" (also missing: {', '.join('CONFIG_' + option.name for option in others)})" if others else ""
    raise CannotRun(
        f"{where} has CONFIG_{first.name}={config.get(first.name, 'n')}, {first.value} is needed by the "
        f"{first.remark}{also}",
        "build it with " + " ".join(option.line() for option in missing[:3]) + (" ..." if len(missing) > 3 else ""),
    )


def digest(path: Path) -> str:
    """Of the options of a .config; its comments are no part of it, they name the tree's version."""
    return _digest(f"{name}={value}" for name, value in sorted(read_config(path).items()))


def request_digest(wanted: Sequence[Option]) -> str:
    """Of what a flavour asks for, conditions included: known before any tree has been configured."""
    conditions = (option.remark if _CONDITION.match(option.remark) else "" for option in wanted)
    return _digest(f"{option.line()} {condition}" for option, condition in zip(wanted, conditions, strict=True))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
