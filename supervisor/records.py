"""What callers are shown of jobs, workers, pools, nodes and tenants; the reference documents each field from here.

Runs in: supervisor. Pure: values only, named tuples as in `models`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from killable.supervisor.models import TERMINAL_STATES, WorkerId
from killable.workers.named_tuples import NamedTuple


class JobRecord(NamedTuple):
    """One job as clients see it. Times are RFC 3339 UTC."""

    job_id: str
    """Unguessable: `job-` and a UUID."""
    type: str
    """Name of the job type."""
    state: str
    """queued · running · stopping, then one of completed · failed · cancelled · timed_out."""
    created_at: str
    """When the submission was accepted."""
    started_at: str | None
    """When the job function of the latest attempt was entered."""
    ended_at: str | None
    """When the outcome was decided: no process of the job existed any more."""
    limits: dict[str, Any]
    """Every limit in force for this job, by name."""
    tags: dict[str, str]
    """The submitter's labels."""
    tenant: str
    """Name of the API key that submitted it; `default` without keys."""
    priority: int
    """Jobs with a higher priority start first."""
    queue: dict[str, Any] | None
    """Position in the queue and estimated wait, while it waits."""
    attempt: int
    """Number of the current attempt, from 1."""
    attempts: int
    """Attempts that have begun."""
    worker_id: str | None
    """The worker of the latest attempt."""
    pid: int | None
    """For people and logs; never used to send a signal."""
    tokens: int
    """Tokens streamed so far by the latest attempt."""
    result: bytes | None
    """In the pool's codec: JSON text where the codec is `json`."""
    partial: bytes | None
    """The last checkpoint of a job that did not complete."""
    error: dict[str, Any] | None
    """Code, message and facts of a job that did not complete."""
    certificate: dict[str, Any] | None
    """The timed record of its end; of a job that is being stopped, the steps so far."""
    instance_id: str
    """The run of the server to which it belonged."""
    events: int
    """Number of events so far; the id of the last one is one less."""
    first_id: int = 0
    """Id of the first event of the latest attempt: what was streamed before it is void."""
    markers: bool = False
    progress: dict[str, Any] | None = None
    """The last progress that the job reported."""
    correlation_id: str = ""
    """The caller's id for the larger task that this job is part of."""
    trace_id: str = ""
    """The trace that it is in (W3C Trace Context); empty: in none."""
    lost_attempts: int = 0
    """Attempts that were lost with a server or its machine, and followed by another one (`on_loss`)."""
    durable: bool | None = None
    """Whether its end survives the death of the server: true when it is in the journal, false until then. Null while it
    has not ended, and without a journal."""
    replayed: bool = False
    """Whether this is the stored answer to the first request with this idempotency key."""
    node: str | None = None
    """The node of the latest attempt; null on a server of one machine."""
    nodes: Mapping[str, str] = {}
    """Labels of the nodes that may run it; empty: all."""
    files: Sequence[Mapping[str, Any]] = ()
    """The files that its latest attempt has saved: name, size in bytes and content type of each."""
    callback: Mapping[str, Any] | None = None
    """Its webhook: `state` (pending · delivered · failed), `attempts`, `detail`; null: it has none."""
    input: Mapping[str, Any] | None = None
    """The beginning of its input: `text`, `bytes` (of all of it), `is_cut`; null: none is kept (`keep_input_bytes`), or
    the key may not see it (`inputs_shown_to`)."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL_STATES


class JobCounts(NamedTuple):
    """How many jobs there are."""

    total: int
    """Those that match a filter."""
    counts: dict[str, int]
    """By state, those that match it but for their state."""


class FileRecord(NamedTuple):
    """One uploaded file as clients see it."""

    file_id: str
    """Unguessable: `file-` and 32 hexadecimal digits. What a job's input has for a parameter that is a file."""
    name: str
    """The name under which jobs find it."""
    size: int
    """In bytes."""
    sha256: str
    """Digest of its content, hexadecimal."""
    content_type: str
    """What the client said that it is."""
    tenant: str
    """Name of the API key that uploaded it; `default` without keys."""
    created_at: str
    """When it was whole: RFC 3339 in UTC."""
    jobs: int = 0
    """Number of jobs that use it and whose records are kept."""
    active_jobs: int = 0
    """Those of them that have not ended."""


