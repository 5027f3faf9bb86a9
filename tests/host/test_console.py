# SPDX-License-Identifier: GPL-2.0
"""What of a console log is worth showing."""

from __future__ import annotations

from pathlib import Path

from dmirror.vm import console
from dmirror.vm.guest import panic


def test_the_tail_has_no_terminal_escapes(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"\x1b[2J\x1bcboot\r\nfirst\n\x1b[31msecond\x1b[0m\r\n\xff\n")
    assert console.tail(log, lines=2).splitlines()[0] == "second"


def test_no_log_and_an_empty_log_are_said(tmp_path: Path) -> None:
    assert "nothing on the console" in console.tail(tmp_path / "none")
    (tmp_path / "empty").touch()
    assert "nothing on the console" in console.tail(tmp_path / "empty")


def test_last_words_begin_with_the_last_test(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("[1] dmirror-test: a\n[2] noise\n[3] dmirror-test: b\n[4] Oops\n")
    assert console.last_words(log) == "[3] dmirror-test: b\n[4] Oops"


def test_long_last_words_keep_both_ends(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("dmirror-test: b\nthe cause\n" + "register\n" * 100 + "the end\n")
    words = console.last_words(log, lines=10).splitlines()
    assert (words[1], words[-1], len(words)) == ("the cause", "the end", 11)
    assert "93 lines" in words[5]


def test_a_panic_is_named(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("[    9.1] Kernel panic - not syncing: sysrq triggered crash\n[    9.2] CPU: 1\n")
    assert panic(log) == "the guest's kernel panicked: sysrq triggered crash"
    log.write_text("[    9.1] fine\n")
    assert panic(log) is None


def test_what_the_kernel_does_not_know_of_the_command_line_is_told(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    unknown = 'Unknown kernel command line parameters "virtme_chdir=. slub_debg=FZ", will be passed to user space.'
    log.write_text(f"[    0.1] Linux version 7.3.4\n[    0.1] {unknown}\n")
    assert console.not_obeyed(log, "slub_debg=FZ quiet 'a b'") == ["slub_debg=FZ"]
    log.write_text("[    0.1] Linux version 7.3.4\n")
    assert console.not_obeyed(log, "slub_debg=FZ") == []
