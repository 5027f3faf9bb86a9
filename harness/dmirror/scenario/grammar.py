# SPDX-License-Identifier: GPL-2.0
"""The grammar of scenarios, in the docstrings that ply's yacc reads, and the tree that each rule makes.

A rule of a function whose name begins with p_stray takes in what is wrong, so that the rest of a file is still read.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from dmirror.scenario import tree, words
from dmirror.scenario.expected import BROKEN, Expected
from dmirror.scenario.faults import Fault, nearest
from dmirror.scenario.lexer import Hexadecimal, Tokens, tokens
from dmirror.scenario.text import format_subject, subject
from dmirror.scenario.tree import At

ERRNOS = frozenset(name for name in vars(errno) if name.startswith("E"))
SIGNALS = frozenset(number.name for number in signal.Signals)


class Grammar(Expected):
    """The rules; `faults` are what was wrong with the text that was parsed last. One text at a time."""

    tokens = tokens
    start = "scenario"

    def begin(self, given: Tokens) -> None:
        self.given = given
        self.faults: list[Fault] = []
        self.said: set[tuple[str, int]] = set()

    # Help for rules

    def _at(self, p: Any, first: int = 1, last: int = 0) -> At:
        """From the beginning of a symbol to the end of the last that stands in its line."""
        begin = p.slice[first]
        of_line = [symbol for symbol in p.slice[first : (last or len(p) - 1) + 1] if symbol.lineno == begin.lineno]
        end = max(getattr(symbol, "endlexpos", symbol.lexpos) for symbol in of_line)
        return At(begin.lineno, begin.lexpos, max(end - begin.lexpos, 1))

    def _wrong(self, at: At, message: str, suggestion: str = "") -> None:
        self.faults.append(Fault.at(at, message, suggestion))

    def _known(self, p: Any, what: str, known: Iterable[str], n: int = 1) -> str:
        """A word that the grammar leaves open, of a vocabulary."""
        word = str(p[n])
        if word not in known:
            some = ", ".join(known) if isinstance(known, tuple | dict) else "EFAULT" if known is ERRNOS else "SIGSEGV"
            said = f"{word!r} is no {what}; there {'are' if ',' in some else 'is'} {some}"
            if known in (ERRNOS, SIGNALS):
                said = f"{word!r} is no {what}, such as {some}"
            self._wrong(self._at(p, n, n), said, nearest(word, known))
        return word

    def _with(self, p: Any, made: Any) -> Any:
        return replace(made, at=self._at(p))

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

    @staticmethod
    def _append(made: list[Any], more: Any) -> list[Any]:
        made.append(more)
        return made

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

    # Parts of steps

    def p_new(self, p: Any) -> None:
        """new : NAME"""
        p[0] = p[1]

    def p_rights(self, p: Any) -> None:
        """rights : READ_WRITE
        | READ_ONLY
        | NONE"""
        p[0] = p[1]

    def p_value(self, p: Any) -> None:
        """value : numbers
        | NUMBERED FROM NUMBER"""
        numbers = p[1] if len(p) == 2 else [p[3]]
        hexadecimal = any(isinstance(number, Hexadecimal) for number in numbers)
        p[0] = tree.Value(tuple(map(int, numbers)), len(p) > 2, hexadecimal, at=self._at(p))

    def p_numbers(self, p: Any) -> None:
        """numbers : NUMBER
        | numbers LIST NUMBER"""
        p[0] = [p[1]] if len(p) == 2 else self._append(p[1], p[3])

    def p_pages(self, p: Any) -> None:
        """pages : place
        | place OPEN NUMBER CLOSE
        | place OPEN NUMBER COLON CLOSE
        | place OPEN NUMBER COLON NUMBER CLOSE"""
        first = 0 if len(p) == 2 else p[3]
        stop = {2: None, 5: first + 1, 6: None}[len(p)] if len(p) < 7 else p[5]
        if stop is not None and stop <= first:
            said = "no page: behind the colon stands the page after the last"
            self._wrong(self._at(p, 2), said, f"[{first}:{first + 1}]")
        p[0] = tree.Pages(p[1], first, stop, at=self._at(p))

    def p_place(self, p: Any) -> None:
        """place : NAME"""
        p[0] = p[1]

    def p_actor(self, p: Any) -> None:
        """actor : CPU
        | NAME"""
        p[0] = tree.Actor(p[1], at=self._at(p))

    def p_device(self, p: Any) -> None:
        """device : MIRROR
        | MIRROR OF actor"""
        p[0] = tree.Device(p[1], at=self._at(p)) if len(p) == 2 else tree.Device(p[1], p[3].name, at=self._at(p))

    def p_fails(self, p: Any) -> None:
        """fails : empty
        | FAILS errno"""
        p[0] = None if len(p) == 2 else tree.Fails(p[2], at=self._at(p))

    def p_errno(self, p: Any) -> None:
        """errno : CAPITALS"""
        p[0] = self._known(p, "errno", ERRNOS)

    def p_raises(self, p: Any) -> None:
        """raises : empty
        | RAISES signal"""
        p[0] = None if len(p) == 2 else tree.Fails(p[2], at=self._at(p))

    def p_signal(self, p: Any) -> None:
        """signal : CAPITALS"""
        p[0] = self._known(p, "signal", SIGNALS)

    # What the CPU does

    def p_load(self, p: Any) -> None:
        """step : actor READS pages raises
        | actor READS pages IS value"""
        p[0] = tree.Load(p[1], p[3], outcome=p[len(p) - 1], at=self._at(p))

    def p_store(self, p: Any) -> None:
        """step : actor WRITES pages EQUALS value raises"""
        p[0] = tree.Store(p[1], p[3], p[5], outcome=p[6], at=self._at(p))

    def p_add(self, p: Any) -> None:
        """step : actor ADDS NUMBER TO pages raises"""
        p[0] = tree.Add(p[1], p[5], p[3], outcome=p[6], at=self._at(p))

    def p_call(self, p: Any) -> None:
        """step : actor call fails"""
        p[0] = replace(p[2], actor=p[1], outcome=p[3], at=self._at(p))

    def p_call_pages(self, p: Any) -> None:
        """call : MAPS pages
        | UNMAPS pages
        | LOCKS pages
        | UNLOCKS pages
        | PINS pages
        | UNPINS pages
        | SWAPS OUT pages
        | COLLAPSES pages
        | SPLITS pages"""
        p[0] = tree.Call(tree.Actor(""), " ".join(p[1 : len(p) - 1]), p[len(p) - 1])

    def p_call_protects(self, p: Any) -> None:
        """call : PROTECTS pages rights"""
        p[0] = tree.Call(tree.Actor(""), p[1], p[2], rights=p[3])

    def p_call_moves(self, p: Any) -> None:
        """call : MOVES pages TO pages"""
        p[0] = tree.Call(tree.Actor(""), p[1], p[2], to=p[4])

    def p_call_node(self, p: Any) -> None:
        """call : MOVES pages TO NODE NUMBER"""
        p[0] = tree.Call(tree.Actor(""), "moves to node", p[2], number=p[5])

    def p_call_advises(self, p: Any) -> None:
        """call : ADVISES pages advice"""
        p[0] = tree.Call(tree.Actor(""), p[1], p[2], advice=p[3])

    def p_advice(self, p: Any) -> None:
        """advice : NAME"""
        p[0] = self._known(p, "advice", words.ADVICES)

    def p_limit(self, p: Any) -> None:
        """step : actor LIMITS MEMORY TO NUMBER PAGES fails
        | actor LIFTS THE MEMORY LIMIT fails"""
        p[0] = tree.Limit(p[1], p[5] if len(p) == 8 else None, outcome=p[len(p) - 1], at=self._at(p))

    def p_fork(self, p: Any) -> None:
        """step : actor FORKS new fails"""
        p[0] = tree.Fork(p[1], tree.Actor(p[3], at=self._at(p, 3, 3)), outcome=p[4], at=self._at(p))

    def p_thread(self, p: Any) -> None:
        """step : actor STARTS THREAD new fails"""
        p[0] = tree.Thread(p[1], tree.Actor(p[4], at=self._at(p, 4, 4)), outcome=p[5], at=self._at(p))

    def p_leave(self, p: Any) -> None:
        """step : actor EXITS
        | actor EXECS
        | actor DIES"""
        p[0] = tree.Leave(p[1], p[2], at=self._at(p))

    # What a device does

    def p_device_read(self, p: Any) -> None:
        """step : device READS pages fails
        | device READS pages IS value"""
        p[0] = tree.DeviceRead(p[1], p[3], outcome=p[len(p) - 1], at=self._at(p))

    def p_device_write(self, p: Any) -> None:
        """step : device WRITES pages EQUALS value fails"""
        p[0] = tree.DeviceWrite(p[1], p[3], p[5], outcome=p[6], at=self._at(p))

    def p_peek(self, p: Any) -> None:
        """step : device PEEKS pages fails
        | device PEEKS pages IS value"""
        p[0] = tree.Peek(p[1], p[3], outcome=p[len(p) - 1], at=self._at(p))

    def p_migrate(self, p: Any) -> None:
        """step : device MIGRATES pages TO DEVICE fails
        | device MIGRATES pages TO SYSTEM fails"""
        p[0] = tree.Migrate(p[1], p[3], p[5], outcome=p[6], at=self._at(p))

    def p_exclusive(self, p: Any) -> None:
        """step : device TAKES pages EXCLUSIVELY fails"""
        p[0] = tree.Exclusive(p[1], p[3], outcome=p[5], at=self._at(p))

    def p_snapshot(self, p: Any) -> None:
        """step : device SNAPSHOTS pages fails"""
        p[0] = tree.Snapshot(p[1], p[3], outcome=p[4], at=self._at(p))

    def p_evict(self, p: Any) -> None:
        """step : device EVICTS EVERYTHING fails"""
        p[0] = tree.Evict(p[1], outcome=p[4], at=self._at(p))

    def p_turn(self, p: Any) -> None:
        """step : device CLOSES fails
        | device OPENS fails"""
        p[0] = tree.Turn(p[1], p[2], outcome=p[3], at=self._at(p))

    def p_inject_next(self, p: Any) -> None:
        """step : device FAILS ITS NEXT injected"""
        p[0] = tree.Inject(p[1], p[5], at=self._at(p))

    def p_inject(self, p: Any) -> None:
        """step : device FAILS ITS injected NUMBER
        | device FAILS injected NUMBER"""
        if p[len(p) - 1] == 0:
            self._wrong(self._at(p, len(p) - 1), "they count from 1", "1")
        p[0] = tree.Inject(p[1], p[len(p) - 2], p[len(p) - 1], at=self._at(p))

    def p_injected(self, p: Any) -> None:
        """injected : DEVICE ALLOCATION
        | SYSTEM ALLOCATION
        | COPY"""
        p[0] = " ".join(p[1:])

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
        held = format_subject(subject(p[1]))
        if who and format_subject(who) != held:
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

    # What is expected

    def p_forget(self, p: Any) -> None:
        """forget : FORGET EVENTS"""
        p[0] = tree.Forget(at=self._at(p))

    def p_expect(self, p: Any) -> None:
        """expect : EXPECT expectation
        | EXPECT verdict expectation"""
        p[0] = replace(p[len(p) - 1], verdict=p[2] if len(p) == 4 else None, at=self._at(p))

    def p_verdict(self, p: Any) -> None:
        """verdict : ALWAYS
        | NEVER
        | SOMETIMES"""
        p[0] = p[1]

    def p_where(self, p: Any) -> None:
        """expectation : WHERE pages IS places
        | WHERE pages OF actor IS places"""
        process = p[4].name if len(p) == 7 else tree.MAIN
        p[0] = tree.Where(p[2], tuple(p[len(p) - 1]), process)

    def p_places(self, p: Any) -> None:
        """places : places_of_page
        | places places_of_page"""
        p[0] = p[1] if len(p) == 2 else p[1] + p[2]

    def p_places_of_page(self, p: Any) -> None:
        """places_of_page : where
        | where COUNT"""
        p[0] = [p[1]] if len(p) == 2 else [p[1]] * p[2]
        if not p[0]:
            self._wrong(self._at(p, 2), "x0 are no pages", "x1")

    def p_where_device(self, p: Any) -> None:
        """where : MIRROR"""
        p[0] = p[1]

    def p_where_word(self, p: Any) -> None:
        """where : NAME
        | EXCLUSIVE
        | NONE"""
        p[0] = self._known(p, "place besides a device", words.PLACES)

    def p_allowed(self, p: Any) -> None:
        """expectation : RIGHTS pages IS allowances
        | RIGHTS pages OF actor IS allowances"""
        process = p[4].name if len(p) == 7 else tree.MAIN
        p[0] = tree.Allowed(p[2], tuple(p[len(p) - 1]), process)

    def p_allowances(self, p: Any) -> None:
        """allowances : allowances_of_page
        | allowances allowances_of_page"""
        p[0] = p[1] if len(p) == 2 else p[1] + p[2]

    def p_allowances_of_page(self, p: Any) -> None:
        """allowances_of_page : allowed
        | allowed COUNT"""
        p[0] = [p[1]] if len(p) == 2 else [p[1]] * p[2]
        if not p[0]:
            self._wrong(self._at(p, 2), "x0 are no pages", "x1")

    def p_allowed_word(self, p: Any) -> None:
        """allowed : NAME
        | NONE"""
        p[0] = self._known(p, "right of a page table", words.ALLOWED)

    def p_maps(self, p: Any) -> None:
        """expectation : device MAPS pages
        | device DOES NOT MAP pages"""
        p[0] = tree.Maps(p[1], p[len(p) - 1], len(p) == 4)

    def p_saw(self, p: Any) -> None:
        """expectation : device SAW event from_device over_pages
        | device SAW event from_device over_pages COMMA outcome
        | device SAW event from_device over_pages seen
        | device SAW event from_device over_pages COMMA outcome seen"""
        outcome = p[7] if len(p) >= 8 else ""
        p[0] = tree.Saw(p[1], p[3], p[4], p[5], outcome, p[len(p) - 1] if len(p) in (7, 9) else None)

    def p_event(self, p: Any) -> None:
        """event : CAPITALS"""
        p[0] = self._known(p, "event of the kernel", words.EVENTS)

    def p_from_device(self, p: Any) -> None:
        """from_device : empty
        | FROM MIRROR"""
        p[0] = "" if len(p) == 2 else p[2]

    def p_over_pages(self, p: Any) -> None:
        """over_pages : empty
        | OVER pages"""
        p[0] = p[len(p) - 1]

    def p_outcome(self, p: Any) -> None:
        """outcome : OBEYED
        | FILTERED"""
        p[0] = p[1]

    def p_seen(self, p: Any) -> None:
        """seen : COMMA ONCE
        | COMMA TWICE
        | COMMA NEVER
        | LIST NUMBER TIMES"""
        p[0] = {"once": 1, "twice": 2, "never": 0}.get(p[2], p[2])

    def p_counts(self, p: Any) -> None:
        """expectation : device COUNTED NUMBER counter"""
        p[0] = tree.Counts(p[1], p[4], p[3])

    def p_counter(self, p: Any) -> None:
        """counter : NAME"""
        p[0] = self._known(p, "counter", words.COUNTERS)

    def p_charged(self, p: Any) -> None:
        """expectation : NUMBER PAGES CHARGED"""
        p[0] = tree.Charged(p[1])
