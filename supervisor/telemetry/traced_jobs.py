"""The observer of a server that exports traces: it notes what each job does, and hands its facts over at its end.

Runs in: supervisor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import Outcome
from killable.supervisor.telemetry.job_trace import JobFacts, JobTrace, Sampler
from killable.supervisor.telemetry.observer import Observer

if TYPE_CHECKING:
    from killable.supervisor.telemetry.request_trace import RequestFacts


class Told(Protocol):
    """Takes what traces are made of; never blocks."""

    def put(self, facts: JobFacts | RequestFacts) -> None: ...


class TracedJobs(Observer):
    """Counts and logs as any observer does, and has a trace of each job."""

    _clock: Clock

    def __init__(self, sampler: Sampler, told: Told) -> None:
        super().__init__()
        self._sampler = sampler
        self._told = told

    def on_start(self, clock: Clock) -> None:
        self._clock = clock

    def _trace_of(self, job: Job) -> JobTrace:
        """Return the job's trace; one from a journal has none yet."""
        if job.trace is None:
            job.trace = JobTrace(job, self._sampler, self._clock)
        assert isinstance(job.trace, JobTrace)
        return job.trace

    def on_submitted(self, job: Job) -> None:
        self._trace_of(job)
        super().on_submitted(job)

    def on_transition(self, job: Job, cause: Cause) -> None:
        if cause is Cause.ASSIGNED:
            self._trace_of(job)  # before its order, which has it
        elif cause in (Cause.STOP_REQUESTED, Cause.KILL_DUE):
            self._trace_of(job).note_signal(self._clock.now())
        super().on_transition(job, cause)

    def on_retrying(self, job: Job, outcome: Outcome, wait_s: float) -> None:
        self._trace_of(job).end_attempt(job, outcome.state, outcome.code, outcome.message, self._clock.now())
        super().on_retrying(job, outcome, wait_s)

    def on_ended(self, job: Job) -> None:
        trace = self._trace_of(job)
        if trace.context.is_sampled:
            self._told.put(trace.end(job))
        super().on_ended(job)
