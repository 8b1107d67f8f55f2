"""Why a worker did not start, and what workers and zygotes that do not start mean for their pool: it is broken, or
restarting.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import errno

from killable.supervisor.ports import Gone

FAILURES_MAX = 3
"""After so many failures in a row, and no worker that works, a pool is broken or restarting."""

EARLY_OUTPUT_BYTES_MAX = 4096
"""Bytes kept of a worker's output before it is ready, to explain why it never became ready."""
_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
"""The machine has no process, memory, descriptor or disk to spare: mostly for a moment."""
_PERMANENT_ERRNOS = frozenset({None, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC})
"""The pool's interpreter, folder or account is missing or cannot be used; any other error may be temporary."""


def are_too_many(failures: int) -> bool:
    """Return whether a pool has failed so often in a row that it is not simply starting any more."""
    return failures >= FAILURES_MAX


def is_broken(reason: int | None, *, of_code: bool, has_worked: bool, is_starting: bool) -> bool:
    """Return whether a pool is broken, and its queue refused; else it is restarting, and keeps its queue.

    A pool that has worked, or may work yet, keeps its queue: what it lacks it mostly lacks for a moment, and the limits
    of each job say how long that one waits.

    `reason`: the errno of the failure; None: there is none. `of_code`: what a worker runs at its start has failed, by
    its own report. `has_worked`: a worker was ready once. `is_starting`: a worker is starting now.
    """
    may_work = has_worked and not of_code and (reason is None or is_short(reason))
    return not (may_work or (is_short(reason) and is_starting))


def is_short(reason: int | None) -> bool:
    """Return whether the machine lacks what it takes to start a process."""
    return reason in _SHORTAGES


def is_temporary(reason: int | None) -> bool:
    """Return whether what a guard could not be started for may pass: a pool that was never ready tries again then."""
    return reason not in _PERMANENT_ERRNOS


def kept_output(kept: bytes, more: bytes) -> bytes:
    """Return what is kept of the output of a worker that is not ready yet."""
    return (kept + more)[-EARLY_OUTPUT_BYTES_MAX:]


def why_not_ready(gone: Gone, output: bytes) -> str:
    """Return how a worker ended before it was ready, and what it had printed."""
    return f"{_how_it_ended(gone)}\n{output.decode('utf-8', 'replace')}".rstrip()


def _how_it_ended(gone: Gone) -> str:
    if gone.ending is None:
        return "the worker ended before it was ready; its exit status is unknown"
    if gone.ending.signal is not None:
        return f"the worker was killed by signal {gone.ending.signal} before it was ready"
    return f"the worker ended with exit code {gone.ending.exit_code} before it was ready"


def error_line(text: str) -> str:
    """Return the line of a traceback that names the error: the first one after the stack; notes may follow it."""
    lines = text.rstrip().splitlines()
    stack = [number for number, line in enumerate(lines) if line.startswith(" ")]
    after = lines[stack[-1] + 1 :] if stack else lines
    return after[0] if after else "no reason is known"


def with_error_line(text: str) -> str:
    """Return a traceback preceded by the line that names the error; any other text unchanged."""
    line = error_line(text)
    return line if text.strip() == line else f"{line}\n{text.rstrip()}"
