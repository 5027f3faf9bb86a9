# SPDX-License-Identifier: GPL-2.0
"""What is said of a text that is no scenario: the place, what was expected, and never a traceback.

MUTANTS=1000 looks at so many of them.
"""

import os
import random
import re

import pytest

from dmirror.paths import ROOT
from dmirror.scenario.check import loaded
from dmirror.scenario.faults import Fault, Faults
from dmirror.scenario.lexer import KEYWORDS
from dmirror.scenario.parser import parse

TITLE = 'scenario "x"\nregion buf: anonymous 4 pages\n'
SEEDS = [file.read_bytes() for file in sorted((ROOT / "tests" / "scenarios").glob("*.dms"))]
MUTANTS = int(os.environ.get("MUTANTS", "300"))


def faults(text):
    with pytest.raises(Faults) as raised:
        parse(text)
    return raised.value.faults


def of(body):
    """The faults of these lines, by line from 1."""
    return [Fault(fault.line - 2, *map(fault.__getattribute__, Fault.__slots__[1:])) for fault in faults(TITLE + body)]


@pytest.mark.parametrize(
    ("line", "place", "said", "suggestion"),
    [
        ("CPU wrtes buf = 1", "wrtes", "'wrtes' cannot stand here; expected", "writes"),
        ("CPU reads buf[0 == 1", "==", "expected ':' or ']'", ""),
        ("CPU reads", "", "the line ends here; expected a region's name", ""),
        ("CPU reads buf = 1", "=", "expected 'raises', ',', '[', '==' or the end of the line", "=="),
        ("CPU reads pages", "pages", "a word of the language, and cannot be a name", ""),
        ("CPU reads buf fails EFAULT", "fails", "'raises'", ""),
        ("A migrates buf to devise", "devise", "expected 'device' or 'system'", "device"),
        ("A reads buf fails EFALT", "EFALT", "no errno", "EFAULT"),
        ("CPU reads buf raises SIGSEG", "SIGSEG", "no signal", "SIGSEGV"),
        ("CPU advises buf dontned", "dontned", "no advice", "dontneed"),
        ("expect where buf == A rum", "rum", "no place", "ram"),
        ("expect rights buf == rx", "rx", "no right", "r"),
        ("expect B saw MIGRAT", "MIGRAT", "no event", "MIGRATE"),
        ("expect A counted 1 page_to_device", "page_to_device", "no counter", "pages_to_device"),
        (
            "expect B saw MIGRATE from A, obeyd",
            "obeyd",
            "expected 'once', 'twice', 'never', 'obeyed' or 'filtered'",
            "obeyed",
        ),
        ("B read buf", "read", "expected", "reads"),
        ("CPU reads Buf", "Buf", "lower case", "buf"),
        ("CPU reads buf[-1]", "-", "0 or more", ""),
        ("CPU reads buf[0x]", "0x", "no number", ""),
        ("CPU writes buf = 99999999999999999999", "99999999999999999999", "64 bits", ""),
        ("CPU reads\tbuf", "\t", "a tab", "    "),
        ("CPU reads buf\0", "\0", "U+0000", ""),
        ("CPU reads buf[2:2]", "[2:2]", "no page", "[2:3]"),
        ("A resumes", "resumes", "nothing held", ""),
        ("CPU migrates buf to device", "migrates", "what a device does", ""),
        ("A forks kid", "forks", "what a process does", ""),
        ("CPU forks x3", "x3", "cannot be a name", ""),
        ("A writes buf == 7", "==", "expected '[' or '='", "="),
        ("A reads buf of kid == 1", "of", "expected 'fails', ',', '[', '=='", "A of kid reads buf"),
        ("CPU reads buf[0:2] of kid", "of", "expected 'raises'", "kid reads buf[0:2]"),
        ("expect always A maps buf of kid", "of", "expected '['", "A of kid maps buf"),
        ("A of kid reads buf of kid", "of", "expected 'fails'", ""),
        ("expect of kid where buf == A", "of", "'where'", ""),
        ("A reads buf of", "of", "expected 'fails'", ""),
        ("expect where kid buf == A", "buf", "expected 'of', '[' or '=='", "where buf of kid"),
        ("expect rights kid buf == r", "buf", "expected 'of', '[' or '=='", "rights buf of kid"),
        ("expect where buf ram", "ram", "expected 'of', '[' or '=='", ""),
        ("A migrates buf to device held after copy", "held", "','", ", held"),
        ("expect buf == A", "buf", "'where'", "where buf"),
        ("expct where buf == A", "expct", "nothing else begins with it", "expect"),
        ("again 20 times", "again", "no process here", ""),
        ("E reads buf", "E", "a device (A, B, C or D)", ""),
        ("    CPU reads buf", "CPU", "no block begins here", ""),
        ("A fails its copy 0", "0", "count from 1", "1"),
        ("expect where buf == A x0", "x0", "no pages", "x1"),
        ("expect where buf == A x9999999", "x9999999", "so many pages", ""),
    ],
)
def test_the_place_is_under_the_caret(line, place, said, suggestion):
    (fault,) = of(f"{line}\n")
    assert fault.line == 1
    assert line[fault.column - 1 : fault.column - 1 + fault.length] == place or not place
    assert said in fault.message
    assert fault.suggestion == suggestion


