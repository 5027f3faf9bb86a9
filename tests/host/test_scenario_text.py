# SPDX-License-Identifier: GPL-2.0
"""Scenarios as text: any tree comes back from its text, and comments stay where they were."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmirror.paths import ROOT
from dmirror.scenario import tree, words
from dmirror.scenario.check import load
from dmirror.scenario.lexer import KEYWORDS
from dmirror.scenario.parser import parse
from dmirror.scenario.rules import ERRNOS, SIGNALS
from dmirror.scenario.text import format, format_item, format_pages

SCENARIOS = sorted((ROOT / "tests" / "scenarios").glob("*.dms"))

NUMBERS = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
COUNTS = st.integers(1, 99)
NAMES = st.one_of(
    st.sampled_from(["buf", "kid", "t", "x", "x_3", "ram", "zero", "swap", "dontneed"]),
    st.text("abcwxyz019_", min_size=1, max_size=6).map("n".__add__).filter(lambda name: name not in KEYWORDS),
)
VALUES = st.one_of(
    st.builds(tree.Value, st.lists(NUMBERS, min_size=1, max_size=5).map(tuple)),
    st.builds(tree.Value, st.tuples(NUMBERS), st.just(True)),
)
SPANS = st.one_of(
    st.tuples(st.integers(0, 9), st.none()),
    st.tuples(st.integers(0, 9), COUNTS).map(lambda span: (span[0], sum(span))),
)
PAGES = st.builds(lambda region, span: tree.Pages(region, *span), NAMES, SPANS)
ACTORS = st.builds(tree.Actor, st.one_of(st.just(tree.MAIN), NAMES))
DEVICES = st.builds(tree.Device, st.sampled_from("ABCD"), st.one_of(st.just(tree.MAIN), NAMES))
RIGHTS = st.sampled_from(list(words.RIGHTS))
OWN_MOUTHS = ("protects", "moves", "advises", "moves to node")

fails = st.one_of(st.none(), st.builds(tree.Fails, st.sampled_from(sorted(ERRNOS))))
raises = st.one_of(st.none(), st.builds(tree.Fails, st.sampled_from(sorted(SIGNALS))))


def step(kind, *arguments, outcome=fails):
    return st.builds(kind, *arguments, outcome=outcome)


CALLS = st.one_of(
    step(tree.Call, ACTORS, st.sampled_from([verb for verb in words.CALLS if verb not in OWN_MOUTHS]), PAGES),
    *(
        st.builds(tree.Call, ACTORS, st.just(verb), PAGES, outcome=fails, **{argument: values})
        for verb, argument, values in zip(
            OWN_MOUTHS,
            ("rights", "to", "advice", "number"),
            (RIGHTS, PAGES, st.sampled_from(list(words.ADVICES)), st.integers(0, 3)),
            strict=True,
        )
    ),
)
PLAIN = st.one_of(
    step(tree.Load, ACTORS, PAGES, outcome=st.one_of(raises, VALUES)),
    step(tree.Store, ACTORS, PAGES, VALUES, outcome=raises),
    step(tree.Add, ACTORS, PAGES, NUMBERS, outcome=raises),
    CALLS,
    step(tree.Limit, ACTORS, st.one_of(st.none(), COUNTS)),
    step(tree.Fork, ACTORS, st.builds(tree.Actor, NAMES)),
    step(tree.Thread, ACTORS, st.builds(tree.Actor, NAMES)),
    step(tree.Leave, ACTORS, st.sampled_from(["exits", "execs", "dies"]), outcome=st.none()),
    step(tree.DeviceRead, DEVICES, PAGES, outcome=st.one_of(fails, VALUES)),
    step(tree.DeviceWrite, DEVICES, PAGES, VALUES),
    step(tree.Peek, DEVICES, PAGES, outcome=st.one_of(fails, VALUES)),
    step(tree.Migrate, DEVICES, PAGES, st.sampled_from(["device", "system"])),
    step(tree.Exclusive, DEVICES, PAGES),
    step(tree.Snapshot, DEVICES, PAGES),
    step(tree.Evict, DEVICES),
    step(tree.Turn, DEVICES, st.sampled_from(["closes", "opens"])),
    step(
        tree.Inject,
        DEVICES,
        st.sampled_from(["device allocation", "system allocation", "copy"]),
        COUNTS,
        outcome=st.none(),
    ),
)
PROCESSES = st.one_of(st.just(tree.MAIN), NAMES)
EVERYWHERE = st.lists(st.sampled_from([*words.PLACES, *"ABCD"]), min_size=1, max_size=9).map(tuple)
EXPECTATIONS = st.one_of(
    st.builds(tree.Where, PAGES, EVERYWHERE, PROCESSES),
    st.builds(
        tree.Allowed, PAGES, st.lists(st.sampled_from(words.ALLOWED), min_size=1, max_size=9).map(tuple), PROCESSES
    ),
    st.builds(tree.Maps, DEVICES, PAGES, st.booleans()),
    st.builds(
        tree.Saw,
        DEVICES,
        st.sampled_from(words.EVENTS),
        st.sampled_from(["", *"ABCD"]),
        st.one_of(st.none(), PAGES),
        st.sampled_from(["", "obeyed", "filtered"]),
        st.one_of(st.none(), st.integers(0, 5)),
    ),
    st.builds(tree.Counts, DEVICES, st.sampled_from(words.COUNTERS), NUMBERS),
    st.builds(tree.Charged, NUMBERS),
)
VERDICTS = st.sampled_from([None, "always", "never", "sometimes"])
LINES = st.one_of(
    PLAIN,
    PLAIN.map(lambda done: replace(done, waits=True)),
    st.builds(lambda expected, verdict: replace(expected, verdict=verdict), EXPECTATIONS, VERDICTS),
    st.just(tree.Forget()),
)
HOLDS = st.builds(tree.Hold, st.sampled_from(tree.Point.__args__), st.one_of(st.none(), DEVICES))


def blocks(items):
    inside = st.lists(items, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(lambda done, hold, block: replace(done, held=hold, block=block), PLAIN, HOLDS, inside),
        st.builds(tree.Par, st.lists(inside, min_size=1, max_size=3).map(tuple), COUNTS),
    )


ITEMS = st.recursive(LINES, blocks, max_leaves=8)
RELEASES = st.tuples(st.integers(0, 99), st.integers(0, 99))
NEEDS = st.one_of(
    st.builds(tree.Need, st.sampled_from([need for need in words.NEEDS if need not in ("config", "capability")])),
    st.builds(tree.Need, st.just("config"), st.just("CONFIG_KSM")),
    st.builds(tree.Need, st.just("capability"), st.sampled_from(words.CAPABILITIES)),
    st.builds(tree.NeedKernel, RELEASES, st.one_of(st.none(), RELEASES)),
    st.builds(tree.NeedKernel, st.none(), RELEASES),
)
POPULATED = st.one_of(
    st.fixed_dictionaries({"written": VALUES}), st.fixed_dictionaries({"read": st.booleans()}), st.just({})
)
REGIONS = st.builds(
    lambda populated, *rest: tree.Region(*rest[:5], **populated, shared_with=rest[5]),
    POPULATED,
    NAMES,
    st.sampled_from(tree.RegionKind.__args__),
    COUNTS,
    st.booleans(),
    RIGHTS,
    st.one_of(st.just(""), NAMES),
)
TITLES = st.text(st.one_of(st.sampled_from('\\"# '), st.characters(exclude_categories="CZ")), max_size=20)
TREES = st.builds(
    tree.Scenario,
    TITLES,
    st.lists(REGIONS, max_size=3).map(tuple),
    st.lists(ITEMS, max_size=4).map(tuple),
    st.lists(st.from_regex(r"[A-Z]-[0-9]{2}", fullmatch=True), max_size=3).map(tuple),
    st.lists(NEEDS, max_size=3).map(tuple),
)
MANY = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@MANY
@given(TREES)
def test_any_tree_comes_back_from_its_text(scenario):
    text = format(scenario)
    again = parse(text)
    assert again == scenario
    assert format(again) == text


@MANY
@given(ITEMS)
def test_any_item_comes_back_from_its_lines(item):
    lines = format_item(item)
    assert parse("\n".join(['scenario ""', *lines])).items == (item,)


@MANY
@given(TREES, st.data())
def test_comments_and_blank_lines_survive(scenario, data):
    """At whatever places in the text of whatever tree."""
    lines = format(scenario).split("\n")[:-1]
    for number in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(lines)))
        kind = data.draw(st.sampled_from(["own line", "behind", "blank"]))
        if kind == "behind" and place < len(lines) and lines[place] and "#" not in lines[place]:
            lines[place] += f"   # {number}"
        else:
            lines.insert(place, "" if kind == "blank" else f"    # {number}")
    before = parse("\n".join(lines))
    text = format(before)
    after = parse(text)
    assert after == before
    assert [comment.text for comment in after.comments] == [comment.text for comment in before.comments]
    assert [comment.own_line for comment in after.comments] == [comment.own_line for comment in before.comments]
    assert format(after) == text


COMMENTED = """# a file

