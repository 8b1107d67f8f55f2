"""Print the requirement of Ray if the registry has one for this Python and machine; else say so on stderr.

Run by .ci/run, with the Python of .venv.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import requires


def main() -> None:
    wanted = next(each for each in requires("killable") or () if each.startswith("ray")).partition(";")[0].strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    asked = subprocess.run(
        [*pip, "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", wanted],
        capture_output=True, text=True,
    )  # fmt: skip
    if asked.returncode:
        why = next((line for line in reversed(asked.stderr.splitlines()) if line), "pip has failed")
        here = f"Python {platform.python_version()} on {platform.machine()}"
        print(f"smoke-cluster NOT RUN: no {wanted} for {here}: {why}", file=sys.stderr)
    else:
        print(wanted)


if __name__ == "__main__":
    main()
