"""Whether a program can be executed.

Runs in: supervisor, before it starts. Behind `ports`.
"""

from __future__ import annotations

import os
import shutil


def why_not_executable(program: str, path: str | None = None) -> str:
    """Return why a program cannot be executed; empty: it can, as far as its file tells. `path`: another PATH."""
    found = shutil.which(program, path=path)
    if found is not None:
        return _why_no_interpreter(found)
    if "/" not in program:
        return "it is not on PATH"
    if not os.path.exists(program):
        return "there is no such file"
    return "it is a folder" if os.path.isdir(program) else "it is not executable (chmod +x)"


def _why_no_interpreter(path: str) -> str:
    """Return why a script's interpreter cannot be executed (execve(2)): else the error is of the script."""
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except OSError:
        return ""  # it may be executed and not read
    if not first.startswith(b"#!"):
        return ""
    words = os.fsdecode(first[2:].strip()).split(None, 1)
    if not words or not os.path.isabs(words[0]) or shutil.which(words[0]) is not None:
        return ""
    return f"its first line names {words[0]}, which cannot be executed"
