# SPDX-License-Identifier: GPL-2.0
"""`dmirror fmt` and `dmirror check`: what they print and write, and how they end."""

import codecs

import pytest

from dmirror.cli import main

RIGHT = 'scenario "x"\nregion buf: anonymous 1 page\nCPU reads buf\n'
UGLY = 'scenario  "x"\r\nregion buf:anonymous 1 pages,read once\r\nCPU reads buf[0:1]# why'
FORMATTED = 'scenario "x"\nregion buf: anonymous 1 page, read\nCPU reads buf[0]  # why\n'
WRONG = 'scenario "x"\nregion buf: anonymous 1 page\nCPU raeds buf\nCPU reads\n'


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.dms"


def test_what_is_right_is_not_spoken_of(file, capsys):
    file.write_text(RIGHT)
    assert main(["check", str(file)]) == main(["fmt", str(file)]) == main(["fmt", "--check", str(file)]) == 0
    assert capsys.readouterr() == ("", "")
    assert file.read_text() == RIGHT


def test_fmt_writes_the_file_anew(file, capsys):
    file.write_bytes(UGLY.encode())
    assert main(["fmt", "--check", str(file)]) == 1
    assert "-CPU reads buf[0:1]# why" in capsys.readouterr().out
    assert file.read_bytes() == UGLY.encode()
    assert main(["fmt", str(file)]) == 0
    assert file.read_text() == FORMATTED


@pytest.mark.parametrize("verb", ["check", "fmt"])
def test_each_fault_is_printed_and_the_other_files_are_done(verb, file, capsys, tmp_path):
    file.write_text(WRONG)
    other = tmp_path / "b.dms"
    other.write_bytes(UGLY.encode())
    assert main([verb, str(file), str(other)]) == 1
    out = capsys.readouterr().out
    assert f"{file}:3:5: 'raeds' cannot stand here" in out and "did you mean 'reads'?" in out
    assert f"{file}:4:10: the line ends here" in out
    assert str(other) not in out
    assert file.read_text() == WRONG
    assert other.read_bytes().decode() == (FORMATTED if verb == "fmt" else UGLY)


@pytest.mark.parametrize("verb", ["check", "fmt"])
@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_file_that_cannot_be_read_ends_with_2(verb, what, file, capsys):
    if what == "folder":
        file.mkdir()
    assert main([verb, str(file)]) == 2
    assert f"cannot read {file}" in capsys.readouterr().err


def test_what_is_no_text_has_a_place(file, capsys):
    file.write_bytes(codecs.BOM_UTF8 + RIGHT.encode())
    assert main(["check", str(file)]) == 0
    file.write_bytes(RIGHT.encode() + b"# \xff")
    assert main(["check", str(file)]) == 1
    assert f"{file}:4:3: this is not UTF-8: byte 0xff" in capsys.readouterr().out
