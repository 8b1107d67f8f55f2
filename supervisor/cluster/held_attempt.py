"""One attempt on its node: what its head has not been told of it yet.

Runs in: supervisor, on a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from killable.supervisor.cluster.messages import Header
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import Outcome
from killable.workers.protocol.messages import dump_json

EVENTS_MAX = 4096
"""Events in one item."""
SPANS_MAX, SPAN_BYTES_MAX = 2000, 256 << 10
"""What an attempt may tell of its own spans: it goes to the head at once, before anybody's data."""


class HeldAttempt:
    """Implements `JobListener`. Its items are made when the head asks, so that nothing is held twice."""

    def __init__(self, n: int, on_news: Callable[[HeldAttempt], None], *, job_id: str = "", attempt: int = 0) -> None:
        self.n = n
        self.job_id = job_id
        self.attempt = attempt
        """Which attempt of its job it is."""
        self.is_claimed = True
        """Whether its head knows it: one that comes after the head which has begun it may not."""
        self.job: Job | None = None
        """None: it never runs, since its stop came before it."""
        self._on_news = on_news
        self._notes: list[dict[str, Any]] = []
        self._spans = self._span_bytes = 0
        self._noted = 0
        """How many of them are told."""
        self._next = 0
        self.is_told = False
        """Whether its end is among the items that were taken."""
        self._end: bytes | None = None
        """The last item of an attempt that never ran."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or never runs."""
        return self._end is not None or (self.job is not None and self.job.is_over)

    def use(self, job: Job) -> None:
        """Take the job that the node has made for it."""
        self.job, self._next = job, job.log.first

    def tell_anew(self) -> None:
        """Tell everything from the beginning, to another head, when that has claimed it."""
        self.is_claimed = False
        self._noted, self.is_told = 0, False
        self._next = 0 if self.job is None else self.job.log.first

    def record(self, now: float) -> Header:
        """Return by what a head knows it, with the seconds since it was assigned and entered."""
        job = self.job
        assigned, started = (None, None) if job is None else (job.assigned, job.started)
        return {
            "n": self.n, "job_id": self.job_id, "attempt": self.attempt,
            "at_event": 0 if job is None else job.log.first, "events": 0 if job is None else len(job.log),
            "assigned_s": None if assigned is None else now - assigned,
            "started_s": None if started is None else now - started,
        }  # fmt: skip

    def never_runs(self, outcome: Outcome, certificate: dict[str, Any]) -> None:
        self._end = _end_of(outcome, certificate, may_retry=False)
        self._on_news(self)

    # ── what happens ──

    def on_cause(self, job: Job, cause: Cause) -> None:
        """Note a transition; the head repeats it."""
        if cause.value.startswith("decided"):
            return  # the head decides
        note: dict[str, Any] = {"cause": cause.value}
        if cause is Cause.ASSIGNED:
            note |= {"worker_id": job.worker_id, "pid": job.pid}
        if job.verdict is not None:  # mostly one that the head knows; the node's own is a deadline, or a limit
            why = job.verdict
            note["verdict"] = {"code": why.code, "by": why.by, "reason": why.reason, "facts": dict(why.facts)}
        self._notes.append(note)
        self._on_news(self)

    def on_assigned(self, job: Job) -> bool:
        return True

    def on_changed(self, job: Job) -> None:
        self._on_news(self)

    def on_output(self, job: Job, data: bytes, stream: str) -> None: ...

    def on_logged(self, job: Job, kind: int, payload: bytes) -> None:
        """Note what it tells of a span of its own; the head keeps it. Too much is only counted there."""
        if self._spans >= SPANS_MAX:
            return
        self._spans += 1
        self._span_bytes += len(payload)
        told = '{"left_out":1}' if self._span_bytes > SPAN_BYTES_MAX else payload.decode("utf-8", "replace")
        self._notes.append({"cause": "span", "span": told})
        self._on_news(self)

    # ── what the head is told ──

    def take_notes(self) -> Iterator[tuple[Header, bytes]]:
        """Yield the item of its transitions, which go before anybody's data."""
        notes, self._noted = self._notes[self._noted :], len(self._notes)
        if notes:
            yield {"n": self.n, "kind": "notes", "notes": notes}, b""

    def take(self, bytes_max: int) -> Iterator[tuple[Header, bytes]]:
        """Yield items of about this size in total; one may be larger."""
        yield from self.take_notes()
        job = self.job
        if self._end is not None:
            self.is_told = True
            yield {"n": self.n, "kind": "end"}, self._end
            return
        if job is None:
            return  # its input is being sealed
        while bytes_max > 0 and self._next < len(job.log):
            at = self._next
            self._next, encoded = job.log.encode_some(at, EVENTS_MAX, bytes_max)
            bytes_max -= len(encoded)
            yield {"n": self.n, "kind": "events", "at": at}, encoded
        if bytes_max > 0 and job.is_over and not self.is_told and self._next == len(job.log):
            assert job.outcome is not None
            self.is_told = True
            for kind, value in (("result", job.result), ("partial", job.partial)):
                if value is not None:
                    yield {"n": self.n, "kind": kind}, value
            yield {"n": self.n, "kind": "end"}, _end_of(job.outcome, job.certificate or {}, may_retry=job.may_retry)

    @property
    def has_news(self) -> bool:
        """Return whether `take` has something left."""
        job = self.job
        if self.is_told:
            return False
        if self._noted < len(self._notes) or self._end is not None:
            return True
        return job is not None and (self._next < len(job.log) or job.is_over)


def _end_of(outcome: Outcome, certificate: dict[str, Any], *, may_retry: bool) -> bytes:
    return dump_json({"outcome": outcome._asdict(), "certificate": certificate, "may_retry": may_retry})