class WorkerRecord(NamedTuple):
    """One worker process as clients see it."""

    worker_id: str
    """`w-` and a number, unique in one run of the server."""
    pool: str
    """Name of its pool."""
    pid: int | None
    """For people and logs; never used to send a signal."""
    state: str
    """spawning · idle · busy · stopping · leaving · quarantined"""
    job_id: str | None
    """The job that it runs."""
    type: str | None
    """That job's type."""
    attempt: int | None
    """That job's attempt."""
    age_s: float
    """Seconds since it was started."""
    jobs: int
    """Number of attempts assigned to it."""
    start_method: str
    """fork · spawn"""
    proof: str
    """How an empty process tree is proven here: `cgroup+descendants`, or `descendants`."""
    cpu: float | None = None
    """Share of one core over its life; 1.0 is one core."""
    rss_bytes: int | None = None
    """Resident memory of its process tree."""
    uss_bytes: int | None = None
    """Private memory of its process tree."""
    node: str | None = None
    """The node that it runs on; null on a server of one machine."""
    generation: int = 1
    """Which code it has: of which of the pool's loads."""


class WorkerUse(NamedTuple):
    """What a worker and all processes of its job use now. Null: not measured yet, or it is gone."""

    cpu_percent: float | None = None
    """Of one core, since the measurement before, a second earlier; with hundreds of workers some seconds."""
    memory_bytes: int | None = None
    """As `memory_bytes` of a job counts it: private memory of all of them, and what they have mapped to share it."""
    processes: int | None = None
    """Living ones, its own included."""
    threads: int | None = None
    """Of all of them."""


class MeasuredWorker(NamedTuple):
    """A worker with what it uses, for those who are told each second: the same object while only its age changes."""

    record: WorkerRecord
    """With the age that it had at `at`."""
    use: WorkerUse
    at: float
    """In monotonic seconds."""

    def age_s(self, now: float) -> float:
        """Return its age at this time."""
        return self.record.age_s + now - self.at


NODE_STATES = ("joining", "live", "suspect", "draining", "released", "lost", "refused")


class NodeRecord(NamedTuple):
    """One machine of a cluster, as its head sees it."""

    name: str
    state: str
    """joining · live · suspect · draining · released (given back, as it was idle) · lost · refused"""
    incarnation: str
    """The run of its supervisor; empty: it has not joined yet."""
    slots: int
    """Jobs that it runs at once, over all pools."""
    running: int
    """Jobs that it has now."""
    heard_s: float | None
    """Seconds since the head has heard of it; null: never."""
    detail: str = ""
    """Why it is refused, suspect, lost, drained or released; of a live one what is wrong with its machine."""
    labels: Mapping[str, str] = {}
    """What selectors look at: its labels in Ray, and `node`, its name."""
    deadline_s: float | None = None
    """Seconds until what runs on a drained node is stopped; null: it is not."""
    delay_s: float | None = None
    """Seconds until it had answered the last order: the way there and back; null: there was none."""


class RetiredWorker(NamedTuple):
    """A worker that was not reused because of what its last job left behind."""

    worker_id: WorkerId
    pool: str
    """Name of its pool."""
    job_id: str
    """Its last job."""
    why: str
    """What its last job left behind."""
    at: str
    """RFC 3339 in UTC."""


REPLACED = ("stopped", "died", "served", "retired", "reloaded", "not_started", "zygote_lost")
"""Why a worker has ended: it was signalled, for its job or by an operator; nobody had asked for it; it had
`jobs_per_worker_max` jobs; its last job had left something behind; new code has its place; it was never ready; its
zygote has ended. One that was to end by itself and was signalled all the same is `stopped`.
"""


