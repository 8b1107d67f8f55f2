"""Writes of the journal that fail or hang: when one hangs, when the next is tried, and what a submission is told.

Runs in: supervisor; the journal's thread.
"""

from __future__ import annotations

from killable.workers.errors import Refused

HANGS_AFTER_S = 5.0
"""A write that takes longer, in seconds, is considered to hang: submissions are refused until it has finished."""
CLOSE_S = 10.0
"""Seconds for the last notes of a server that closes: a disk that hangs must not keep the server from ending."""
RETRY_S = 1.0
"""Seconds between two checks whether writing works again."""
RETRY_AFTER_S = 5
"""When a full disk has room again is unknown; sooner retries would only load the server."""


def hang(took_s: float) -> str:
    """Return why nothing is written while a write has taken so many seconds; empty: it does not hang."""
    return f"a write has not finished after {took_s:.0f} s" if took_s > HANGS_AFTER_S else ""


def not_written(why: str, *, is_known: bool) -> Refused:
    """Return the refusal of a submission. `is_known`: the job is certainly not in the journal."""
    known = "no job is accepted until writing works again"
    unknown = (
        "it is not known whether the job was written and will be run: repeat it with the same Idempotency-Key, or look "
        "for it in the list of jobs first"
    )
    facts = {} if is_known else {"is_accepted": "unknown"}
    message = f"the journal cannot be written: {why}; {known if is_known else unknown}"
    return Refused(message, code="journal_failed", retry_after_s=RETRY_AFTER_S, **facts)
