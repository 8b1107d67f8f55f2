"""The events of the streams of jobs and of workers, as they are documented.

Runs in: api. Nothing is validated with these: the supervisor makes the events.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from killable.api.http import schemas
from killable.supervisor.records import WorkerUse

WORKERS = "Null with `workers=false`"
LiveWorker = schemas.model_of("LiveWorker", WorkerUse, base=schemas.Worker)


class PoolRecovery(BaseModel):
    """Milliseconds from the end of a process tree until the pool had a warm worker again."""

    last: float | None
    p50: float | None = Field(description="Median of the last 100")


class LivePool(BaseModel):
    """One pool."""

    name: str
    state: str
    start_method: str
    workers: int = Field(description="Maximum number of busy workers")
    spares: int
    idle: int
    busy: int
    starting: int
    quarantined: int
    generation: int
    restarts: int = Field(description="Of its zygote")
    replaced: dict[str, int] = Field(
        description="Its workers that have ended since the start of the server, by why: `stopped`: a job on it was "
        "stopped, or an operator killed it; `died`: nobody had asked it to; `served`: it had `jobs_per_worker_max` "
        "jobs; `retired`: its last job had left something behind; `reloaded`: new code has its place; `not_started`: "
        "it was never ready; `zygote_lost`: its zygote has ended"
    )
    recovery_ms: PoolRecovery
    queued: int
    cpu_percent: float | None = Field(description="What its workers use of one core together; null: none is measured")
    memory_bytes: int | None = Field(description="The same, as `memory_bytes` of a worker")


class LiveQueue(BaseModel):
    """The jobs that wait; for a key that sees its own jobs only, those."""

    depth: int
    bytes: int
    oldest_s: float | None
    by_type: dict[str, int]


class LiveJobs(BaseModel):
    """Jobs by state; for a key that sees its own jobs only, those."""

    running: int
    stopping: int
    queued: int
    ended: dict[str, int] | None = Field(
        description="Since the start, by code, or `completed`; null for a key that sees its own jobs only"
    )


class LiveServer(BaseModel):
    """The process of the server, without its workers."""

    cpu_percent: float | None = Field(description="Of one core")
    memory_bytes: int
    loop_stall_worst_ms: float = Field(description="The longest turn of the event loop in the last minute or two")
    uptime_s: float
    version: str
    draining: bool
    node: str


class Now(BaseModel):
    """The data of `now`."""

    at: float = Field(description="In seconds since 1970")
    seq: int
    workers: list[LiveWorker] | None = Field(description=WORKERS)  # type: ignore[valid-type]
    retired: list[schemas.Retired] | None = Field(description=WORKERS)
    pools: list[LivePool]
    queue: LiveQueue
    jobs: LiveJobs
    server: LiveServer
    nodes: list[schemas.Node]


class JobsEvent(BaseModel):
    """The data of `jobs`: the list, newest first."""

    jobs: list[schemas.ShortJob]
    total: int = Field(description="All that match")
    counts: dict[str, int] = Field(description="By state, those that match but for their state")


class StreamTickets(BaseModel):
    """Where the streams are read."""

    workers_url: str
    jobs_url: str
    expires_at: str | None = Field(description="RFC 3339 in UTC; null: without keys they need no ticket")


JobChange = JobsEvent


def of_events(data: type[BaseModel]) -> dict[str, Any]:
    """Return the description of a stream whose events have such data."""
    schema, _definitions = _schema(data)
    return event_stream({"type": "string", "contentMediaType": "application/json", "contentSchema": schema})


def definitions() -> dict[str, Any]:
    """Return what the descriptions of streams refer to: it belongs to the components of the whole."""
    return _schema(Now)[1] | _schema(JobChange)[1]


def _schema(data: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = data.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    return schema, schema.pop("$defs", {})


def event_stream(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the description of a stream. It is a text, as which generated clients have to take it, and the events are
    its content.
    """
    members = {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string"} | ({"examples": list(names)} if names else {}),
        "data": data,
        "retry": {"type": "integer"},
    }
    event = {"type": "object", "description": "Each event", "properties": members, "required": ["data"]}
    content = {"contentMediaType": "text/event-stream", "contentSchema": {"type": "array", "items": event}}
    return {"schema": {"type": "string", **content}}
