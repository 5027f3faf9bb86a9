# SPDX-License-Identifier: GPL-2.0
"""Config fragments: every option is verified, and one that did not take is explained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import config
from dmirror.kernel.config import Option
from dmirror.kernel.kconfig import Kconfig, parse, unmet, value
from dmirror.paths import QEMU

_ON = {
    "MMU": "y",
    "MEMORY_HOTPLUG": "y",
    "SPARSEMEM": "y",
    "ZONE_DEVICE": "y",
    "NR_CPUS": "16",
    "EXPERT": "y",
}


def _option(name: str, value: str = "y", remark: str = "") -> Option:
    return Option(name, value, remark, "base.config:7")


def _without(*names: str) -> dict[str, str]:
    return {name: on for name, on in _ON.items() if name not in names}


@pytest.fixture
def fragments(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "base.config").write_text("CONFIG_A=y\nCONFIG_B=y  # a reason\n\n# words\n")
    (folder / "debug.config").write_text('# CONFIG_B is not set\nCONFIG_C="a b"\n')
    (folder / "required.config").write_text("")
    return folder


def test_a_flavour_is_base_overridden_by_its_own_fragment(fragments: Path) -> None:
    assert config.flavours(fragments) == ("default", "debug")
    assert {option.name: option.value for option in config.options("default", fragments)} == {
        "A": "y",
        "B": "y",
    }
    debug = {option.name: option.value for option in config.options("debug", fragments)}
    assert debug == {"A": "y", "B": "n", "C": '"a b"'}


def test_what_is_given_is_over_base_and_flavour_and_verified_like_them(fragments: Path, tree: Path) -> None:
    wanted = config.options("default", fragments, given=("CONFIG_B=n", "CONFIG_TUNED=y"))
    merged = {option.name: option.value for option in wanted}
    assert merged["B"] == "n"
    assert merged["TUNED"] == "y"
    with pytest.raises(CannotRun, match=r"--config CONFIG_TUNED=y: CONFIG_TUNED=y did not take"):
        config.verify([option for option in wanted if option.name == "TUNED"], {}, Kconfig(tree))
    with pytest.raises(CannotRun, match="--config CONFIG_DEVICE_PRIVATE=n: y is needed by the driver"):
        config.options("default", fragments, given=("CONFIG_DEVICE_PRIVATE=n",))
    for line in ("ZONE_DEVICE=n", "# a comment"):
        with pytest.raises(CannotRun, match=f"--config {line}: .* is not an option; write CONFIG_NAME=value"):
            config.options("default", fragments, given=(line,))


def test_an_unknown_flavour_is_refused_naming_the_known_ones(fragments: Path) -> None:
    with pytest.raises(CannotRun, match=r"FLAVOUR=fast .*default, debug"):
        config.options("fast", fragments)


def test_a_line_that_is_no_option_is_refused_with_its_place(fragments: Path) -> None:
    (fragments / "base.config").write_text("CONFIG_A=y\nCONFIG_B\n")
    with pytest.raises(CannotRun, match=r"base\.config:2: 'CONFIG_B'"):
        config.options("default", fragments)


def test_a_comment_does_not_change_what_is_asked_for_but_a_condition_does(fragments: Path) -> None:
    first = config.request_digest(config.options("default", fragments))
    (fragments / "base.config").write_text("CONFIG_A=y\nCONFIG_B=y  # another reason\n")
    assert config.request_digest(config.options("default", fragments)) == first
    (fragments / "base.config").write_text("CONFIG_A=y\nCONFIG_B=y  # only if B exists\n")
    assert config.request_digest(config.options("default", fragments)) != first


def test_a_condition_is_asked_of_the_tree(tree: Path) -> None:
    kconfig = Kconfig(tree)
    assert _option("INET", remark="only if 9P_FS depends on INET").counts(kconfig)
    assert not _option("INET", remark="only if NET_9P depends on INET").counts(kconfig)
    assert _option("NET_9P", remark="only if NET_9P exists").counts(kconfig)
    assert not _option("PROC_SYSCTL", remark="only if PROC_SYSCTL exists").counts(kconfig)
    assert _option("NET_9P", remark="a reason").counts(kconfig)


def test_what_encloses_an_option_counts_and_what_has_ended_does_not(tree: Path) -> None:
    kconfig = Kconfig(tree)
    assert kconfig.depends_on("DEVICE_PRIVATE", "MMU")
    assert kconfig.depends_on("DEVICE_PRIVATE", "ZONE_DEVICE")
    assert not kconfig.depends_on("TUNED", "MMU")


def test_options_that_took_are_accepted(tree: Path) -> None:
    config.verify([_option("ZONE_DEVICE"), _option("NR_CPUS", "16"), _option("ODD", "n")], _ON, Kconfig(tree))


def test_an_option_that_did_not_take_names_the_unmet_dependency(tree: Path) -> None:
    with pytest.raises(CannotRun) as caught:
        config.verify([_option("ZONE_DEVICE")], _without("ZONE_DEVICE", "MEMORY_HOTPLUG"), Kconfig(tree))
    said = str(caught.value)
    assert "base.config:7: CONFIG_ZONE_DEVICE=y did not take, it is n" in said
    assert "depends on MMU && (MEMORY_HOTPLUG && (SPARSEMEM || FLATMEM))" in said
    assert "MEMORY_HOTPLUG is off (Kconfig:7)" in said
    assert "SPARSEMEM is off" not in said


def test_all_options_that_did_not_take_are_named(tree: Path) -> None:
    with pytest.raises(CannotRun, match="neither did CONFIG_DEVICE_PRIVATE, CONFIG_NET_9P"):
        config.verify([_option("ZONE_DEVICE"), _option("DEVICE_PRIVATE"), _option("NET_9P")], {}, Kconfig(tree))


@pytest.mark.parametrize(
    ("name", "wanted", "found", "reason"),
    [
        ("NO_SUCH", "y", _ON, "this tree has no option NO_SUCH"),
        ("NOT_AN_OPTION", "y", _ON, "this tree has no option NOT_AN_OPTION"),
        ("DEVICE_PRIVATE", "y", _without("ZONE_DEVICE"), "ZONE_DEVICE is off (mm/Kconfig:1)"),
        ("DEVICE_PRIVATE", "y", _without("MMU"), "MMU is off"),
        ("DEVICE_PRIVATE", "y", _ON | {"ODD": "y"}, "ODD is on"),
        ("DEVICE_PRIVATE", "y", _ON | {"NR_CPUS": "1"}, "NR_CPUS >= 2 does not hold"),
        (
            "ZONE_DEVICE",
            "y",
            _without("SPARSEMEM"),
            "SPARSEMEM is off and FLATMEM is off (one of them is enough)",
        ),
        ("HMM_MIRROR", "y", _ON, "it has no prompt, other options select it"),
        ("TUNED", "y", _ON | {"PREEMPT_RT": "y"}, "PREEMPT_RT is on"),
        ("TUNED", "y", _ON | {"SMALL": "y"}, "SMALL is on and BIG is off (one of them is enough)"),
        ("TUNED", "y", _without("EXPERT"), "its prompt shows only if EXPERT, and EXPERT is off"),
        ("TUNED", "m", _ON, "it is a bool"),
        ("ZONE_DEVICE", "n", _ON, "another option selects it"),
    ],
)
def test_why_an_option_did_not_take(tree: Path, name: str, wanted: str, found: dict[str, str], reason: str) -> None:
    assert reason in Kconfig(tree).explain(name, wanted, found)


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("A && !B", 2),
        ("B || C", 1),
        ("!C", 1),
        ("A = y && N > 3", 2),
        ('S = "text"', 2),
        ("S != C", 2),
        ("N < 0x4", 0),
        ("(A && B) || !(A && D)", 2),
        ("!A || $(success,echo 'f() { g((x)); }' | $(CC) -c -)", 2),
        ("$(cc-option,-mfoo) && Z", 0),
    ],
)
def test_expressions_have_kconfigs_values(text: str, on: int) -> None:
    found = {"A": "y", "C": "m", "N": "16", "S": '"text"'}
    assert value(parse(text), found) == on
    assert bool(unmet(parse(text), found)) == (on == 0)


@pytest.mark.parametrize("text", ["A &&", "(A", "A B", "!"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expression|bracket|unexpected"):
        parse(text)


def _build_of_ours(tmp_path: Path, *, without: str = "", instead: str = "") -> dict[str, str]:
    """A .config that has all that is required, but for one option."""
    path = tmp_path / ".config"
    shutil.copy(QEMU / "config/required.config", path)
    kept = [line.split("#")[0].strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    path.write_text("\n".join(line for line in kept if line != f"CONFIG_{without}=y") + f"\n{instead}\n")
    return config.read_config(path)


def test_a_build_with_all_that_is_required_is_accepted(tmp_path: Path) -> None:
    config.check_built(_build_of_ours(tmp_path), where="KBUILD=x")


def test_a_build_without_device_private_is_refused_with_who_needs_it_and_the_mend(tmp_path: Path) -> None:
    found = _build_of_ours(tmp_path, without="DEVICE_PRIVATE", instead="# CONFIG_DEVICE_PRIVATE is not set")
    with pytest.raises(CannotRun, match=r"KBUILD=x has CONFIG_DEVICE_PRIVATE=n.*driver: .*DEVICE_PRIVATE=y"):
        config.check_built(found, where="KBUILD=x")


def test_what_the_guest_boots_from_must_be_built_in(tmp_path: Path) -> None:
    found = _build_of_ours(tmp_path, without="9P_FS", instead="CONFIG_9P_FS=m")
    with pytest.raises(CannotRun, match=r"CONFIG_9P_FS=m, y is needed by the guest"):
        config.check_built(found, where="KBUILD=x")
    config.check_built(found, where="KBUILD=x", who="driver")


def test_every_required_option_says_who_needs_it_and_base_does_not_lack_it() -> None:
    required = config.read_fragment(QEMU / "config/required.config")
    assert all(option.remark.startswith(("driver: ", "guest: ")) for option in required)
    selected = {"MMU", "MMU_NOTIFIER", "HMM_MIRROR"}  # without a prompt
    assert {option.name for option in required} - {option.name for option in config.options("default")} <= selected


def test_a_digest_is_of_the_options_alone(tmp_path: Path) -> None:
    path = tmp_path / ".config"
    path.write_text("# Linux/x86 7.3.4\nCONFIG_A=y\n# CONFIG_B is not set\n")
    first = config.digest(path)
    path.write_text("# Linux/x86 7.3.5\nCONFIG_A=y\n")
    assert config.digest(path) == first
    path.write_text("CONFIG_A=m\n")
    assert config.digest(path) != first
