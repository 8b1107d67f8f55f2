"""What `make audit` says of pip-audit's report: only a known vulnerability fails the build."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.source import ROOT

AUDIT = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
KNOWN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found on PyPI"}
BAD = {
    "name": "c",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}],
}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([KNOWN, KNOWN], 0, ["2 packages have no known vulnerability"]),
        ([KNOWN, UNKNOWN], 0, ["1 packages have no known vulnerability", "NOT AUDITED, as the service does not know"]),
        ([UNKNOWN] * 7, 0, ["NOT AUDITED: the service that is reached from here knows none of the packages"]),
        ([KNOWN, UNKNOWN, BAD], 1, ["c 2: CVE-1, fixed in 3", "c 2: CVE-2, fixed in no release yet", "`make lock"]),
    ],
)
def test_a_report_is_judged(packages: list[dict[str, Any]], code: int, said: list[str]) -> None:
    found, lines = AUDIT["verdict"]({"dependencies": packages})
    assert found == code and len(lines) == len(said)
    assert all(line.startswith(words) for line, words in zip(lines, said, strict=True)), lines


def test_a_service_that_cannot_be_asked_is_said_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = tmp_path / "pip-audit"
    offline.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('ERROR: no route to the service')\n")
    offline.chmod(0o755)
    assert AUDIT["main"](str(offline), "requirements.txt") == 0
    said = capsys.readouterr().out
    assert said == "audit: NOT AUDITED: the advisory service cannot be asked: ERROR: no route to the service\n"
