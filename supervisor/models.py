"""The value types of the supervisor: submissions, verdicts, certificates, records.

Runs in: supervisor. Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NewType

from killable.workers.authoring.limits import Limits
from killable.workers.errors import CODES, KillableError

if TYPE_CHECKING:
    from killable.workers.protocol.shared_memory import SealedInput

WorkerId = NewType("WorkerId", str)

ACTIVE_STATES = ("queued", "running", "stopping")
TERMINAL_STATES = ("completed", "failed", "cancelled", "timed_out")


class StartRefused(KillableError):
    """The configuration or a job's declaration cannot be served: the supervisor does not start."""

    code = "invalid"


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for a job. The input is already checked and encoded in the pool's codec.

    A large input is in sealed memory, which the job closes in the end.
    """

    type: str
    input: bytes | SealedInput
    limits: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    tenant: str = "default"
    within_s: float | None = None
    """How long the caller waits. Lowers `total_s`; no cap applies to it."""
    stop_when_client_leaves: bool = False
    markers: bool = False
    """The request named an `operation` instead of a `type`: streams of this job end with a marker line."""
    idempotency_key: str = ""
    """A later submission of this tenant with the same key returns this job; empty: no key."""
    body_digest: str = ""
    """Digest of the whole request. The same key with another digest is a conflict."""
    correlation_id: str = ""
    """The caller's id for the larger task that this job is part of; passed on, never interpreted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an attempt is to end. Decided once: the first cause wins."""

    code: str
    by: str = ""
    """user · client_gone · operator · shutdown, for a cancel; `supervisor` for a limit."""
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    asked_at: float | None = None
    """When another thread requested it, in monotonic seconds; None: now."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended, from waitid(2): an exit code or a signal, never both; neither when that is unknown."""

    exit_code: int | None = None
    signal: int | None = None
    core_dumped: bool = False

    @property
    def known(self) -> bool:
        return self.exit_code is not None or self.signal is not None


@dataclass(frozen=True, slots=True)
class Certificate:
    """The timed record of an attempt's end. Phases are in ms since `requested`; None: did not happen.

    In the order of the fields, the phases that happened never decrease. Without a request (the job ended by itself)
    `requested` is None and the phases count from the exit that was seen first.
    """

    requested: float | None = None
    term_sent: float | None = None
    delivered: float | None = None
    acknowledged: float | None = None
    kill_sent: float | None = None
    exited: float | None = None
    reaped: float | None = None
    tree_empty: float | None = None
    slot_ready: float | None = None
    early_kill: str | None = None
    """Why SIGKILL was sent before the grace period was over."""
    lingered: bool | None = None
    """True: SIGKILL was sent because the job was over and its process had not ended a second later."""
    cause: str = ""
    by: str = ""
    reason: str = ""
    grace_s: float | None = None
    """The grace period in force, in seconds (a later request may have shortened it)."""
    last_signal: str | None = None
    """The last signal that the supervisor sent."""
    exit_code: int | None = None
    exit_signal: str | None = None
    proof: str = ""
    """`cgroup+descendants`, or only one of the two; empty while the tree is not proven empty."""
    processes_swept: int = 0
    """Processes below the worker that still existed when it had ended."""
    max_rss_bytes: int | None = None
    user_s: float | None = None
    system_s: float | None = None
    stack: str | None = None
    """The stack at the signal, most recent call first."""
    operation: str = ""
    """The path of the operation (`load/download`) in which the end came; empty: in none."""
    tokens: int = 0
    last_sequence: int | None = None
    """Id of the last event before the terminal one."""

    def as_json(self) -> dict[str, Any]:
        """Return the known members; a phase that did not happen is absent, never 0."""
        # dataclasses.asdict copies deeply, which takes 90 µs at every end.
        members = zip(_CERTIFICATE_NAMES, _certificate_values(self), strict=True)
        return {name: value for name, value in members if value is not None and value != ""}


_CERTIFICATE_NAMES = tuple(f.name for f in fields(Certificate))
_certificate_values = attrgetter(*_CERTIFICATE_NAMES)
PHASES = ("term_sent", "delivered", "acknowledged", "kill_sent", "exited", "reaped", "tree_empty", "slot_ready")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: the state and, unless it completed, the error."""

    state: str
    code: str | None = None
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def error_json(self) -> dict[str, Any] | None:
        """Return the error in the form of records, events and problem documents; None: it completed."""
        if self.code is None:
            return None
        retryable = CODES[self.code].retryable
        return {"code": self.code, "message": self.message, "retryable": retryable, **self.facts}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as clients see it. Times are RFC 3339 UTC."""

    job_id: str
    type: str
    state: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    limits: dict[str, Any]
    tags: dict[str, str]
    tenant: str
    priority: int
    queue: dict[str, Any] | None
    attempt: int
    attempts: int
    worker_id: str | None
    pid: int | None
    """For people and logs; never used to send a signal."""
    tokens: int
    result: bytes | None
    """In the pool's codec: JSON text where the codec is `json`."""
    partial: bytes | None
    error: dict[str, Any] | None
    certificate: dict[str, Any] | None
    instance_id: str
    events: int
    """Number of events so far; the id of the last one is one less."""
    markers: bool = False
    progress: dict[str, Any] | None = None
    correlation_id: str = ""
    replayed: bool = False
    """This is the first answer to an idempotency key, returned again unchanged."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True)
class JobType:
    """A registered function as its zygote reported it, with the limits in force for it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    pool: str
    codec: str
    limits: Limits
    caps: dict[str, float]
    streams: bool = False
    available: bool = True
    unavailable_reason: str = ""
    operations: tuple[str, ...] = ()
    limit_sources: dict[str, str] = field(default_factory=dict)
    """What set each limit: `decorator`, or the key of `killable.toml` that did or would (`limits.run_s`)."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker process as clients see it."""

    worker_id: str
    pool: str
    pid: int | None
    state: str
    """spawning · idle · busy · stopping · leaving · quarantined"""
    job_id: str | None
    type: str | None
    attempt: int | None
    age_s: float
    jobs: int
    """Number of attempts that it was given."""
    start_method: str
    proof: str
    cpu: float | None = None
    """Share of one core over its life; 1.0 is one core."""
    rss_bytes: int | None = None
    uss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RetiredWorker:
    """A worker that was not reused because of what its last job left behind."""

    worker_id: WorkerId
    pool: str
    job_id: str
    why: str
    at: str
    """RFC 3339 in UTC."""


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """The state of one pool."""

    name: str
    state: str
    """starting · ready · broken · restarting"""
    start_method: str
    workers_max: int
    spares: int
    idle: int
    busy: int
    quarantined: int
    zygote_pid: int | None
    zygote_restarts: int
    proof: str
    detail: str = ""
    """Why it is broken (the traceback), or why it does not fork."""


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """The progress of a drain."""

    draining: bool
    shutting_down: bool
    deadline_s: float | None
    """Seconds until jobs that still run are cancelled; None: they may run to their end."""
    running: int
    queued: int


@dataclass(frozen=True, slots=True)
class BulkCancel:
    """What became of each job that matched, newest first."""

    jobs: tuple[tuple[str, str], ...]
    """Pairs of a job id and cancelled · stopping · already_ended; in a dry run its current state."""


class JobEvent(NamedTuple):
    """One event of a job."""

    id: int
    name: str
    data: bytes
    """One line of JSON."""
