"""The errors of jobs whose process died, and the class of each code.

Runs in: any. Apart from `errors`, because `concurrent.futures.process` imports multiprocessing and its queues, 10 ms:
they are needed only for an error.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from killable.workers.error_codes import CODES, LOST
from killable.workers.errors import JobCancelled, JobError, JobFailed, JobTimedOut, KillableError, OutOfMemory, Refused

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:
    register = threading._register_atexit

    def register_unless_exiting(*arguments: object, **options: object) -> None:
        """Register a callback, as that module does when it is imported. When the program exits, which `threading`
        reports as an error, there is nothing left that it would have to wait for.
        """
        with contextlib.suppress(RuntimeError):
            register(*arguments, **options)

    threading._register_atexit = register_unless_exiting
    try:
        from concurrent.futures.process import BrokenProcessPool
    finally:
        threading._register_atexit = register


class WorkerCrashed(JobError, BrokenProcessPool):
    """The job's process died or was lost; a BrokenProcessPool for code that expects one."""

    code = "crash"


class WorkerExited(WorkerCrashed):
    """The job ended its own process with `exit_code`, which may be 0 (without a result)."""

    code = "exit"


class WorkerKilled(WorkerCrashed):
    """The job's process was killed from outside, by `signal`; `oom`: the out-of-memory killer may have done it."""

    code = "killed_externally"


_OF_ITS_OWN: dict[str, type[KillableError]] = {
    "exit": WorkerExited,
    "killed_externally": WorkerKilled,
    "limit.memory": OutOfMemory,
}
_CRASHES = frozenset(
    {
        "crash",
        "protocol",
        "spawn",
        "worker_lost",
        "unkillable",
        *LOST,
    }
)


def error_class(code: str) -> type[KillableError]:
    """Return the error class of a code; JobFailed for the unknown code of a newer server."""
    row = CODES.get(code)
    if row is None:
        return JobFailed
    if row.state is None:
        return Refused
    if row.state == "cancelled":
        return JobCancelled
    if row.state == "timed_out":
        return JobTimedOut
    return _OF_ITS_OWN.get(code, WorkerCrashed if code in _CRASHES else JobFailed)
