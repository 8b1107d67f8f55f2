"""Who reads the streams of jobs, and what ends when the last reader of a job leaves (`stop_when_client_leaves`).

Runs in: supervisor.
"""

from __future__ import annotations

from killable.supervisor.dispatch.dispatcher import Dispatcher
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.jobs.tenants import Tenants
from killable.supervisor.models import Verdict
from killable.supervisor.telemetry.observer import Observer
from killable.workers.errors import Refused


class StreamReaders:
    """The readers of all jobs, counted for each job and tenant."""

    def __init__(self, registry: Registry, tenants: Tenants, observer: Observer, dispatcher: Dispatcher) -> None:
        self._registry = registry
        self._tenants = tenants
        self._observer = observer
        self._dispatcher = dispatcher

    def came(self, job_id: str | None, tenant: str, *, operator: bool, watches: bool, counted: bool) -> None:
        """Count a reader, of no job where that is None. `watches`: its leaving does not end the job. `counted`: it has
        an open stream. Raise Refused: unknown_job, too_many_streams.
        """
        job = None if job_id is None else self._registry.get(job_id)
        if counted:
            self._tenants.stream_came(tenant, operator=operator)
            self._observer.sse_clients += 1
        if job is not None:
            job.readers += not watches

    def left(self, job_id: str | None, tenant: str, *, watches: bool, counted: bool) -> bool:
        """Count one less. Return whether that ends the job."""
        if counted:
            self._observer.sse_clients -= 1
            self._tenants.stream_left(tenant)
        if job_id is None or watches:
            return False
        try:
            job = self._registry.get(job_id)
        except Refused:
            return False  # ended and dropped meanwhile
        job.readers -= 1
        if job.readers or not job.submission.stop_when_client_leaves or job.is_over:
            return False
        verdict = Verdict("cancelled", by="client_gone", reason="the last reader of the stream has left")
        self._dispatcher.stop(job, verdict, None)
        return job.verdict is verdict  # the first cause wins
