"""Idioms that run under ProcessPoolExecutor or loky run here: `idioms.py`, a script, run as `__main__` and in a process
that multiprocessing has spawned.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import idioms
import pytest
from contract.source import ROOT

PROGRAM = Path(idioms.__file__)
PAGE = ROOT / "docs" / "explanation" / "idioms.md"


@pytest.fixture(scope="module", params=["", "spawned"], ids=["as __main__", "as __mp_main__"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, str]:
    """What went wrong with each idiom, by title."""
    command = [sys.executable, str(PROGRAM), "killable", request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stderr == ""
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("title", idioms.IDIOMS)
def test_an_idiom_runs_as_it_does_elsewhere(outcomes: dict[str, str], title: str) -> None:
    assert outcomes[title] == ""


def test_the_page_has_all_idioms() -> None:
    """`python docs/explanation/compare_idioms.py` writes it."""
    table = PAGE.read_text().partition("<!-- end of the table -->")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == list(idioms.IDIOMS)
    assert all(row[-1] == "yes |" for row in rows)
