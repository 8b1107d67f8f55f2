"""A job's directory goes with all that is in it, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from killable.workers.runtime.tmp_removal import remove_tree

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may write to."""
    made = Path(tempfile.mkdtemp(prefix="killable-test-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


def _as_somebody(act: str, path: Path) -> int:
    """Do it in a child that is not root; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            _ACTS[act](path)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _make(path: Path) -> None:
    (path / "a" / "b" / "c").mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file", "a/b/c/file"):
        (path / name).write_text("x")
    (path / "link").symlink_to(path.parent / "stranger")
    for name, mode in (("a/b/c", 0o000), ("a/b", 0o500), ("a", 0o000), ("", 0o500)):
        (path / name).chmod(mode)


_ACTS = {"make": _make, "remove": remove_tree}


def test_closed_folders_go_and_links_are_not_followed(folder: Path) -> None:
    stranger = folder / "stranger"
    stranger.mkdir(mode=0o500)
    path = folder / "tmp"
    assert _as_somebody("make", path) == 0
    assert _as_somebody("remove", path) == 0
    assert not path.exists()
    assert stranger.stat().st_mode & 0o777 == 0o500


def test_what_is_not_there_is_no_fault(folder: Path) -> None:
    remove_tree(folder / "nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("place", ["in it", "over it"])
def test_what_is_mounted_in_it_is_unmounted_and_not_removed(folder: Path, tmp_path: Path, place: str) -> None:
    """A job that mounted a folder of data into its directory lost the data at its end."""
    theirs, tree = tmp_path / "theirs", folder / "a tree"
    (theirs / "below").mkdir(parents=True)
    (theirs / "below" / "file").write_text("precious")
    point = tree / "mount" if place == "in it" else tree
    point.mkdir(parents=True)
    for _ in range(2):
        subprocess.run(["mount", "--bind", theirs, point], check=True)
    remove_tree(tree)
    assert (theirs / "below" / "file").read_text() == "precious"
    assert not tree.exists() and b"a\\040tree" not in Path("/proc/self/mountinfo").read_bytes()
