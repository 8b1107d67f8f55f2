"""The value types of the supervisor: submissions, verdicts, outcomes, certificates, events. Records are in `records`.

Runs in: supervisor. Pure: values only, which are never changed, not even an empty dict that is a default. They are
named tuples: a dataclass takes 1 ms to define, at each start of a program with an Executor.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NewType, TypedDict

from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.error_codes import CODES
from killable.workers.errors import KillableError
from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.workers.protocol.shared_memory import SealedInput, SharedParts

WorkerId = NewType("WorkerId", str)

DEFAULT_TENANT = "default"
"""The tenant of a server without API keys."""

ACTIVE_STATES = ("queued", "running", "stopping")
TERMINAL_STATES = ("completed", "failed", "cancelled", "timed_out")


class StartRefused(KillableError):
    """The configuration or a job's declaration cannot be served: the supervisor does not start."""

    code = "invalid"


class NoRoom(StartRefused):
    """The machine has no room for it at this moment, and may have some at the next start. Exit code 71."""

    code = "cannot_serve"
    exit_code = 71


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Errors of the system that say so."""


class Submission(NamedTuple):
    """A request for a job. The input is already checked and encoded in the pool's codec.

    A large input is in sealed memory, which the job closes in the end, as it does its shared parts.
    """

    type: str
    input: bytes | SealedInput
    limits: Mapping[str, Any] = {}
    priority: int = 0
    tags: Mapping[str, str] = {}
    tenant: str = DEFAULT_TENANT
    operator: bool = False
    """Whether an operator's key submits it: the defaults of tenants do not bind it, and the queue has a reserve for it.
    """
    within_s: float | None = None
    """Seconds for which the caller waits. Lowers `total_s`; no cap applies to it."""
    stop_when_client_leaves: bool = False
    markers: bool = False
    """The request named an `operation` instead of a `type`: streams of this job end with a marker line."""
    idempotency_key: str = ""
    """A later submission of this tenant with the same key returns this job; empty: no key."""
    body_digest: str = ""
    """Digest of the whole request. The same key with another digest is a conflict."""
    correlation_id: str = ""
    """The caller's id for the larger task that this job is part of; passed on, never interpreted."""
    traceparent: str = ""
    """The place in a trace that the job is to have (`workers.protocol.trace_context`), checked; empty: none."""
    tracestate: str = ""
    tells_spans: bool = False
    """On a node: its head wants to hear of the job's own spans."""
    nodes: Mapping[str, str] = {}
    """Labels of the nodes that may run it, in Ray's syntax; empty: all. See `jobs.node_labels`."""
    files: tuple[str, ...] = ()
    """The ids of the uploaded files that the input has."""
    callback_url: str = ""
    """Where its end is sent, as a webhook; empty: nowhere."""
    shared: SharedParts | None = None
    """Memory files that the input refers to, and other inputs as well. Only of an Executor's tasks."""


class Verdict(NamedTuple):
    """Why an attempt is to end. Decided once: the first cause wins."""

    code: str
    by: str = ""
    """user · client_gone · operator · shutdown, for a cancel; `supervisor` for a limit."""
    reason: str = ""
    facts: Mapping[str, Any] = {}
    key: str = ""
    """Name of the API key that asked for a cancel; for the log."""
    requested_at: float | None = None
    """When another thread requested it, in monotonic seconds; None: now."""


class ExitStatus(NamedTuple):
    """How a process ended, from waitid(2): an exit code or a signal, never both; neither when that is unknown."""

    exit_code: int | None = None
    signal: int | None = None
    core_dumped: bool = False

    @property
    def known(self) -> bool:
        return self.exit_code is not None or self.signal is not None


