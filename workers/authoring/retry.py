"""`Retry`, which a job raises that wants another attempt, and what a type's `retry_on` says.

Runs in: worker. Whether there is another attempt decides `dispatch.retries` in the supervisor.
"""

from __future__ import annotations

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.message_bounds import RETRY_AFTER_S_MAX


class Retry(Exception):
    """Raised by a job that wants another attempt, `after_s` seconds from now (also "5m"; None: `backoff_s` decides).

        raise Retry("the other side is busy", after_s=30)

    The attempt ends with its processes, and the job is queued again if `attempts_max` and `total_s` allow it and nobody
    has asked it to end; else it fails with this exception. An `after_s` is kept exactly, without jitter. Raise
    ValueError for an `after_s` below 0 or above a day.
    """

    def __init__(self, message: str = "", *, after_s: float | str | None = None) -> None:
        super().__init__(*([message] if message else []))
        self.after_s: float | None = None if after_s is None else _parse_after_s(after_s)
        """Seconds until the next attempt; None: `backoff_s`, doubled for each attempt, with jitter."""

    def __str__(self) -> str:
        return super().__str__() or "the job asked for another attempt"


class RetryOn(NamedTuple):
    """For which ends the author of a type wants another attempt."""

    exceptions: tuple[type[Exception], ...] = ()
    codes: tuple[str, ...] = ()


NOT_ASKED = RetryOn()
"""A type without `retry_on`."""


def _parse_after_s(value: float | str) -> float:
    from killable.workers.authoring.units import parse_seconds  # here: few workers need it

    seconds = parse_seconds(value)
    if seconds > RETRY_AFTER_S_MAX:
        raise ValueError(f"after_s: expected at most {RETRY_AFTER_S_MAX:.0f} seconds; got {value!r}")
    return seconds