def test_a_fault_is_rendered_with_its_line_a_caret_and_the_word_that_may_be_meant():
    text = TITLE + "CPU wrtes buf = 1\n"
    with pytest.raises(Faults) as raised:
        parse(text)
    place, line, caret, meant = raised.value.render(text, "a.dms").split("\n")
    assert place.startswith("a.dms:3:5: 'wrtes' cannot stand here; expected 'reads', 'writes', 'adds',")
    assert line == "    CPU wrtes buf = 1"
    assert caret == "        ^~~~~"
    assert meant == "    did you mean 'writes'?"


def test_each_broken_line_is_one_fault():
    lines = [
        "CPU wrtes buf = 1",
        "E reads buf",
        "CPU reads buf",
        "A migrates buf",
        "B peeks buf[",
        "A closes now",
        "frget events",
        "A opens",
    ]
    assert [fault.line for fault in of("\n".join(lines))] == [1, 2, 4, 5, 6, 7]


def test_a_broken_line_behind_a_broken_one_is_read_from_its_beginning():
    _, second = of("CPU wrtes buf = 1\nE reads buf\n")
    assert second.message.startswith("'E' cannot stand here; expected 'contract', 'needs', 'region', 'par'")


def test_a_block_that_ends_early_takes_nothing_of_what_follows_with_it():
    held = "A migrates buf to device, held after setup\n   B reads buf\n"
    body = f"par\n column\n  {held} column\n  A raeds buf\n column\n  B reads buf\nCPU raeds buf"
    assert [fault.line for fault in of(body)] == [5, 6, 9]


@pytest.mark.parametrize(
    "body",
    [
        # What opens a block is broken: its block, and what ends it, are not complained of.
        "A migrate buf to device, held after setup\n    B reads buf\nA resumes\nA reads buf",
        "A migrates buf to device, hld after setup\n    B reads buf\n    CPU reads buf, waits\nA resumes\nA reads buf",
        "A migrates buf to device held after setup\n    B reads buf\nA resumes",
        "pra 20 times\n    column\n        A reads buf\n    column\n        B reads buf\nA reads buf",
        "par 20 tmes\n    column\n        A reads buf\n    column\n        B reads buf\nA reads buf",
        "par many\n    A reads buf\n    B reads buf\nA reads buf",
        # Broken within a block.
        "A migrates buf to device, held after setup\n    B raeds buf\nA resumes",
        "A migrates buf to device, held after setup\n    B reads buf\nB resumes",
        "par\n    colum\n        A reads buf\n    column\n        B reads buf",
        "par\n    column\n        A raeds buf\n    column\n        B reads buf",
        "par\n    A reads buf\n    B reads buf\nA reads buf",
        "par\n    column\n        A migrate buf to device, held after copy\n            B reads buf\n        A resumes",
        # Blocks that are missing, or not ended.
        "A migrates buf to device, held after setup\nA resumes\nA reads buf",
        "A migrates buf to device, held after setup\nA reads buf",
        "A migrates buf to device, held after setup\n    B reads buf\nA reads buf",
        "A migrates buf to device, held after setup\n    B reads buf",
        "par\nA reads buf",
        "par\n    column\nA reads buf",
        "par\n    column\n        A migrates buf to device, held after setup\n            B reads buf\nA reads buf",
        "par\n column\n  A takes buf exclusively, held when exclusive\n   B reads buf\n  A zzq\nA reads buf",
        "par\n    7\n        A reads buf\n    column\n        A reads buf",
        # Indentation.
        "A reads buf\n    B reads buf\n    B reads buf\nA reads buf",
        "A reads buf\n    B reads buf\n        B reads buf\nA reads buf",
        "A migrates buf to device, held after setup\n        B reads buf\n    B reads buf\nA resumes",
        "A migrates buf to device, held after setup\n\tB reads buf\nA resumes",
        # Order.
        "A reads buf\nregion late: anonymous 1 page",
        "A reads buf\nregion late: anonymous 1 page\nneeds swap\ncontract Z-01",
        'A reads buf\nscenario "y"\nA reads buf',
        "contract Z-01\ncontract Z-02",
    ],
)
def test_nothing_is_said_of_what_only_follows(body):
    assert len(of(body)) == 1, of(body)


