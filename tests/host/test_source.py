# SPDX-License-Identifier: GPL-2.0
"""Where a tree comes from: packages of a real (local) archive, and users' own trees."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import git

from dmirror.errors import CannotRun
from dmirror.kernel import apt, source
from dmirror.kernel.catalogue import KnownKernel

_KNOWN = KnownKernel(series="7.3", package="linux-source-7.3", suites=("sid",))


class Archive:
    """A local archive of source packages, as apt reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = f"deb [trusted=yes] file:{folder} ./\n"
        folder.mkdir()

    def add(self, version: str, tree: Path) -> None:
        """Make a linux-source package of a tree and list it."""
        root = self.folder.parent / f"root-{version}"
        (root / "usr/src").mkdir(parents=True)
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN/control").write_text(
            f"Package: linux-source-7.3\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n"
        )
        tarball = root / "usr/src/linux-source-7.3.tar.xz"
        named = ["--transform", "s,^linux,linux-source-7.3,"]
        subprocess.run(["tar", "-C", str(tree.parent), *named, "-cJf", str(tarball), tree.name], check=True)
        deb = self.folder / f"linux-source-7.3_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", str(root), str(deb)], check=True, stdout=subprocess.DEVNULL)
        stanzas = []
        for path in self.folder.glob("*.deb"):
            control = subprocess.run(["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True)
            content = path.read_bytes()
            stanzas.append(
                f"{control.stdout}Filename: ./{path.name}\nSize: {len(content)}\n"
                f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
            )
        (self.folder / "Packages.gz").write_bytes(gzip.compress("\n".join(stanzas).encode()))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive that packaged() looks in; only the choice of the machine's own archives is left out."""
    made = Archive(tmp_path / "archive")
    monkeypatch.setattr(apt, "system_archives", dict)
    monkeypatch.setattr(apt, "sources_list", lambda suites, uris: made.sources)
    return made


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_package_is_fetched_and_unpacked(archive: Archive, tree: Path, cache_folder: Path) -> None:
    archive.add("7.3.3-1", tree)
    (tree / "mm/hmm.c").write_text("int newer;\n")
    archive.add("7.3.4-1~bpo13+1", tree)
    found = source.packaged(_KNOWN)
    assert (found.label, found.series) == ("7.3.4", "7.3")
    assert (found.tree / "mm/hmm.c").read_text() == "int newer;\n"
    assert found.identity == "deb:linux-source-7.3:7.3.4-1~bpo13+1"
    # Neither the package, nor its tarball, nor apt's lists are kept.
    assert _entries(cache_folder / "sources") == [
        "7.3.json",
        "7.3.json.lock",
        "linux-source-7.3_7.3.4-1~bpo13+1",
    ]
    assert not list((cache_folder / "apt").iterdir())


def test_a_fetched_source_stays_until_it_is_refreshed(archive: Archive, tree: Path) -> None:
    archive.add("7.3.4-1", tree)
    first = source.packaged(_KNOWN)
    archive.add("7.3.5-1", tree)
    assert source.packaged(_KNOWN) == first
    assert source.refresh(_KNOWN).identity.endswith("7.3.5-1")
    assert source.packaged(_KNOWN).identity.endswith("7.3.5-1")


def test_a_fetched_source_needs_no_archive(archive: Archive, tree: Path) -> None:
    archive.add("7.3.4-1", tree)
    source.packaged(_KNOWN)
    shutil.rmtree(archive.folder)
    assert source.packaged(_KNOWN).label == "7.3.4"


def test_a_tampered_package_is_refused(archive: Archive, tree: Path, cache_folder: Path) -> None:
    archive.add("7.3.4-1", tree)
    deb = archive.folder / "linux-source-7.3_7.3.4-1_all.deb"
    content = bytearray(deb.read_bytes())
    content[-1] ^= 1
    deb.write_bytes(content)
    with pytest.raises(CannotRun, match=r"cannot download linux-source-7\.3"):
        source.packaged(_KNOWN)
    assert _entries(cache_folder / "sources") == ["7.3.json.lock"]


def test_what_a_killed_run_left_is_removed(archive: Archive, tree: Path, cache_folder: Path) -> None:
    archive.add("7.3.4-1", tree)
    (cache_folder / "sources/unpacking-x/tree").mkdir(parents=True)
    source.packaged(_KNOWN)
    assert not (cache_folder / "sources/unpacking-x").exists()


@pytest.mark.parametrize("uri", ["file:/nowhere", "http://127.0.0.1:9/nowhere"], ids=["missing", "no answer"])
def test_an_archive_out_of_reach_is_one_clear_line(archive: Archive, uri: str) -> None:
    archive.sources = f"deb [trusted=yes] {uri} ./\n"
    with pytest.raises(CannotRun, match=r"cannot look up linux-source-7\.3: .*nowhere.*; check the net") as caught:
        source.packaged(_KNOWN)
    assert "\n" not in str(caught.value)


def test_an_archive_without_the_package_names_the_suites(archive: Archive) -> None:
    (archive.folder / "Packages.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(CannotRun, match=r"sid hold no linux-source-7\.3"):
        source.packaged(_KNOWN)


def test_a_git_tree_is_named_by_what_it_holds(git_tree: Path) -> None:
    first = source.given(git_tree)
    assert first.label == "7.3.4"
    assert source.given(git_tree).identity == first.identity

    (git_tree / "mm/hmm.c").write_text("int patched;\n")
    edited = source.given(git_tree)
    assert edited.identity != first.identity
    assert edited.place == first.place

    (git_tree / "mm/new.c").write_text("int added;\n")
    added = source.given(git_tree)
    (git_tree / "mm/new.c").write_text("int other;\n")
    assert len({first.identity, edited.identity, added.identity, source.given(git_tree).identity}) == 4


def test_what_git_ignores_is_no_part_of_a_tree(git_tree: Path) -> None:
    first = source.given(git_tree).identity
    (git_tree / "mm/hmm.o").write_text("")
    assert source.given(git_tree).identity == first


def test_a_commit_names_another_tree(git_tree: Path) -> None:
    first = source.given(git_tree).identity
    git(git_tree, "commit", "--quiet", "--allow-empty", "--message", "second")
    assert source.given(git_tree).identity != first


def test_a_tree_inside_another_checkout_is_not_named_by_it(tree: Path) -> None:
    git(tree.parent, "init", "--quiet")
    git(tree.parent, "commit", "--quiet", "--allow-empty", "--message", "outer")
    assert source.given(tree).identity.startswith("files:")


def test_a_tree_without_git_is_named_by_its_files(tree: Path) -> None:
    first = source.given(tree).identity
    assert source.given(tree).identity == first
    os.utime(tree / "mm/hmm.c", ns=(1, 1))
    touched = source.given(tree).identity
    (tree / "mm/extra.c").write_text("")
    assert len({first, touched, source.given(tree).identity}) == 3


def test_looking_at_a_tree_changes_nothing_in_it(git_tree: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = (path for path in git_tree.rglob("*"))
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}

    os.utime(git_tree / "mm/hmm.c", ns=(1, 1))  # git would like to note that it is unchanged
    before = state()
    source.given(git_tree)
    assert state() == before


def test_a_folder_that_is_no_tree_is_refused_saying_what_is_missing(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(CannotRun, match="is not a folder"):
        source.given(tmp_path / "nothing")
    with pytest.raises(CannotRun, match="it has no Makefile"):
        source.given(tmp_path)
    shutil.rmtree(tree / "mm")
    with pytest.raises(CannotRun, match="it has no mm"):
        source.given(tree)


def test_a_makefile_without_a_version_is_no_kernels(tree: Path) -> None:
    (tree / "Makefile").write_text("all:\n")
    with pytest.raises(CannotRun, match="VERSION"):
        source.given(tree)


def test_a_tree_configured_in_place_is_refused_with_the_mend(tree: Path) -> None:
    (tree / ".config").write_text("")
    with pytest.raises(CannotRun, match=rf"make -C {tree} mrproper"):
        source.given(tree)
    (tree / "vmlinux").write_text("")
    (tree / "Module.symvers").write_text("")
    with pytest.raises(CannotRun, match=rf"KBUILD={tree}"):
        source.given(tree)


@pytest.mark.parametrize(
    ("numbers", "label"),
    [
        ("7 3 4 ''", "7.3.4"),
        ("7 3 0 ''", "7.3"),
        ("7 3 0 -rc7", "7.3.0-rc7"),
        ("6 1 192 -rt1", "6.1.192-rt1"),
    ],
)
def test_a_version_is_read_as_people_write_it(tree: Path, numbers: str, label: str) -> None:
    version, patchlevel, sublevel, extra = numbers.replace("'", "").split(" ")
    (tree / "Makefile").write_text(
        f"VERSION = {version}\nPATCHLEVEL = {patchlevel}\nSUBLEVEL = {sublevel}\nEXTRAVERSION = {extra}\nNAME = x\n"
    )
    assert source.version(tree) == label
