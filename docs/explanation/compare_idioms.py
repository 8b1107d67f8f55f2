"""Run the idioms of `tests/executor/idioms.py` under several executors, and write the page about them.

    python docs/explanation/compare_idioms.py

Runs in: a program of its own. Writes docs/explanation/idioms.md. Needs the package, and loky (extra `bench`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "executor" / "idioms.py"
PAGE = ROOT / "docs" / "explanation" / "idioms.md"
KINDS = {
    "fork": "ProcessPoolExecutor, fork",
    "spawn": "ProcessPoolExecutor, spawn",
    "loky": "loky",
    "killable": "killable",
}
HEAD = (
    "# What a script may send\n\n"
    "A worker of an `Executor` has a module `__main__`, with the functions, classes and globals of your script or"
    " notebook that a call needs. So what works with `ProcessPoolExecutor` or loky works here. Each line is a small"
    " program that was run with each of them on Python {version}; killable's tests run them all.\n\n"
)


def outcomes(kind: str) -> dict[str, str]:
    """Return what went wrong with each idiom; "" is nothing."""
    done = subprocess.run([sys.executable, str(PROGRAM), kind], stdout=subprocess.PIPE, text=True, timeout=600)
    return dict(map(json.loads, done.stdout.splitlines()))


def main() -> None:
    found = {kind: outcomes(kind) for kind in KINDS}
    rows = [("", *KINDS.values()), ("---",) * (len(KINDS) + 1)]
    for title in found["killable"]:
        rows.append((title, *("no" if found[kind].get(title, "it hung") else "yes" for kind in KINDS)))
        for kind in KINDS:
            if found[kind].get(title):
                print(f"{kind}: {title}: {found[kind][title][:200]}", file=sys.stderr)
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    foot = PAGE.read_text().partition("\n<!-- end of the table -->\n")[2] if PAGE.exists() else ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    PAGE.write_text(f"{HEAD.format(version=version)}{table}\n<!-- end of the table -->\n{foot}")


if __name__ == "__main__":
    main()
