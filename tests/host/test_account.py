# SPDX-License-Identifier: GPL-2.0
"""The account around every test: what it is measured by, what is noise, and what is a leak."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat

import pytest

from dmirror import oracles
from dmirror.oracles import Account
from dmirror.plugin import fixtures

EVEN = Account({0: (0, 0)}, 0, 0, 0, 0)
Feed = Callable[..., None]


def off(pages: int) -> Account:
    return EVEN._replace(anon=pages)


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    """`feed(*accounts)`: what is read, one after another, and the last from then on; nothing was read before."""

    def readings(*accounts: Account, settles: float = 0.3) -> None:
        coming = chain(accounts, repeat(accounts[-1]))
        monkeypatch.setattr(oracles, "read", lambda: next(coming))
        monkeypatch.setattr(oracles, "SETTLES", settles)

    monkeypatch.setattr(fixtures, "_account", None)
    return readings


@pytest.mark.parametrize("noise", [off(-33), off(200), EVEN._replace(devices={0: (0, 1)})], ids=["33", "200", "opened"])
def test_one_noisy_reading_before_the_first_test_is_no_baseline(feed: Feed, noise: Account) -> None:
    feed(noise, EVEN)
    for _ in range(2):
        with fixtures.balanced():
            pass


def test_one_noisy_reading_after_a_test_is_no_leak(feed: Feed) -> None:
    feed(EVEN, EVEN, off(-33), EVEN)
    with fixtures.balanced():
        pass


def test_one_noisy_reading_after_a_failure_is_no_baseline_of_the_next_test(feed: Feed) -> None:
    """The last one that the failure rests on has 90 pages by chance."""
    feed(EVEN, EVEN, off(90), off(50), settles=0.0)
    with pytest.raises(pytest.fail.Exception, match=r"\+90"), fixtures.balanced():
        pass
    with fixtures.balanced():
        pass


def test_what_stays_wrong_is_said_once(feed: Feed) -> None:
    feed(EVEN, EVEN, off(33))
    with pytest.raises(pytest.fail.Exception, match=r"memory.stat has \+33 anonymous pages more"), fixtures.balanced():
        pass
    with fixtures.balanced():
        pass


def test_small_differences_add_up_from_the_first_test_on(feed: Feed) -> None:
    feed(EVEN, EVEN, off(20), off(40))
    with fixtures.balanced():
        pass
    with pytest.raises(pytest.fail.Exception, match=r"\+40 anonymous pages .* it was \+0"), fixtures.balanced():
        pass


def test_a_machine_that_never_comes_to_rest_does_not_keep_the_tests_from_beginning(
    feed: Feed,
) -> None:
    feed(*(off(100 * number) for number in range(1000)))
    assert oracles.confirmed().anon
