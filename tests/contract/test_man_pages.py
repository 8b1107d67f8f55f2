"""The man pages are of the code, and groff has nothing to say of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contract.source import ROOT

LOADER = Path("/usr/share/bash-completion/bash_completion")
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


def test_the_wheel_brings_them_and_the_scripts_of_shells() -> None:
    """What is installed here has come from a wheel."""
    share = Path(sys.prefix) / "share"
    for page in PAGES:
        assert (share / "man" / f"man{page.suffix[1:]}" / page.name).read_text("utf-8") == page.read_text("utf-8")
    for place in ("bash-completion/completions/killable", "zsh/site-functions/_killable",
                  "fish/vendor_completions.d/killable.fish"):  # fmt: skip
        written = ROOT / "docs" / "man" / "completion" / Path(place).name
        assert (share / place).read_text("utf-8") == written.read_text("utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_page_that_has_changed_is_installed_anew() -> None:
    command = ["make", "--dry-run", "--print-data-base", "install"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (rule,) = [line for line in done.stdout.splitlines() if line.startswith(".venv/installed:")]
    assert {f"docs/man/{page.name}" for page in PAGES} <= {*rule.split()}


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_finds_them_by_the_path_of_an_environment() -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["man", "-w", "killable", "killable.toml"], env=env, capture_output=True, text=True, check=True
    )
    assert [Path(line).name for line in done.stdout.split()] == ["killable.1", "killable.toml.5"]


@pytest.mark.skipif(not LOADER.exists(), reason="bash-completion is not installed")
def test_bash_completes_by_itself_where_the_environment_is_in_the_path() -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    load = f"source {LOADER}; _comp_load killable; complete -p killable"
    done = subprocess.run(["bash", "--norc", "-c", load], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["complete", "-o", "nosort", "-F", "_killable_completion", "killable"]
