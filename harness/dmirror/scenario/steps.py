# SPDX-License-Identifier: GPL-2.0
"""The grammar of steps: what processes and devices do, and to which pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmirror.scenario import tree, words
from dmirror.scenario.lexer import Hexadecimal
from dmirror.scenario.rules import ERRNOS, SIGNALS, Rules


class Steps(Rules):
    """The rules from `step` down."""

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
        p[0] = self._known(p, "errno", ERRNOS, "EFAULT")

    def p_raises(self, p: Any) -> None:
        """raises : empty
        | RAISES signal"""
        p[0] = None if len(p) == 2 else tree.Fails(p[2], at=self._at(p))

    def p_signal(self, p: Any) -> None:
        """signal : CAPITALS"""
        p[0] = self._known(p, "signal", SIGNALS, "SIGSEGV")

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
