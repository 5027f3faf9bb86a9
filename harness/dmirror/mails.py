# SPDX-License-Identifier: GPL-2.0
"""A patch series out of mails: which of them are its patches, in which order, and their diffs.

What a mail's body is made of (transfer encodings, attachments, line ends) git knows: `git mailsplit` and
`git mailinfo` read it here as they do for `git am`.
"""

from __future__ import annotations

import email
import email.policy
import gzip
import io
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmirror import inputs, packages
from dmirror.errors import CannotRun

_REPLY = re.compile(r"(?:re|aw|sv)\s*:", re.IGNORECASE)
_BRACKETS = re.compile(r"\s*\[([^\]]*)\]")
_NUMBER = re.compile(r"(?<![\w./])(\d+)/(\d+)(?![\w./])")
_VERSION = re.compile(r"(?:\b|PATCH)v(\d+)\b", re.IGNORECASE)
_DIFF = re.compile(rb"^diff --git |^--- .+\n\+\+\+ ", re.MULTILINE)
_GZIP = b"\x1f\x8b"
_WHOLE = "`b4 am MESSAGE-ID` and `git format-patch --stdout BASE..` make files with one whole series"


@dataclass(frozen=True)
class Patch:
    """One patch of a series."""

    number: int  # n of [PATCH n/N]; where there is none, its place in the file
    subject: str  # without what stands in brackets before it
    diff: bytes  # for `git apply`


@dataclass(frozen=True)
class Series:
    """Patches in the order in which they apply, and a line for each mail that is none of them."""

    patches: tuple[Patch, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Mail:
    subject: str
    version: int
    number: int | None
    total: int
    reply: bool
    diff: bytes | None


def read(files: Sequence[Path]) -> Series:
    """The series in these files: mboxes (gzip or not), or a mail each.

    Cover letters, replies and mails without a diff are left out, of several versions all but the last.
    Raises CannotRun where what is left is not one whole series.
    """
    names = ", ".join(map(str, files))
    left_out: list[str] = []
    mails: list[_Mail] = []
    for mail in _mails(files):
        reason = _no_patch(mail)
        if reason:
            left_out.append(f"{mail.subject}: {reason}")
        else:
            mails.append(mail)
    numbered = [mail for mail in mails if mail.number is not None]
    if numbered:
        left_out += [f"{mail.subject}: no number, and the others have one" for mail in mails if mail.number is None]
        mails = numbered
    if not mails:
        raise CannotRun(f"{names}: no patch in there", _WHOLE)
    last = max(mail.version for mail in mails)
    left_out += [f"{mail.subject}: there is v{last}" for mail in mails if mail.version < last]
    mails = [mail for mail in mails if mail.version == last]
    if numbered:
        mails = _in_order(mails, names)
    patches = (
        Patch(mail.number or place, _bare(mail.subject), mail.diff or b"") for place, mail in enumerate(mails, 1)
    )
    return Series(tuple(patches), tuple(left_out))


def _no_patch(mail: _Mail) -> str | None:
    """Why a mail is no patch of any series."""
    if mail.reply:
        return "a reply"
    if mail.number == 0:
        return "the cover letter"
    return "no diff" if mail.diff is None else None


def _in_order(mails: list[_Mail], names: str) -> list[_Mail]:
    """By number. Raises CannotRun unless each of 1/N to N/N is there once."""
    totals = sorted({mail.total for mail in mails})
    if len(totals) > 1:
        raise CannotRun(f"{names}: patches of {totals[0]} and patches of {totals[1]}", _WHOLE)
    by_number: dict[int, _Mail] = {}
    for mail in mails:
        other = by_number.setdefault(mail.number or 0, mail)
        if other is not mail:
            raise CannotRun(f"{names}: {other.subject!r} and {mail.subject!r} are both {mail.number}", _WHOLE)
    missing = [str(number) for number in range(1, totals[0] + 1) if number not in by_number]
    if missing:
        raise CannotRun(f"{names}: no patch {', '.join(missing)} of {totals[0]}", _WHOLE)
    return [by_number[number] for number in sorted(by_number)]


def _mails(files: Sequence[Path]) -> list[_Mail]:
    """Every mail of the files, each once."""
    found: dict[str, _Mail] = {}
    for file in files:
        with tempfile.TemporaryDirectory(prefix="dmirror-mails-") as scratch:
            for one in _split(file, Path(scratch)):
                content = one.read_bytes()
                head = email.message_from_bytes(content, policy=email.policy.default)
                if head["subject"] is None:
                    raise CannotRun(f"{file}: what is in there is no mail, it has no Subject", _WHOLE)
                identity = head["message-id"] or f"{file} {one.name}"
                found.setdefault(str(identity), _mail(str(head["subject"]), _diff(content, Path(scratch))))
    return list(found.values())


def _split(file: Path, scratch: Path) -> list[Path]:
    """A file for each mail of an mbox, or one for a file that is a mail."""
    try:
        content = inputs.read(file, inputs.MAILS)
        if content.startswith(_GZIP):
            with gzip.open(io.BytesIO(content)) as unpacked:
                content = inputs.limited(unpacked.read(inputs.MAILS + 1), inputs.MAILS)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotRun(f"{file} cannot be read: {error.__class__.__name__}: {error}", "name an mbox") from error
    whole = scratch / "mbox"
    whole.write_bytes(content)
    _git("mailsplit", "-b", f"-o{scratch}", str(whole), what=f"{file} cannot be read")
    return sorted(path for path in scratch.iterdir() if path.name.isdigit())


def _diff(mail: bytes, scratch: Path) -> bytes | None:
    """The diff in a mail, with what stands around it."""
    message, patch = scratch / "message", scratch / "patch"
    _git("mailinfo", "--quoted-cr=strip", str(message), str(patch), what="a mail cannot be read", stdin=mail)
    diff = patch.read_bytes()
    return diff if _DIFF.search(diff) else None


def _git(*arguments: str, what: str, stdin: bytes = b"") -> None:
    try:
        done = subprocess.run(["git", *arguments], input=stdin, env=environment(), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise CannotRun("git not found", packages.install("git")) from error
    if done.returncode != 0:
        reason = (done.stderr.decode(errors="replace").splitlines() or ["git gave no reason"])[0]
        raise CannotRun(f"{what}: {reason}", _WHOLE)


def environment() -> dict[str, str]:
    """For git, which then heeds nobody's settings and no repository around it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def _mail(subject: str, diff: bytes | None) -> _Mail:
    subject = " ".join(subject.split())
    brackets = subject[: len(subject) - len(_bare(subject))]
    number = _NUMBER.search(brackets)
    version = _VERSION.search(brackets)
    return _Mail(
        subject,
        version=int(version.group(1)) if version else 1,
        number=int(number.group(1)) if number else None,
        total=int(number.group(2)) if number else 0,
        reply=bool(_REPLY.match(_bare(subject))),
        diff=diff,
    )


def _bare(subject: str) -> str:
    """A subject without the [PATCH …] before it."""
    while match := _BRACKETS.match(subject):
        subject = subject[match.end() :]
    return subject.strip()
