"""One job's place in a trace, and what its trace is made of at its end.

Runs in: supervisor. Nothing here imports OpenTelemetry: `span_building` makes spans of these facts, in another thread.

The ids follow from the job's id, and its parent from the submission: after the server's death, the next one tells the
same trace of a job of its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job import Job
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.trace_context import TraceContext, accepted

OWN_SPANS_MAX = 1000
OWN_BYTES_MAX = 4 << 20
"""Of the spans that one attempt reports: of more it is only counted that they were."""

Sampler = Callable[[TraceContext | None, str], bool]
"""Returns from its parent and its id whether a trace is told."""


class AttemptFacts(NamedTuple):
    """One attempt; times are monotonic seconds, None: it did not come so far."""

    number: int
    span_id: str
    queued: float
    assigned: float | None
    started: float | None
    first_token: float | None
    asked: float | None
    """When the signal was sent by which its end began."""
    ended: float
    state: str
    code: str | None
    message: str
    certificate: Mapping[str, Any]
    worker_id: str | None
    pid: int | None
    node: str | None
    tokens: int
    reported: Sequence[bytes]
    """The payloads of its SPAN frames."""
    left_out: int
    """How many more there were."""


class JobFacts(NamedTuple):
    """One ended job."""

    context: TraceContext
    parent_id: str
    """The span that it is part of; empty: its trace begins with it."""
    wall_s: float
    """To be added to a monotonic moment for that of the day."""
    created: float
    attempts: Sequence[AttemptFacts]
    attributes: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of memory, approximately."""
        return 2048 + sum(len(payload) + 64 for attempt in self.attempts for payload in attempt.reported)


class JobTrace:
    """What is noted of one job until its end."""

    __slots__ = ("_asked", "_attempts", "_bytes", "_left_out", "_reported", "_wall_s", "context",
                 "parent_id")  # fmt: skip

    def __init__(self, job: Job, sampler: Sampler, clock: Clock) -> None:
        digest = blake2b(job.id.encode(), digest_size=24).hexdigest()
        submission = job.submission
        parent = accepted(submission.traceparent, submission.tracestate) if submission.traceparent else None
        trace_id, self.parent_id, state = (digest[:32], "", "") if parent is None else (parent[0], parent[1], parent[3])
        self.context = TraceContext(trace_id, digest[32:], sampler(parent, trace_id), state)
        """That of the span of the whole job."""
        self._wall_s = clock.since_1970(0.0)
        self._attempts: list[AttemptFacts] = []
        self._begin()

    def _begin(self) -> None:
        self._asked: float | None = None
        self._reported: list[bytes] = []
        self._bytes = self._left_out = 0

    def attempt_context(self, job: Job) -> TraceContext:
        """Return the context of the job's latest attempt: what its process is told."""
        trace_id, _, is_sampled, state = self.context
        return TraceContext(trace_id, _attempt_id(job, job.attempts), is_sampled, state)

    def note_signal(self, now: float) -> None:
        """Note that a signal was just sent to end the attempt."""
        if self._asked is None:
            self._asked = now

    def note_reported(self, payload: bytes) -> None:
        """Keep what the job tells of a span of its own: as it came, for it is looked at elsewhere."""
        # Two messages for each span; one more of each could end one that is open, but not begin one.
        if len(self._reported) >= 2 * OWN_SPANS_MAX or self._bytes + len(payload) > OWN_BYTES_MAX:
            self._left_out += 1
            return
        self._reported.append(payload)
        self._bytes += len(payload)

    def end_attempt(self, job: Job, state: str, code: str | None, message: str, ended: float) -> None:
        """Keep the facts of the latest attempt; of a job that never had a worker those of its wait."""
        if self.context.is_sampled:
            facts = AttemptFacts(
                job.attempts, _attempt_id(job, job.attempts), job.queued, job.assigned, job.started, job.first_token,
                self._asked, ended, state, code, message, job.certificate or {}, job.worker_id, job.pid, job.node,
                job.log.tokens, self._reported, self._left_out,
            )  # fmt: skip
            self._attempts.append(facts)
        self._begin()

    def end(self, job: Job) -> JobFacts:
        """Return the facts of the ended job."""
        outcome, submission = job.outcome, job.submission
        assert outcome is not None and job.ended is not None
        self.end_attempt(job, outcome.state, outcome.code, outcome.message, job.ended)
        attributes = {
            "killable.job.id": job.id,
            "killable.job.type": job.type.name,
            "killable.pool": job.type.pool,
            "killable.tenant": submission.tenant,
            "killable.attempts": job.attempts,
            "killable.correlation_id": submission.correlation_id or None,
            "gen_ai.request.model": job.type.openai_model or None,
        }
        return JobFacts(self.context, self.parent_id, self._wall_s, job.created, self._attempts, attributes)


def _attempt_id(job: Job, number: int) -> str:
    return blake2b(f"{job.id}/{number}".encode(), digest_size=8).hexdigest()