# of comments
scenario "it's \\"quoted\\""  # title
# contract
contract Z-02, C-01  # behind
# need
needs swap

# region
region buf: anonymous 4 pages  # buf

# step
A migrates buf to device, held after setup  # held
    # in the block
    B reads buf[0] == 0

    # at its end
# before it goes on
A resumes  # goes on
par 2 times  # par
    # before a column
    column  # one
        CPU reads buf  # load
        # at the end of one
    # before two
    column
        A reads buf
        # at the end of two
    # at the end of the par
# then
expect where buf == A x3 ram  # where
# the end
"""


def test_comments_stand_with_what_they_are_about():
    wanted = COMMENTED.replace("# before it goes on\nA resumes", "# before it goes on\nA resumes")
    assert format(parse(COMMENTED)) == wanted


@pytest.mark.parametrize(
    ("written", "formatted"),
    [
        ("A  fails system allocation 3", "A fails its system allocation 3"),
        ("CPU reads buf[0:1]==0XAB", "CPU reads buf[0] == 0xab"),
        ("expect where buf == A A A ram", "expect where buf == A x3 ram"),
        ("expect where buf == ram x1 none x2", "expect where buf == ram none none"),
        ("expect 1 pages charged", "expect 1 page charged"),
        ("expect B saw CLEAR, 1 times", "expect B saw CLEAR, once"),
        ("par twice\n  column\n    A reads buf", "par 2 times\n    column\n        A reads buf"),
        ("par once\n column\n  A reads buf", "par\n    column\n        A reads buf"),
    ],
)
def test_one_thing_has_one_form(written, formatted):
    scenario = parse(f'scenario "x"\n{written}\n')
    assert "\n".join(format_item(scenario.items[0])) == formatted


def test_pages_print_as_they_are_written():
    for text in ("buf", "buf[3]", "buf[2:6]", "buf[2:]"):
        (item,) = parse(f'scenario "x"\nCPU reads {text}\n').items
        assert format_pages(item.pages) == text


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_scenarios_are_right_and_formatted(file):
    """dmirror fmt does it."""
    assert format(load(file)) == file.read_text()
