"""Notes on the errors of killed and crashed tasks: where the task stood, and what it wrote to stderr last.

Runs in: supervisor. Pure. `traceback` prints the notes of an exception below its message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.workers.error_classes import WorkerCrashed
from killable.workers.errors import JobError

STACK_LINES_MAX = 40
"""The certificate has the whole stack."""
STDERR_LINES_MAX = 10


def add_notes(ending: JobError, certificate: Mapping[str, Any] | None, stderr: str) -> None:
    """Add the notes that there are; `stderr` is what the task has written to it."""
    stack = str((certificate or {}).get("stack") or "").rstrip("\n")
    if 'File "' in stack:  # else it says why there is none
        verb = "crashed" if isinstance(ending, WorkerCrashed) else "was stopped"
        ending.add_note(f"Where the job stood when it {verb}:\n{_first(stack, STACK_LINES_MAX)}")
    lines = stderr.splitlines()[-STDERR_LINES_MAX:]
    if lines and isinstance(ending, WorkerCrashed):
        ending.add_note("Its last lines on stderr:\n" + "\n".join(f"  {line}" for line in lines))


def _first(text: str, number: int) -> str:
    lines = text.splitlines()
    more = len(lines) - number
    return "\n".join([*lines[:number], *([f"  ... {more} more lines, in `certificate['stack']`"] if more > 0 else [])])
