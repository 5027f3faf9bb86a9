# SPDX-License-Identifier: GPL-2.0
"""Which kernels are known, and which version and archive of each is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmirror.errors import CannotRun
from dmirror.kernel import apt, catalogue

_TARGETS = """\
Base-URI: http://third.example/repo/dists/stable/
Repo-URI: http://third.example/repo/
Origin: Somebody
Label: Debian

MetaKey: main/binary-amd64/Packages
Base-URI: http://mirror.example/debian/dists/bookworm/
Repo-URI: http://mirror.example/debian/
Origin: Debian
Label: Debian
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

MetaKey: main/binary-amd64/Packages
Base-URI: http://other.example/safe/dists/bookworm-security/
Repo-URI: http://other.example/safe/
Origin: Debian
Label: Debian-Security
"""

_MADISON = """\
linux-source-7.3 | 7.3.4-1~bpo13+1 | http://m/debian trixie-backports/main amd64 Packages
linux-source-7.3 |  7.3.10-1 | http://m/debian sid/main amd64 Packages
linux-source-7.3 | 7.3.9-1 | http://m/debian forky/main amd64 Packages
linux-source-7.3 | 7.3.11~rc1-1~exp1 | http://m/debian experimental/main amd64 Packages
"""


def _numbers(series: str) -> tuple[int, ...]:
    return tuple(int(number) for number in series.split("."))


def test_the_default_is_the_newest_series() -> None:
    known = catalogue.load()
    assert {"6.1", "6.12", "7.2", "7.3"} <= set(known.series())
    assert known.default == max(known.series(), key=_numbers)
    assert known.find(None).series == known.default


def test_a_series_is_found_by_its_name() -> None:
    assert catalogue.load().find("6.12").package == "linux-source-6.12"


def test_an_unknown_kernel_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(CannotRun, match=r"KERNEL=9\.9 .*6\.1, 6\.12, 7\.2, 7\.3.*KDIR="):
        catalogue.load().find("9.9")


@pytest.mark.parametrize(
    "content",
    ['default = "7.3"\n', 'default = "7.3"\n[kernel."7.3"]\npackage = "p"\n', "default = \n"],
    ids=["no kernels", "no suites", "not toml"],
)
def test_a_broken_catalogue_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kernels.toml"
    path.write_text(content)
    with pytest.raises(CannotRun, match=r"kernels\.toml"):
        catalogue.load(path)


def test_a_default_that_is_no_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernels.toml"
    path.write_text('default = "8.0"\n[kernel."7.3"]\npackage = "p"\nsuites = ["sid"]\n')
    with pytest.raises(CannotRun, match=r"KERNEL=8\.0"):
        catalogue.load(path)


def test_the_newest_version_is_chosen_in_debians_order() -> None:
    assert apt.newest(_MADISON, candidates=False) == "7.3.10-1"


def test_a_release_candidate_counts_only_when_asked_for() -> None:
    assert apt.newest(_MADISON, candidates=True) == "7.3.11~rc1-1~exp1"
    only = "linux-source-7.4 | 7.4~rc2-1~exp1 | http://m/debian experimental/main amd64 Packages\n"
    assert apt.newest(only, candidates=False) is None


def test_archives_are_told_apart_and_those_of_others_left_out() -> None:
    assert apt.archives(_TARGETS) == {
        "Debian": "http://mirror.example/debian/",
        "Debian-Security": "http://other.example/safe/",
    }


def test_archives_are_known_before_the_first_update() -> None:
    bare = """\
Base-URI: http://m.example/debian-security/dists/bookworm-security/
Repo-URI: http://m.example/debian-security/
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Base-URI: http://m.example/debian/dists/bookworm/
Repo-URI: http://m.example/debian/
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Base-URI: http://third.example/dists/x/
Repo-URI: http://third.example/
"""
    assert apt.archives(bare) == {
        "Debian": "http://m.example/debian/",
        "Debian-Security": "http://m.example/debian-security/",
    }


def test_each_suite_is_asked_of_its_archive_with_debians_keyring() -> None:
    lines = apt.sources_list(("sid", "bookworm-security"), apt.archives(_TARGETS)).splitlines()
    assert [line.split()[2:] for line in lines] == [
        ["http://mirror.example/debian/", "sid", "main"],
        ["http://other.example/safe/", "bookworm-security", "main"],
    ]
    assert all("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in line for line in lines)


def test_without_a_debian_archive_the_mend_is_kdir() -> None:
    with pytest.raises(CannotRun, match="KDIR="):
        apt.sources_list(("sid",), {})
