# SPDX-License-Identifier: GPL-2.0
"""Scenarios that parse and are wrong all the same: each fault, and what is none."""

import pytest

from dmirror.scenario import tree
from dmirror.scenario.check import check, load
from dmirror.scenario.faults import Faults
from dmirror.scenario.parser import parse

HEAD = """scenario "x"
needs coherent
needs swap
needs cgroup
needs huge pages
needs hugetlb
needs two nodes
region buf: anonymous 4 pages
region other: anonymous 8 pages
region big: anonymous 1 huge page
region cow: anonymous 4 pages, written 1, shared with ward
"""


def wrong(body, head=HEAD):
    return check(parse(head + body + "\n"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("CPU reads bufs", "there is no region 'bufs'"),
        ("CPU reads bufs\nA reads bufs[0]", "there is no region 'bufs'"),
        ("kid reads buf\nkid reads buf\nA of kid reads buf", "there is no process or thread 'kid'"),
        ("kid reads buf", "there is no process or thread 'kid'"),
        ("buf reads buf", "it is a region"),
        ("A of kid reads buf", "there is no process 'kid'"),
        (
            "kid unmaps buf, held in invalidation by A\n    B reads buf\nCPU resumes",
            "there is no process or thread 'kid'",
        ),
        ("A of kid reads buf, held before check\n    B reads buf\nA resumes", "there is no process 'kid'"),
        ("kid exits\nCPU forks kid", "there is no process or thread 'kid'"),
        ("CPU forks kid\nCPU forks kid", "already"),
        ("CPU forks ward", "from the beginning"),
        ("CPU forks buf", "'buf' is a region"),
        ("CPU forks kid\nkid exits\nkid reads buf", "it has left at line 13"),
        ("CPU forks kid\nkid starts thread t\nkid dies\nt reads buf", "it has left at line 14"),
        ("CPU starts thread t\nA of t reads buf", "'t' is a thread"),
        ("CPU forks kid\nkid exits\nexpect where buf of kid == ram", "no memory any more"),
        ("CPU forks kid\nexpect where buf of kit == ram", "no process 'kit'"),
        ("A closes\nA reads buf", "closed since line 12"),
        ("B reads buf, held before check\n    A closes\nB resumes\nA reads buf", "closed since line 13"),
        ("CPU starts thread t\nt exits", "a thread of CPU"),
        (
            "par\n column\n  A migrates buf to device, held after setup\n   B reads buf\n  A resumes",
            "nothing is held in a column",
        ),
        ("CPU reads buf[4]", "outside of buf, which has 4 pages"),
        ("CPU reads buf[2:5]", "outside of buf"),
        ("CPU reads buf[4:]", "outside of buf"),
        ("CPU reads big[512]", "512 pages in 1 huge ones"),
        ("CPU writes buf = 1, 2", "2 numbers for 4 pages"),
        ("CPU reads buf[0] == 1, 2", "2 numbers for 1 page: there has to be one"),
        ("CPU writes buf = numbered from 0xffffffffffffffff", "64 bits"),
        ("expect where buf == A A", "2 places for 4 pages"),
        ("expect rights buf == r x5", "5 rights for 4 pages"),
        ("CPU pins big[0:17]", "pins 16"),
        ("CPU moves buf[0:2] to other[0:3]", "lengths"),
        ("CPU moves buf to node 2", "node 0 and node 1"),
        ("CPU reads buf, waits", "nothing is held"),
        ("par\n    column\n        par\n            column\n                CPU reads buf", "cannot stand in a column"),
        ("par\n    column\n        expect where buf == A", "behind a par"),
        ("par\n    column\n        forget events", "behind a par"),
        ("par 0 times\n    column\n        CPU reads buf", "1 to 10000"),
        ("par 2 times\n    column\n        CPU forks kid", "names are for once"),
        (
            "A migrates buf to device, held after setup\n    par\n        column\n            CPU reads buf\nA resumes",
            "held",
        ),
        ("A migrates buf to device, held before check\n    B reads buf\nA resumes", "cannot be held 'before check'"),
        ("A reads buf, held after copy\n    B reads buf\nA resumes", "'before install'"),
        ("A takes buf exclusively, held after copy\n    B reads buf\nA resumes", "'when exclusive'"),
        ("CPU unmaps buf, held after copy by A\n    B reads buf\nCPU resumes", "it can 'in invalidation'"),
        ("A closes, held in invalidation by A\n    B reads buf\nA resumes", "cannot be held"),
        ("CPU unmaps buf, held in invalidation\n    B reads buf\nCPU resumes", "in whose driver"),
        ("CPU reads buf, held after copy\n    B reads buf\nCPU resumes", "in whose driver"),
        ("A migrates buf to device, held after setup by B\n    B reads buf\nA resumes", "leave 'by' out"),
        ("CPU reads buf, held after copy by A\n    CPU reads buf\nCPU resumes", "is held itself"),
        (
            "A migrates buf to device, held after setup\n    CPU reads buf, waits\n    CPU reads buf\nA resumes",
            "waits since line 13",
        ),
        ("CPU reads buf\nexpect always where buf == A", "directly behind"),
        ("par\n    column\n        CPU reads buf\nCPU reads buf\nexpect never where buf == A", "directly behind"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(body, said):
    faults = wrong(body)
    assert len(faults) == 1, faults
    assert said in faults[0].message
    assert 12 <= faults[0].line <= 12 + body.count("\n") and faults[0].column >= 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("region a: anonymous 1 page\nregion a: memfd 1 page", "already"),
        ("region a: anonymous 0 pages", "0 pages"),
        ("region a: anonymous 1000000 pages", "1 to 262144"),
        ("region a: memfd 2 huge pages", "not of memfd memory"),
        ("needs hugetlb\nregion a: hugetlb 4 pages", "in huge pages"),
        ("region a: anonymous 4 pages, written 1, 2", "2 numbers for 4 pages"),
        ("region a: anonymous 4 pages\nregion b: anonymous 4 pages, shared with a", "'a' is a region"),
        ("needs kernel 7.2 or newer, before 6.12", "no such kernel"),
        ("region a: anonymous 1 huge page", "'needs huge pages'"),
        ("region a: hugetlb 1 huge page", "'needs hugetlb'"),
        ("region a: anonymous 1 page\nC reads a", "'needs coherent'"),
        ("region a: anonymous 1 page\nCPU swaps out a", "'needs swap'"),
        ("CPU limits memory to 64 pages", "'needs cgroup'"),
        ("region a: anonymous 1 page\nCPU moves a to node 1", "'needs two nodes'"),
    ],
)
def test_what_is_wrong_before_the_first_step_is_said(line, said):
    faults = wrong(line, 'scenario "x"\n')
    assert len(faults) == 1, faults
    assert said in faults[0].message


@pytest.mark.parametrize(
    "body",
    [
        "CPU reads buf, held after copy by A\n    B reads buf\nCPU resumes\nCPU reads buf",
        "A migrates buf to device, held after setup\n    CPU reads buf, waits\nA resumes\nCPU reads buf",
        "CPU forks kid\nA of kid reads buf\nkid exits\nA reads buf\nCPU forks kin",
        "CPU starts thread t\nt forks kid\nexpect where buf of kid == none",
        "par\n    column\n        A reads buf\nexpect always where buf == A\nexpect never A maps buf",
        "A closes\nA reads buf fails EBADF\nA opens\nA reads buf[1:]\nCPU pins big[0:16]",
        "A closes\nB reads buf, held before check\n    A opens\nB resumes\nA reads buf",
        "ward writes cow = 4\nexpect where cow of ward == ram x4",
    ],
)
def test_what_is_right_is_not_complained_of(body):
    assert wrong(body) == ()


def test_a_misspelt_region_is_suggested():
    (fault,) = wrong("CPU reads bug")
    assert fault.suggestion == "buf"
    assert (fault.line, fault.column, fault.length) == (12, 11, 3)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("expect where buf == A x3 ram x4", "A x3 ram x4"),
        ("expect sometimes rights buf of ward == r  # so far", ""),
        ("expect rights buf of ward == rw r rw  # so far", "rw r rw"),
    ],
)
def test_of_places_and_rights_that_are_too_many_or_few_their_list_is_shown(line, place):
    faults = wrong(f"par\n    column\n        A reads buf\n{line}")
    assert [line[fault.column - 1 :][: fault.length] for fault in faults] == [place] * bool(place)


def test_who_is_not_there_is_told_who_is():
    said = [
        "there is no process or thread 'tick' here; there are CPU, ward, kin and t",
        "there is no process 'nobody' here; there are CPU, ward and kin",
    ]
    there = "CPU forks kid\nCPU forks kin\nkin starts thread t\nkid exits"
    assert [fault.message for fault in wrong(f"{there}\ntick reads buf\nA of nobody reads buf")] == said
    (fault,) = check(parse('scenario "x"\nregion buf: anonymous 1 page\nexpect where buf of kid == ram'))
    assert fault.message == "there is no process 'kid' here; there is CPU only"


def test_a_file_is_read_parsed_and_checked(tmp_path):
    file = tmp_path / "a.dms"
    file.write_text('scenario "x"\nregion buf: anonymous 1 page\nCPU reads buf\n')
    assert [type(item) for item in load(file).items] == [tree.Load]
    file.write_text('scenario "x"\nCPU reads buf\n')
    with pytest.raises(Faults, match="no region 'buf'"):
        load(file)
    file.write_bytes(b'scenario "x"\nCPU \xff reads buf\n')
    with pytest.raises(Faults) as raised:
        load(file)
    assert [(fault.line, fault.column) for fault in raised.value.faults] == [(2, 5)]
