"""The man pages are of the code, and groff has nothing to say of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib

import pytest

from contract.source import ROOT

PAGES = sorted((ROOT / "docs" / "man").glob("*.[15]"))


def test_they_are_of_the_code() -> None:
    """Where this fails: make man."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/reference/man_pages.py"), "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    names = {path.name for path in PAGES}
    assert {"killable.1", "killable-serve.1", "killable-top.1", "killable.toml.5"} <= names


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_they_are_formatted_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-Kutf8", *map(str, PAGES)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert max(len(line) for line in done.stdout.splitlines() if "http" not in line) < 200


def test_the_wheel_brings_them() -> None:
    files = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["data-files"]
    assert files == {"share/man/man1": ["docs/man/*.1"], "share/man/man5": ["docs/man/*.5"]}
