"""A registry filled with jobs that no supervisor runs.

Runs in: the test process.
"""

from __future__ import annotations

from typing import Any

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.jobs.tenants import Tenants
from killable.supervisor.models import JobType, Submission
from killable.supervisor.settings import SupervisorSettings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS

TYPE = JobType(
    name="work", description="", input_schema={}, pool="p", codec="json", limits=DEFAULT_LIMITS, caps={}, operations=()
)


def registry(
    keep_jobs: int = 10, keep_bytes: int = 1 << 30, keep_s: float = 1e9, tenants: dict[str, Any] | None = None
) -> Registry:
    settings = SupervisorSettings(keep_jobs=keep_jobs, keep_bytes=keep_bytes, keep_s=keep_s)
    return Registry(settings, Tenants(tenants or {}, queue_jobs_max=1000, queue_bytes_max=1 << 30))


def add(jobs: Registry, tenant: str = "default", **fields: object) -> Job:
    number = jobs.next_number()
    job = Job(
        id=f"job-{number}",
        number=number,
        type=TYPE,
        submission=Submission("work", b"input", tenant=tenant),
        limits=DEFAULT_LIMITS,
        log=EventLog(1 << 20),
        created_at="",
        created=0.0,
        queued=0.0,
    )
    for name, value in fields.items():
        setattr(job, name, value)
    jobs.add(job)
    return job


def end(jobs: Registry, job: Job, now: float, size: int = 0, state: State = State.COMPLETED) -> None:
    job.log.append("completed", b"x" * size)
    job.state, job.ended = state, now
    jobs.note_end(job, now)


def ids(jobs: Registry) -> list[int]:
    found, _ = jobs.page(JobFilter(), limit=10_000)
    return [job.number for job in found]
