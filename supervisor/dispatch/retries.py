"""Whether a job gets another attempt after one that ended, and after how long.

Runs in: supervisor. Pure.

Only a failure that is not the job's fault is retried: its code is `retryable`. A job that has streamed a token is
not retried: its readers would see the beginning twice.
"""

from __future__ import annotations

from killable.supervisor.models import Outcome
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
    outcome: Outcome, limits: Limits, attempts: int, *, streamed: bool, left_s: float, share: float
) -> float | None:
    """Return the seconds until the next attempt, or None: the outcome of this one is final.

    `attempts` counts the attempts so far, `left_s` is the rest of `total_s`. `backoff_s` is doubled each time; `share`
    then places the wait between half of that and all of it: jobs that failed together are not retried together.
    """
    if outcome.code is None or not CODES[outcome.code].retryable or streamed or attempts >= limits["attempts_max"]:
        return None
    wait = doubled(limits["backoff_s"], attempts, WAIT_S_MAX) * (1 + share) / 2
    return None if wait >= left_s else wait
