"""The address at which a uvicorn in a process of its own says that it listens."""

from __future__ import annotations

import re
import subprocess


def listens_at(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Wait until uvicorn says its address, and return it. Raise AssertionError with its output if it does not."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"running on http://([\d.]+):(\d+)", line):
            return found[1], int(found[2])
    raise AssertionError("".join(lines))
