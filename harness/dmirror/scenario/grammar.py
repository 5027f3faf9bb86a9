# SPDX-License-Identifier: GPL-2.0
"""The grammar of scenarios, in the docstrings that ply's yacc reads, and the tree that each rule makes.

A rule of a function whose name begins with p_stray takes in what is wrong, so that the rest of a file is still read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmirror.scenario import tree, words
from dmirror.scenario.expected import BROKEN
from dmirror.scenario.expects import Expects
from dmirror.scenario.faults import nearest
from dmirror.scenario.lexer import tokens
from dmirror.scenario.steps import Steps
from dmirror.scenario.text import format_subject, subject
from dmirror.scenario.tree import At


class Grammar(Steps, Expects):
    """All of the rules, those of files, blocks and regions here."""

    tokens = tokens
    start = "scenario"

    # The file

    def p_scenario(self, p: Any) -> None:
        """scenario : START title lines"""
        p[0] = self._whole(p[2], p[3], p.slice[2].lineno, p.slice[2].lexpos)

    def p_stray_scenario(self, p: Any) -> None:
        """scenario : START lines"""
        p[0] = self._whole(None, p[2], 1, 1)

    def _whole(self, title: tree.Scenario | None, lines: list[Any], line: int, column: int) -> tree.Scenario | None:
        if title is None:
            if BROKEN not in lines[:1]:
                self._wrong(At(line, column), 'a scenario begins with its title: scenario "what it shows"')
            return None
        regions: list[tree.Region] = []
        needs: list[tree.Need | tree.NeedKernel] = []
        items: list[tree.Item] = []
        contract: tuple[tuple[str, ...], At] = ((), tree.NOWHERE)
        late = False  # once said, it is said
        for made in lines:
            if isinstance(made, tree.Need | tree.NeedKernel | tree.Region | tuple) and items and not late:
                late = True
                at = made[1] if isinstance(made, tuple) else made.at
                self._wrong(at, f"this stands before the first step, which is that of line {items[0].at.line}")
            if isinstance(made, tuple):
                if contract[0]:
                    self._wrong(made[1], "there is a contract line already: it has all of them, with commas")
                contract = made
            elif isinstance(made, tree.Region):
                regions.append(made)
            elif isinstance(made, tree.Need | tree.NeedKernel):
                needs.append(made)
            elif made is not BROKEN:
                items.append(made)
        return replace(
            title,
            regions=tuple(regions),
            items=tuple(items),
            contracts=contract[0],
            needs=tuple(needs),
            comments=tuple(self.given.comments),
            contract_at=contract[1],
        )

    def p_title(self, p: Any) -> None:
        """title : SCENARIO STRING NEWLINE"""
        p[0] = tree.Scenario(p[2], (), (), at=self._at(p, 1, 2))

    def p_lines(self, p: Any) -> None:
        """lines : empty
        | lines contract
        | lines need
        | lines region
        | lines item"""
        p[0] = [] if len(p) == 2 else self._append(p[1], p[2])

    def p_stray_lines(self, p: Any) -> None:
        """lines : lines broken"""
        p[0] = self._append(p[1], BROKEN)

    def p_empty(self, p: Any) -> None:
        """empty :"""

    # What cannot be read

    def p_stray_line(self, p: Any) -> None:
        """broken_line : error NEWLINE"""
        self.parser.errok()

    def p_stray_broken(self, p: Any) -> None:
        """broken : broken_line
        | broken_line INDENT things DEDENT
        | NOTHING"""
        p[0] = BROKEN

    def p_stray_things(self, p: Any) -> None:
        """things : thing
        | things thing"""
        p[0] = [p[1]] if len(p) == 2 else self._append(p[1], p[2])

    def p_stray_thing(self, p: Any) -> None:
        """thing : item
        | column
        | broken"""
        p[0] = p[1]

    # Before the first step

    def p_contract(self, p: Any) -> None:
        """contract : CONTRACT ids NEWLINE"""
        p[0] = (tuple(p[2]), self._at(p, 1, 2))

    def p_ids(self, p: Any) -> None:
        """ids : ID
        | ids COMMA ID"""
        p[0] = [p[1]] if len(p) == 2 else self._append(p[1], p[3])

    def p_need(self, p: Any) -> None:
        """need : NEEDS needed NEWLINE"""
        p[0] = replace(p[2], at=self._at(p, 1, 2))

    def p_needed_kernel(self, p: Any) -> None:
        """needed : KERNEL RELEASE OR NEWER
        | KERNEL RELEASE OR NEWER COMMA BEFORE RELEASE
        | KERNEL BEFORE RELEASE"""
        p[0] = tree.NeedKernel(None, p[3]) if len(p) == 4 else tree.NeedKernel(p[2], p[7] if len(p) == 8 else None)

    def p_needed(self, p: Any) -> None:
        """needed : CONFIG config
        | CAPABILITY capability"""
        p[0] = tree.Need(p[1], p[2])

    def p_needed_word(self, p: Any) -> None:
        """needed : resource
        | HUGETLB"""
        p[0] = tree.Need(p[1])

    def p_resource(self, p: Any) -> None:
        """resource : NAME
        | NAME NAME
        | HUGE PAGES"""
        word = " ".join(p[1:]) if p[1] != "huge" else "huge pages"
        if word not in words.NEEDS:
            known = ", ".join((*words.NEEDS[:-2], "kernel, config, capability"))
            self._wrong(self._at(p), f"{word!r} cannot be needed; there are {known}", nearest(word, words.NEEDS))
        p[0] = word

    def p_config(self, p: Any) -> None:
        """config : CAPITALS"""
        if not p[1].startswith("CONFIG_"):
            self._wrong(self._at(p), "the kernel's options begin with CONFIG_", f"CONFIG_{p[1]}")
        p[0] = p[1]

    def p_capability(self, p: Any) -> None:
        """capability : NAME"""
        p[0] = self._known(p, "capability", words.CAPABILITIES)

    # Regions

    def p_region(self, p: Any) -> None:
        """region : REGION new COLON kind size options NEWLINE"""
        count, huge = p[5]
        made = tree.Region(p[2], p[4], count, huge=huge, at=self._at(p, 1, 6))
        seen: set[str] = set()
        for name, value, at in p[6]:
            if name in seen or (name in ("written", "read") and {"written", "read"} & seen):
                self._wrong(at, "this is said already" if name in seen else "what is written is there, without a read")
            seen.add(name)
            made = replace(made, **{name: value})
        p[0] = made

    def p_kind(self, p: Any) -> None:
        """kind : ANONYMOUS
        | PRIVATE FILE
        | SHARED
        | MEMFD
        | HUGETLB"""
        p[0] = " ".join(p[1:])

    def p_size(self, p: Any) -> None:
        """size : NUMBER PAGES
        | NUMBER HUGE PAGES"""
        p[0] = (p[1], len(p) == 4)

    def p_options(self, p: Any) -> None:
        """options : empty
        | options COMMA option"""
        p[0] = [] if len(p) == 2 else [*p[1], (*p[3], self._at(p, 3))]

    def p_option_rights(self, p: Any) -> None:
        """option : rights"""
        p[0] = ("rights", p[1])

    def p_option_written(self, p: Any) -> None:
        """option : WRITTEN value"""
        p[0] = ("written", p[2])

    def p_option_read(self, p: Any) -> None:
        """option : READ
        | READ ONCE"""
        p[0] = ("read", True)

    def p_option_shared(self, p: Any) -> None:
        """option : SHARED WITH new"""
        p[0] = ("shared_with", p[3])

    # Items

    def p_item(self, p: Any) -> None:
        """item : step NEWLINE
        | forget NEWLINE
        | expect NEWLINE"""
        p[0] = p[1]

    def p_item_waits(self, p: Any) -> None:
        """item : step COMMA WAITS NEWLINE"""
        p[0] = replace(p[1], waits=True, at=self._at(p, 1, 3))

    def p_item_held(self, p: Any) -> None:
        """item : step COMMA HELD hold NEWLINE INDENT items DEDENT resume"""
        who, at = p[9]
        doer = subject(p[1])
        held = format_subject(doer)
        process = doer.process if isinstance(doer, tree.Device) else doer.name
        # Where there is no such process, that is what is wrong, and check says so.
        if who and format_subject(who) != held and process in {tree.MAIN, *self._made()}:
            self._wrong(at, f"{held} is held since line {p[1].at.line}, and not {format_subject(who)}", held)
        block = tuple(item for item in p[7] if item is not BROKEN)
        p[0] = replace(p[1], held=p[4], block=block, resumes=at, at=self._at(p, 1, 4))

    def p_resume(self, p: Any) -> None:
        """resume : actor RESUMES NEWLINE
        | device RESUMES NEWLINE"""
        p[0] = (p[1], self._at(p, 1, 2))

    def p_stray_resume(self, p: Any) -> None:
        """resume : broken"""
        p[0] = (None, tree.NOWHERE)

    def p_hold(self, p: Any) -> None:
        """hold : point
        | point BY device"""
        p[0] = tree.Hold(p[1], p[3] if len(p) == 4 else None, at=self._at(p))

    def p_point(self, p: Any) -> None:
        """point : AT BEGIN
        | AFTER SETUP
        | AFTER COPY
        | AFTER PAGES
        | BEFORE FINALIZE
        | BEFORE CHECK
        | BEFORE INSTALL
        | WHEN EXCLUSIVE
        | IN INVALIDATION"""
        p[0] = " ".join(p[1:])

    def p_items(self, p: Any) -> None:
        """items : item
        | items item"""
        p[0] = [p[1]] if len(p) == 2 else self._append(p[1], p[2])

    def p_stray_items(self, p: Any) -> None:
        """items : broken
        | items broken"""
        p[0] = [BROKEN] if len(p) == 2 else self._append(p[1], BROKEN)

    def p_par(self, p: Any) -> None:
        """item : PAR NEWLINE INDENT columns DEDENT
        | PAR repeated NEWLINE INDENT columns DEDENT"""
        times, last = (p[2], 2) if len(p) == 7 else (1, 1)
        columns = [column for column in p[len(p) - 2] if column is not BROKEN]
        p[0] = tree.Par(
            tuple(items for items, _ in columns),
            times,
            columns_at=tuple(at for _, at in columns),
            at=self._at(p, 1, last),
        )

    def p_columns(self, p: Any) -> None:
        """columns : column
        | columns column"""
        p[0] = [p[1]] if len(p) == 2 else self._append(p[1], p[2])

    def p_stray_columns(self, p: Any) -> None:
        """columns : broken
        | columns broken"""
        p[0] = [BROKEN] if len(p) == 2 else self._append(p[1], BROKEN)

    def p_column(self, p: Any) -> None:
        """column : COLUMN NEWLINE INDENT items DEDENT"""
        p[0] = (tuple(item for item in p[4] if item is not BROKEN), self._at(p, 1, 1))

    def p_repeated(self, p: Any) -> None:
        """repeated : ONCE
        | TWICE
        | NUMBER TIMES"""
        p[0] = {"once": 1, "twice": 2}.get(p[1], p[1])
