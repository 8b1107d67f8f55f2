"""Reads `retry_on` of `@job`: exceptions and codes of endings.

Runs in: any (declaring).
"""

from __future__ import annotations

from collections.abc import Sequence

from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.authoring.retry import RetryOn

ATTEMPTS_MAX = 3
"""The `attempts_max` of a type with `retry_on` that sets none: with one attempt `retry_on` would mean nothing."""

NEVER_AGAIN = {
    "cancelled": "a cancelled job is not run again",
    "unkillable": "its process still exists",
    "input.invalid": "the next attempt would have the same input",
    "limit.output": "the limit is of all attempts together",
    "timeout.queue": "the job never ran, and would wait again",
    "supervisor_lost": 'on_loss="rerun" says that',
}
"""Endings that nobody can ask another attempt for, and why."""


def parse_retry_on(value: object) -> RetryOn:
    """Return what `retry_on` says: an exception class, the code of an ending, or several. Raise ValueError."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    exceptions: list[type[Exception]] = []
    codes: list[str] = []
    for each in several:
        if isinstance(each, type) and issubclass(each, Exception):
            exceptions.append(each)
        elif isinstance(each, type) and issubclass(each, BaseException):
            raise ValueError(f"retry_on: {each.__name__} ends a process and is never retried; name an Exception")
        elif isinstance(each, str):
            codes.append(_checked_code(each))
        else:
            raise ValueError(f"retry_on is exception classes and codes of endings, not {each!r:.60}")
    return RetryOn(tuple(dict.fromkeys(exceptions)), tuple(dict.fromkeys(codes)))


def names_of(wanted: RetryOn) -> list[str]:
    """Return what was declared, for people: the qualified names of the exceptions, and the codes."""
    return [*map(_name_of, wanted.exceptions), *wanted.codes]


def _checked_code(code: str) -> str:
    from killable.workers.error_codes import CODES  # here: the workers of most pools need none of it

    endings = [name for name, row in CODES.items() if row.state is not None and name not in NEVER_AGAIN]
    if code in NEVER_AGAIN:
        raise ValueError(f"retry_on cannot have {code!r}: {NEVER_AGAIN[code]}")
    if code not in endings:
        raise ValueError(f"retry_on: there is no ending {code!r:.60} ({did_you_mean(code, endings)})")
    return code


def _name_of(exception: type) -> str:
    module = exception.__module__
    return exception.__qualname__ if module == "builtins" else f"{module}.{exception.__qualname__}"
