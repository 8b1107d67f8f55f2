"""How many jobs a tenant may submit now (`submissions_per_s`): a token bucket.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import math

from killable.supervisor.records import Quota
from killable.workers.errors import Refused

WINDOW_S = 10
"""A tenant may submit the jobs of so many seconds at once."""


class SubmissionRate:
    """A token bucket: `rate` submissions a second, and those of WINDOW_S at once."""

    __slots__ = ("_at", "_left", "_rate", "_size")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._size = self._left = float(max(1, math.floor(rate * WINDOW_S)))
        self._at = now

    def take(self, tenant: str, now: float, *, known: bool = False) -> Quota:
        """Count one submission; `known`: one that repeats an Idempotency-Key. Return what is left. Raise Refused:
        too_many_submissions.
        """
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            again_s = (1 - self._left) / self._rate
            raise Refused(
                f"tenant {tenant} {'repeats' if known else 'submits'} more than {self._rate:g} "
                f"{'submissions' if known else 'jobs'} a second, its submissions_per_s",
                code="too_many_submissions",
                bound="submissions_per_s",
                limit=self._rate,
                tenant=tenant,
                retry_after_s=math.ceil(again_s),
                quota=self._quota()._asdict(),
            )
        self._left -= 1
        return self._quota()

    def _quota(self) -> Quota:
        window_s = max(1, round(self._size / self._rate))
        return Quota(int(self._size), window_s, int(self._left), math.ceil((self._size - self._left) / self._rate))
