"""Whether an attempt that ended is followed by another one of its job, and after how long.

Runs in: supervisor. Pure.

Only what was no fault of the job's is tried again: its code is `retryable`. A job that has streamed a token is not:
whoever reads along would see its beginning twice.
"""

from __future__ import annotations

from killable.supervisor.models import Outcome
from killable.supervisor.pools.backoff import doubled
from killable.workers.authoring.limits import Limits
from killable.workers.errors import CODES

WAIT_S_MAX = 60.0
"""However often it was doubled."""
_GOLDEN = (5**0.5 - 1) / 2


def share_of(number: int) -> float:
    """Return where in [0, 1) a job's waits lie: those of jobs that came one after the other lie far apart.

    Multiples of the golden ratio fill the interval more evenly than chance does, and are the same in every simulation.
    """
    return number * _GOLDEN % 1


def wait_s(
    outcome: Outcome, limits: Limits, attempts: int, *, streamed: bool, left_s: float, share: float
) -> float | None:
    """Return the seconds until the next attempt, or None: the outcome of this one is the job's.

    `attempts` are those that it had, `left_s` is what is left of its `total_s`. `backoff_s` is doubled each time and
    then, by `share`, made between half of that and all of it: jobs that failed together do not come back together.
    """
    if outcome.code is None or not CODES[outcome.code].retryable or streamed or attempts >= limits["attempts_max"]:
        return None
    wait = doubled(limits["backoff_s"], attempts, WAIT_S_MAX) * (1 + share) / 2
    return None if wait >= left_s else wait
