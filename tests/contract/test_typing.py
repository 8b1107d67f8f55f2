"""Type checkers know what an Executor's calls return, and find calls that do not fit their function."""

from __future__ import annotations

import subprocess
import sys

from contract.source import ROOT


def test_programs_with_an_executor_are_checked_as_strictly_as_they_are_written() -> None:
    """In the cache of `make lint`: what is installed is the same."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/contract/typed_programs.py"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr
