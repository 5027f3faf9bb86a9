# SPDX-License-Identifier: GPL-2.0
"""Which mails of a file are a patch series, in which order, and what their diffs are."""

from __future__ import annotations

import base64
import gzip
import quopri
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from dmirror import inputs, mails
from dmirror.errors import CannotRun

_FROM = b"From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"


def diff(name: str = "a.c", new: str = "b") -> str:
    """A patch of one line, with what git puts around it."""
    return (
        f"---\n {name} | 2 +-\n 1 file changed\n\ndiff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n"
        f"@@ -1 +1 @@\n-a\n+{new}\n-- \n2.39.5\n"
    )


def mail(subject: str, body: str = "Because.\n", **headers: str) -> bytes:
    """A mail as `git format-patch` writes it."""
    message = EmailMessage()
    message["From"] = "A Developer <a@example.org>"
    message["Subject"] = subject
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(body, cte="8bit")
    return bytes(message)


@pytest.fixture
def mbox(tmp_path: Path) -> Path:
    """Where a test puts its mbox."""
    return tmp_path / "series.mbox"


def fill(mbox: Path, *messages: bytes) -> list[Path]:
    mbox.write_bytes(b"".join(_FROM + message + b"\n" for message in messages))
    return [mbox]


def numbers(series: mails.Series) -> list[tuple[int, str]]:
    return [(patch.number, patch.subject) for patch in series.patches]


def test_patches_come_by_their_numbers_without_the_cover_letter(mbox: Path) -> None:
    files = fill(
        mbox,
        mail("[PATCH mm-new v2 02/10] mm: two", "Why.\n" + diff()),
        mail("[PATCH mm-new v2 00/10] mm: a series", "It does.\n\n a.c | 2 +-\n"),
        *(mail(f"[PATCH mm-new v2 {number:02}/10] mm: {number}", diff()) for number in (10, 1, 3, 4, 5, 6, 7, 8, 9)),
    )
    read = mails.read(files)
    assert [patch.number for patch in read.patches] == list(range(1, 11))
    assert read.patches[1].subject == "mm: two"
    assert read.left_out == ("[PATCH mm-new v2 00/10] mm: a series: the cover letter",)


def test_what_a_thread_has_beside_the_patches_is_left_out(mbox: Path) -> None:
    files = fill(
        mbox,
        mail("[PATCH 1/2] one", diff()),
        mail("Re: [PATCH 1/2] one", "> +b\n\nBetter:\n\n" + diff(new="c")),
        mail("[linux-mm] Re: [PATCH 2/2] two", "Reviewed-by: B <b@example.org>\n"),
        mail("[PATCH 2/2] two", diff("b.c")),
        mail("[PATCH] one: fix", diff(new="d")),
        mail("[syzbot] the series has a problem", "It has.\n"),
    )
    read = mails.read(files)
    assert numbers(read) == [(1, "one"), (2, "two")]
    assert [line.rpartition(": ")[2] for line in read.left_out] == [
        "a reply",
        "a reply",
        "no diff",
        "no number, and the others have one",
    ]


def test_of_several_versions_the_last_counts(mbox: Path) -> None:
    files = fill(
        mbox,
        mail("[RFC PATCH 1/1] old", diff()),
        mail("[PATCHv3 1/1] new", diff(new="new")),
        mail("[PATCH v2 1/1] middle", diff()),
    )
    read = mails.read(files)
    assert numbers(read) == [(1, "new")]
    assert b"+new\n" in read.patches[0].diff
    assert len(read.left_out) == 2


def test_patches_without_numbers_come_as_they_stand(mbox: Path) -> None:
    read = mails.read(fill(mbox, mail("[PATCH] first", diff()), mail("second", diff("b.c"))))
    assert numbers(read) == [(1, "first"), (2, "second")]


def test_a_mail_that_came_twice_counts_once(mbox: Path) -> None:
    for subject in ("[PATCH 1/1] one", "[PATCH] one"):
        one = mail(subject, diff(), Message_ID="<1@example.org>")
        assert len(mails.read(fill(mbox, one, one)).patches) == 1


