"""The typed errors, shared by worker, supervisor, HTTP, client and command. `error_codes` has the table of their codes.

Runs in: any (standard library only, so that a client machine needs no supervisor).

Cause and mechanism are separate: `code` is why a job ended, the facts (`exit_code`, `signal`, ...) are how.
Nothing in this project decides by matching a message text.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

from killable.workers.error_codes import CODES


class KillableError(Exception):
    """Base of the errors that this library raises on purpose.

    `code` is stable, lower-case and dotted; `facts` are the typed details. It has no slots, which conflict with the
    layout of TimeoutError, and has a `__reduce__`, since default pickling loses keyword arguments.
    """

    code: str = "internal"

    def __init__(self, message: str = "", *, code: str | None = None, **facts: Any) -> None:
        title = CODES[code or self.code].title if (code or self.code) in CODES else str(code)
        super().__init__(message or title)
        if code is not None:
            self.code = code
        self.facts = facts

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def retryable(self) -> bool:
        row = CODES.get(self.code)  # None: a code of a newer server
        return row is not None and row.retryable

    def __str__(self) -> str:
        # OSError's own __str__ (JobTimedOut is a TimeoutError) would ignore a single argument only by luck.
        return self.message

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        notes = getattr(self, "__notes__", [])
        return _rebuild, (type(self), self.message, self.code, self.facts), {"__notes__": notes} if notes else None


def _rebuild(cls: type[KillableError], message: str, code: str, facts: dict[str, Any]) -> KillableError:
    return cls(message, code=code, **facts)


class Refused(KillableError):
    """A request was refused; nothing was started and nothing changed.

    Except if the fact `is_accepted` is "unknown": the supervisor closed while its disk hung, and may have journaled it.
    """

    code = "invalid"


class JobError(KillableError):
    """A job ended without completing; base of the classes below.

    Facts that are always present: `job_id`, `certificate` (a mapping or None), and `partial` for a server's job (for an
    Executor's task the future has it).
    """

    code = "exception"


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled: `by` is user, client_gone, operator or shutdown."""

    code = "cancelled"


class JobTimedOut(JobError, TimeoutError):
    """A deadline of the job passed; `code` names the deadline."""

    code = "timeout.run"


class JobFailed(JobError):
    """The job itself caused its failure: an exception, an exit, a limit."""

    code = "exception"


class OutOfMemory(JobFailed, MemoryError):
    """The job reached its `memory_bytes`, or a MemoryError ended it."""

    code = "limit.memory"
