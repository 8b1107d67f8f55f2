"""Idempotency keys: the first answer to each, and the refusal of the same key with another request.

Runs in: supervisor. Does no I/O.

    noted ──its job is dropped──► kept for the rest of its time ──► forgotten
                                    └── its tenant has too many of these: the oldest ──► forgotten, and said
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, cast

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Submission
from killable.supervisor.records import JobRecord
from killable.workers.authoring.units import size as size_text
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple

SAY_EVERY_S = 60.0
"""Seconds between two log lines about keys of one tenant that were forgotten before their time."""

ANSWER_BYTES = 1 << 10
"""Of an answer, but for its tags and limits."""
ALONE_BYTES_MAX = 32 << 20
"""Of a tenant's answers whose jobs are no longer kept."""

Key = tuple[str, str]
"""Tenant and key."""

logger = logging.getLogger("killable.jobs")


class _Answer(NamedTuple):
    digest: str
    record: JobRecord
    """The first answer."""
    number: int
    """Of its job."""
    due: float
    """When the key may be forgotten, if its job is not kept then."""


class IdempotencyKeys:
    """The keys of accepted jobs. A key is remembered as long as its job is kept, and until its time is over."""

    def __init__(
        self, *, keep_s: float, keys_max: int, on_forgotten: Callable[[int, bool], None] | None = None
    ) -> None:
        """`keys_max` bounds the keys of one tenant whose jobs are no longer kept. `on_forgotten` gets the number of
        each such job when its key is forgotten, and whether that is because of the bound.
        """
        self._keep_s = keep_s
        self._keys_max = keys_max
        self._on_forgotten = on_forgotten
        self._answers: dict[Key, _Answer] = {}
        self._alone: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()
        """By tenant, the keys whose jobs are no longer kept, those of the longest ended jobs first, and the bytes of
        each. The tenant that was looked at last is the last one.
        """
        self._alone_bytes: Counter[str] = Counter()
        self._said: dict[str, float] = {}
        """When it was last said that keys of a tenant were forgotten before their time."""

    def __len__(self) -> int:
        return len(self._answers)

    def count_alone(self, tenant: str) -> int:
        """Return how many keys of a tenant are remembered without their jobs."""
        return len(self._alone.get(tenant, ()))

    def first_answer(self, submission: Submission, now: float) -> JobRecord | None:
        """Return the first answer to this submission's key, if it is remembered.

        Raise Refused: idempotency_conflict, for the same key with another request.
        """
        if self.job_id_of(submission.tenant, submission.idempotency_key, now) is None:
            return None
        first = self._answers[submission.tenant, submission.idempotency_key]
        check_same_request(submission, first.digest, first.record.job_id)
        return first.record

    def job_id_of(self, tenant: str, name: str, now: float) -> str | None:
        """Return the first job of a key; None: it is not remembered. Forget it if its time is over."""
        key = tenant, name
        first = self._answers.get(key)
        if first is not None and self._is_alone(key) and now >= first.due:
            self._forget(key)
            return None
        return None if first is None else first.record.job_id

    def note(self, job: Job, record: JobRecord) -> None:
        """Remember the answer to an accepted submission, if it has a key."""
        submission = job.submission
        if submission.idempotency_key:
            key = submission.tenant, submission.idempotency_key
            # The limits of most jobs are those of their type: one object for all answers, which is never changed.
            first = record._replace(limits=cast("dict[str, Any]", job.limits))
            self._answers[key] = _Answer(submission.body_digest, first, job.number, job.created + self._keep_s)

    def on_dropped(self, job: Job, now: float) -> bool:
        """Take note that a job is no longer kept. Return whether its key is still remembered."""
        key = job.submission.tenant, job.submission.idempotency_key
        if self._alone:
            self._make_room(next(iter(self._alone)), now)  # so that those of tenants that do nothing go, too
        first = self._answers.get(key)
        if first is None or first.number != job.number:
            return False  # it had none, or the key belongs to another job by now
        if now >= first.due or job.is_abandoned:
            del self._answers[key]
            return False
        size = ANSWER_BYTES + job.described_bytes
        self._alone.setdefault(key[0], OrderedDict())[key[1]] = size
        self._alone_bytes[key[0]] += size
        self._make_room(key[0], now)
        return True

    def _make_room(self, tenant: str, now: float) -> None:
        """Forget a tenant's keys whose time is over, and then the oldest ones over the bound."""
        alone = self._alone[tenant]
        self._alone.move_to_end(tenant)
        while alone:
            oldest = tenant, next(iter(alone))
            is_over = now >= self._answers[oldest].due
            if not is_over and len(alone) <= self._keys_max and self._alone_bytes[tenant] <= ALONE_BYTES_MAX:
                return
            self._forget(oldest, early=not is_over)
            if not is_over and now >= self._said.get(tenant, now - SAY_EVERY_S) + SAY_EVERY_S:
                self._said[tenant] = now
                bound = f"server.idempotency_keys_max of {self._keys_max}"
                if len(alone) < self._keys_max:
                    bound = f"the bound of {size_text(ALONE_BYTES_MAX)} for answers, which have tags and limits,"
                detail = f"{bound} is reached: the oldest are forgotten"
                logger.warning("idempotency_keys_forgotten", extra={"tenant": tenant, "detail": detail})

    def _is_alone(self, key: Key) -> bool:
        return key[1] in self._alone.get(key[0], ())

    def _forget(self, key: Key, *, early: bool = False) -> None:
        """Forget a key whose job is no longer kept."""
        answer = self._answers.pop(key)
        tenant, name = key
        alone = self._alone[tenant]
        self._alone_bytes[tenant] -= alone.pop(name)
        if not alone:
            del self._alone[tenant], self._alone_bytes[tenant]
        if self._on_forgotten is not None:
            self._on_forgotten(answer.number, early)


def check_same_request(submission: Submission, digest: str, job_id: str) -> None:
    """Raise Refused: idempotency_conflict, when the key's first request had another digest."""
    if digest != submission.body_digest:
        raise Refused(
            "this Idempotency-Key was used for another request; use a new key for a new request",
            code="idempotency_conflict",
            job_id=job_id,
        )