def test_several_files_and_a_file_that_is_one_mail(tmp_path: Path) -> None:
    files = [tmp_path / "0001.patch", tmp_path / "2.eml"]
    files[0].write_bytes(_FROM + mail("[PATCH 1/2] one", diff()))
    files[1].write_bytes(mail("[PATCH 2/2] two", diff("b.c")))
    assert numbers(mails.read(files)) == [(1, "one"), (2, "two")]


def test_a_gzipped_mbox_and_one_with_carriage_returns(mbox: Path) -> None:
    (file,) = fill(mbox, mail("[PATCH 1/1] one", diff()))
    expected = mails.read([file])
    plain = file.read_bytes()
    file.write_bytes(gzip.compress(plain))
    assert mails.read([file]) == expected
    file.write_bytes(plain.replace(b"\n", b"\r\n"))
    assert mails.read([file]) == expected


@pytest.mark.parametrize(
    ("encoding", "encode"), [("base64", base64.encodebytes), ("quoted-printable", quopri.encodestring)]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_encoded_body(mbox: Path, encoding: str, encode: Callable[[bytes], bytes], end: str) -> None:
    body = ("Why.\n" + diff(new="größer = 1;" + "x" * 100)).replace("\n", end)
    head = f"""\
From: A Developer <a@example.org>
Subject: =?utf-8?q?=5BPATCH_1/1=5D_mm=3A_gr=C3=B6=C3=9Fer?=
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: {encoding}

"""
    read = mails.read(fill(mbox, head.encode() + encode(body.encode())))
    assert numbers(read) == [(1, "mm: größer")]
    assert "+größer = 1;" + "x" * 100 + "\n" in read.patches[0].diff.decode()


def test_an_attached_patch(mbox: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "[PATCH] attached"
    message["From"] = "A Developer <a@example.org>"
    message.set_content("See the attachment.\n")
    message.add_attachment(diff().encode(), "text", "x-patch", filename="0001.patch")
    read = mails.read(fill(mbox, bytes(message)))
    assert b"diff --git a/a.c b/a.c\n" in read.patches[0].diff


def test_a_line_that_begins_with_from_ends_no_mail(mbox: Path) -> None:
    read = mails.read(fill(mbox, mail("[PATCH] one", "From 6.12 on this is so.\n\n>From here too.\n" + diff())))
    assert numbers(read) == [(1, "one")]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([("[PATCH 1/3] one", diff()), ("[PATCH 3/3] three", diff())], "no patch 2 of 3"),
        ([("[PATCH 1/2] one", diff()), ("[PATCH 2/2] two", "no diff\n")], "no patch 2 of 2"),
        ([("[PATCH 1/1] one", diff()), ("[PATCH 1/1] other", diff(new="c"))], "'[PATCH 1/1] other' are both 1"),
        ([("[PATCH 1/1] one", diff()), ("[PATCH 1/2] other", diff())], "patches of 1 and patches of 2"),
        ([("hello", "no diff\n")], "no patch in there"),
    ],
)
def test_what_is_not_one_whole_series(mbox: Path, messages: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(CannotRun) as caught:
        mails.read(fill(mbox, *(mail(*message) for message in messages)))
    assert says in str(caught.value)
    assert str(mbox) in str(caught.value)


def test_what_has_no_end_is_not_read_to_it(mbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotRun, match=r"/dev/zero cannot be read: .* more than 262144 KiB"):
        mails.read([Path("/dev/zero")])
    monkeypatch.setattr(inputs, "MAILS", 1 << 20)
    mbox.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(CannotRun, match="more than 1024 KiB"):
        mails.read([mbox])


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"", "empty"), (diff().encode(), "no Subject"), (b"\x1f\x8bnot gzip", "cannot be read")],
)
def test_a_file_that_has_no_mail(mbox: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        mbox.write_bytes(content)
    with pytest.raises(CannotRun, match=says):
        mails.read([mbox])
