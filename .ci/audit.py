"""Ask PyPI for known vulnerabilities of the locked packages, by pip-audit. `make audit` runs it.

    python audit.py PIP_AUDIT REQUIREMENTS

The exit code is 1 if a package has a known vulnerability, else 0: also if the service cannot be asked, which is said.
An advisory service that is away is no fault of what is built.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES_MAX = 5
"""Packages named at most of those that the service does not know."""


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the exit code for a report of pip-audit, and what to say."""
    packages = report["dependencies"]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    lines = []
    for each in packages:
        for found in each.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no release yet"
            lines.append(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    if lines:
        return 1, [*lines, "`make lock ARGS=--upgrade` takes the newest releases"]
    if len(unknown) == len(packages):
        return 0, ["NOT AUDITED: the service that is reached from here knows none of the packages"]
    lines = [f"{len(packages) - len(unknown)} packages have no known vulnerability"]
    if unknown:
        more = f" and {len(unknown) - NAMES_MAX} more" if len(unknown) > NAMES_MAX else ""
        lines.append(f"NOT AUDITED, as the service does not know them: {', '.join(unknown[:NAMES_MAX])}{more}")
    return 0, lines


def main(pip_audit: str, requirements: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [pip_audit, "--requirement", requirements, *options, "--output", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            code, lines = verdict(json.loads(file.read_text()))
        except (OSError, ValueError):
            last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            code, lines = 0, [f"NOT AUDITED: the advisory service cannot be asked: {last}"]
    for line in lines:
        print(f"audit: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
