# SPDX-License-Identifier: GPL-2.0
"""The grammar of expectations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmirror.scenario import tree, words
from dmirror.scenario.rules import Rules


class Expects(Rules):
    """The rules from `expect` down, and `forget`."""

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
        p[0] = tree.Where(p[2], tuple(p[len(p) - 1]), process, self._at(p, len(p) - 1))

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
        p[0] = tree.Allowed(p[2], tuple(p[len(p) - 1]), process, self._at(p, len(p) - 1))

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