class PoolRecord(NamedTuple):
    """The state of one pool."""

    name: str
    """As in `[pools.NAME]`."""
    state: str
    """starting · ready · broken · restarting"""
    start_method: str
    """fork · spawn"""
    workers_max: int
    """Maximum number of busy workers."""
    spares: int
    """Warm and idle workers beyond the busy ones."""
    idle: int
    """Workers that are warm and idle."""
    busy: int
    """Workers that run an attempt."""
    quarantined: int
    """Slots lost to processes that SIGKILL does not end."""
    zygote_pid: int | None
    zygote_restarts: int
    """Number of restarts of its zygote."""
    proof: str
    """How an empty process tree is proven here."""
    detail: str = ""
    """Why it is broken (the traceback), why it does not fork, or why workers that are missing do not start."""
    sandbox: str = ""
    """What its jobs may not do, in words; empty: nothing is forbidden."""
    generation: int = 1
    """How often its code was loaded, the start included."""
    replaced: Mapping[str, int] = {}
    """Number of its workers that have ended since the start, by REPLACED; without what there was none of."""
    is_short: bool = False
    """Whether it is not ready for want of processes, memory, descriptors or disk: a fault of the machine's."""
    starts_fail: bool = False
    """Whether it is ready, and the workers that are missing have failed to start several times in a row."""


class Quota(NamedTuple):
    """What is left of a tenant's `submissions_per_s`, as the RateLimit headers say it."""

    quota: int
    """Submissions that may come at once."""
    window_s: int
    """Seconds for so many."""
    remaining: int
    """Submissions that may come now."""
    reset_s: int
    """Seconds until the whole quota is there again, if nothing is submitted."""


class ReloadRecord(NamedTuple):
    """A reload: every pool rolled over to the code as it is now, or none of them."""

    state: str
    """none · loading · done · failed"""
    started_at: str | None = None
    """RFC 3339 in UTC; null: there was none."""
    took_s: float | None = None
    """Seconds until the new code had the jobs, or had failed; null while it is loaded."""
    error: str = ""
    """Why it failed, in a line; the code from before goes on."""
    traceback: str = ""
    """Of the code that does not load."""
    files: tuple[str, ...] = ()
    """Files of the jobs' code that had changed, or are gone."""
    pools: tuple[str, ...] = ()
    """Pools that were rolled over."""
    came: tuple[str, ...] = ()
    """Job types that are new."""
    gone: tuple[str, ...] = ()
    """Job types that there are no more: of these, what had waited has failed with `spawn`."""
    changed: tuple[str, ...] = ()
    """Job types with another schema or other limits; what waits keeps its own."""
    jobs_failed: int = 0
    """Jobs that had waited, and whose type is gone."""
    changed_since: tuple[str, ...] = ()
    """Files of the jobs' code that are not as they were when they were loaded: the code from before runs."""
    not_read: tuple[str, ...] = ()
    """What else could not be read again, and why, a sentence each: API keys, secrets of webhooks, settings. They
    stay as they were.
    """


class TenantRecord(NamedTuple):
    """What one tenant has, beside its bounds."""

    tenant: str
    """Name of its API key; `default` without keys."""
    queued: int
    """Jobs that wait for a worker or a retry."""
    queued_bytes: int
    """Input of these jobs."""
    running: int
    """Jobs that have a worker."""
    kept: int
    """Ended jobs that are readable."""
    kept_bytes: int
    """Memory of these jobs."""
    streams: int
    """Open streams."""
    idempotency_keys: int
    """Remembered keys of jobs that are no longer kept."""
    bounds: dict[str, Any]
    """Every bound by name; null: none but the server's own."""


class DrainProgress(NamedTuple):
    """The progress of a drain."""

    draining: bool
    """Whether new jobs are refused."""
    shutting_down: bool
    """Whether the server ends when no job is left."""
    deadline_s: float | None
    """Seconds until the remaining jobs are cancelled; None: they are not."""
    running: int
    """Jobs that have a worker."""
    queued: int
    """Jobs that wait for one."""


class BulkCancel(NamedTuple):
    """What became of each job that matched, newest first."""

    jobs: tuple[tuple[str, str], ...]
    """Pairs of a job id and cancelled · stopping · already_ended; in a dry run its current state."""
    durable: tuple[bool | None, ...] = ()
    """Of each of them, as in its record; empty in a dry run."""