@pytest.mark.parametrize(
    "text", ["", "\n", "# only\n", 'scenaro "x"\nregion buf: memfd 1 page\nA reads buf', 'x\nscenario "x"\nA closes']
)
def test_a_title_is_wanted(text):
    (fault,) = faults(text)
    assert "begins with its title" in fault.message


def test_carriage_returns_are_as_if_they_were_not_there():
    text = SEEDS[0].decode()
    assert parse(text.replace("\n", "\r\n")) == parse(text)


def test_deep_and_long_texts_have_an_end():
    deeper = "".join(f"{' ' * depth}A reads buf\n" for depth in range(3000))
    assert len(of(deeper)) == 1
    held = "".join(f"{' ' * depth}A migrates buf to device, held after setup\n" for depth in range(500))
    assert [fault.message for fault in of(held)] == ["blocks stand in blocks 20 deep at most"]
    assert len(of(" " * 10_000 + "A reads buf")) == 1
    assert len(of("A reads " + "buf" * 10_000 + "[")) == 1
    assert len(of("A writes buf = " + "9" * 10_000)) == 1
    assert len(of("expect where buf == " + "A x99999 " * 5 + "zzz")) == 1
    assert of("x" * 50_000)


@pytest.mark.parametrize("word", ["zzq", "held", "7", '"', "resumes", "column", ","])
def test_a_broken_word_is_one_fault_in_its_line(word):
    """Whichever word it is."""
    for text in map(bytes.decode, SEEDS[:: len(SEEDS) // 5]):
        for found in re.finditer(r"[\w-]+|[^\s\w]", text):
            broken = text[: found.start()] + word + text[found.end() :]
            try:
                parse(broken)
            except Faults as said:
                assert len(said.faults) == 1, (broken, said)
                assert said.faults[0].line == text.count("\n", 0, found.start()) + 1, (broken, said)


def mutant(choices):
    """A scenario with something done to its bytes, words or lines."""
    data = choices.choice(SEEDS)
    for _ in range(choices.randint(1, 4)):
        kind = choices.choice(["byte", "word", "line"])
        unit = {"byte": b"", "word": b" ", "line": b"\n"}[kind]
        parts = data.split(unit) if unit else [data[n : n + 1] for n in range(len(data))]
        strange = [
            bytes([choices.randrange(128)]),
            b"\xe9",
            b"\0",
            b"\t",
            b"\r",
            "\u201c".encode(),
            b"0x",
            b"9" * 30,
            b"  ",
            b'"',
        ]
        other = {
            "byte": strange,
            "word": [*map(str.encode, KEYWORDS), *strange],
            "line": choices.choice(SEEDS).split(b"\n"),
        }
        place = choices.randrange(len(parts))
        parts[place : place + choices.randint(0, 2)] = choices.choices(other[kind], k=choices.randint(0, 2))
        data = unit.join(parts)
    return data


def test_of_a_mutated_file_there_is_always_a_place():
    choices = random.Random(7)
    wrong = 0
    for _ in range(MUTANTS):
        data = mutant(choices)
        try:
            loaded(data, "mutant.dms")
        except Faults as found:
            wrong += 1
            lines = data.decode(errors="replace").split("\n")
            said = found.render(data.decode(errors="replace"), "mutant.dms").split("\n")
            assert len([line for line in said if line.strip().startswith("^")]) >= len(found.faults)
            for fault in found.faults:
                assert 1 <= fault.line <= len(lines) and 1 <= fault.column <= len(lines[fault.line - 1]) + 1, (
                    data,
                    fault,
                )
    assert wrong > MUTANTS // 2
