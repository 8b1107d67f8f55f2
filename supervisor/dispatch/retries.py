"""Whether a job gets another attempt after one that ended, and after how long.

Runs in: supervisor. Pure.

A failure that is not the job's fault is retried: its code is `retryable`. Only an attempt that has streamed a token is
not: its readers would see the beginning twice. Whether that, and any other end, is to be retried says the author of the
job, by `retry_on` or a `Retry`; what has been streamed is then void, and the event `retrying` says so.
"""

from __future__ import annotations

from killable.supervisor.models import JobType, Outcome
from killable.supervisor.pools.backoff import doubled
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.error_codes import CODES

WAIT_S_MAX = 60.0
"""Upper bound of the doubled wait."""
_GOLDEN = (5**0.5 - 1) / 2


def jitter_of(number: int) -> float:
    """Return the place in [0, 1) of a job's waits. Jobs with consecutive numbers get places that are far apart.

    Multiples of the golden ratio fill the interval more evenly than chance does, and are the same in every simulation.
    """
    return number * _GOLDEN % 1


def wait_s(
    outcome: Outcome, job_type: JobType, limits: Limits, attempts: int, *, may_repeat: bool, left_s: float,
    share: float, may_void: bool = True,
) -> float | None:  # fmt: skip
    """Return the seconds until the next attempt, or None: the outcome of this one is final.

    `may_repeat`: this attempt has streamed nothing. `may_void`: what it has can be taken back. `attempts` counts the
    attempts so far, `left_s` is the rest of `total_s`. `backoff_s` is doubled each time; `share` then places the wait
    between half of that and all of it: jobs that failed together are not retried together. A `Retry` has its own wait.
    """
    if outcome.code is None or attempts >= limits["attempts_max"]:
        return None
    is_asked = outcome.is_transient or outcome.code in job_type.retry_codes
    if not (is_asked and (may_repeat or may_void)) and not (CODES[outcome.code].retryable and may_repeat):
        return None
    if outcome.after_s is not None:
        wait = outcome.after_s
    else:
        wait = doubled(limits["backoff_s"], attempts, WAIT_S_MAX) * (1 + share) / 2
    return None if wait >= left_s else wait