class Certificate(NamedTuple):
    """The timed record of an attempt's end. Phases are in ms since `requested`; None: did not happen.

    In the order of the fields, the phases that happened never decrease. Without a request (the job ended by itself)
    `requested` is None and the phases count from the exit that was seen first.
    """

    requested: float | None = None
    """Always 0. Absent if no stop was requested: then the phases count from the exit."""
    term_sent: float | None = None
    """SIGTERM was sent."""
    delivered: float | None = None
    """The signal reached the worker process."""
    acknowledged: float | None = None
    """Python's signal handler ran; the clean-up of the job begins. Absent for native code."""
    kill_sent: float | None = None
    """SIGKILL was sent."""
    exited: float | None = None
    """The worker process exited."""
    reaped: float | None = None
    """Its exit status was collected."""
    tree_empty: float | None = None
    """No process of the job existed any more."""
    slot_ready: float | None = None
    """The worker that replaces it was ready."""
    early_kill: str | None = None
    """Why SIGKILL was sent before the grace period was over."""
    lingered: bool | None = None
    """True: SIGKILL was sent because the job was over and its process had not ended a second later."""
    cause: str = ""
    """The error code of the end, such as `cancelled` or `timeout.run`."""
    by: str = ""
    """Who requested a cancel: `user`, `client_gone`, `operator` or `shutdown`; `supervisor` for a limit."""
    reason: str = ""
    """The reason that the caller gave."""
    grace_s: float | None = None
    """The grace period in force, in seconds (a later request may have shortened it)."""
    last_signal: str | None = None
    """The last signal that the supervisor sent."""
    exit_code: int | None = None
    """The exit code of the worker: see [Exit codes](exit-codes.md)."""
    exit_signal: str | None = None
    """The signal that ended the worker, such as `SIGKILL`."""
    proof: str = ""
    """`cgroup+descendants`, or only one of the two; empty while the tree is not proven empty."""
    unproven: str = ""
    """Why it is not proven that no process of the job is left; then there is no `tree_empty`."""
    processes_swept: int = 0
    """Number of descendants of the worker that still existed after its exit."""
    shared_memory_removed: int = 0
    """Number of shared memory segments (POSIX and System V) and named semaphores that it had left, and that were
    removed.
    """
    max_rss_bytes: int | None = None
    """Peak resident memory of the largest process of the worker, a preloaded model included; none of a traced one."""
    user_s: float | None = None
    """Processor time of the worker in user mode; if it was reused, for all of its jobs."""
    system_s: float | None = None
    """The same in kernel mode."""
    stack: str | None = None
    """The stack at the signal, most recent call first."""
    operation: str = ""
    """The path of the operation (`load/download`) that the job was in at its end; empty: none."""
    tokens: int = 0
    """Number of tokens that the attempt wrote."""
    last_sequence: int | None = None
    """Id of the last event before the terminal one."""
    node: str = ""
    """The node that ran it; absent on a server of one machine."""
    relayed: float | None = None
    """Ms from the request at the head of a cluster until the head had the whole certificate. The phases are the node's.
    """

    def as_json(self) -> dict[str, Any]:
        """Return the known members; a phase that did not happen is absent, never 0."""
        members = zip(self._fields, self, strict=True)
        return {name: value for name, value in members if value is not None and value != ""}


PHASES = ("term_sent", "delivered", "acknowledged", "kill_sent", "exited", "reaped", "tree_empty", "slot_ready")


class Outcome(NamedTuple):
    """How an attempt ended: the state and, unless it completed, the error."""

    state: str
    code: str | None = None
    message: str = ""
    facts: Mapping[str, Any] = {}
    is_transient: bool = False
    """The job's author wants another attempt after it: `retry_on`, or a `Retry`."""
    after_s: float | None = None
    """The seconds until then that a `Retry` asks for."""

    def error_json(self) -> dict[str, Any] | None:
        """Return the error in the form of records, events and problem documents; None: it completed."""
        if self.code is None:
            return None
        retryable = self.is_transient or CODES[self.code].retryable
        return {"code": self.code, "message": self.message, "retryable": retryable, **self.facts}


class JobType(NamedTuple):
    """A registered function as its zygote reported it, with the limits in force for it."""

    name: str
    """The name by which it is submitted."""
    description: str
    """The function's docstring."""
    input_schema: dict[str, Any]
    """JSON Schema of the input."""
    pool: str
    """The pool that runs it."""
    codec: str
    """json · pickle (an Executor)"""
    limits: Limits
    """Default limits of its jobs."""
    caps: dict[str, float]
    """The largest limits that a submission may request."""
    streams: bool = False
    """Whether it yields tokens."""
    on_loss: str = "fail"
    """What becomes of its jobs that ran when the server died, with a journal: fail · rerun"""
    retry_on: tuple[str, ...] = ()
    """After which exceptions and codes of endings its jobs are run again, if `attempts_max` allows it."""
    retry_codes: tuple[str, ...] = ()
    """The codes among them."""
    available: bool = True
    """False: the machine lacks one of its requirements."""
    unavailable_reason: str = ""
    """What is missing, and how to install it."""
    operations: tuple[str, ...] = ()
    """Other names by which it can be submitted."""
    limit_sources: Mapping[str, str] = {}
    """What set each limit: `decorator`, or the key of `killable.toml` that did or would (`limits.run_s`)."""
    openai: str = ""
    """The kind of OpenAI request that it answers: chat · completions · embeddings · tokenize · detokenize; empty: none.
    """
    openai_model: str = ""
    """The model's name in these requests."""


class JobEvent(NamedTuple):
    """One event of a job."""

    id: int
    name: str
    data: bytes
    """One line of JSON."""


JobEvents = AsyncGenerator[Sequence[JobEvent], None]
"""Events in batches, for one reader."""


class Wanted(TypedDict, total=False):
    """Filters of jobs. A job has to fit all that are given; None: any."""

    state: str | None
    """A public state, or `active`."""
    type: str | None
    tag: tuple[str, str] | None
    """Key and value."""
    tenant: str | None
    node: str | None
    """That of the latest attempt."""
    code: str | None
    """Why it has ended, or is stopped; `timeout` is every code that begins with `timeout.`, too."""
    search: str | None
    """Words that all stand in its id, type, tags, correlation id or code, in any case."""


class HeadLine(NamedTuple):
    """The heads of a cluster that had a journal before."""

    origin: str = ""
    """The first one of all. A copy of a journal has the same; empty: there was none."""
    ends: Mapping[str, int] = {}
    """The newest ones: the number of the last transaction that each can have written."""
