"""What goes over the wire: requests, which are checked, and answers, which are documented.

Runs in: api.

Unknown members of a request are refused, never ignored: a misspelt limit is a limit that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
    model_validator,
)

from killable.api.http.unknown_fields import FEW, few
from killable.workers.authoring.identifiers import OPERATION_PATH
from killable.workers.authoring.limits import LIMITS, Limit, Unit

WAIT_S_MAX = 60.0
"""The longest that a request is held: what many proxies wait for an answer; who has one in front asks for less."""
CORRELATION_ID = "^[A-Za-z0-9._:/+=-]{1,128}$"
IDEMPOTENCY_KEY = "^[!-~]{1,255}$"
"""Any spelling of an id, quoted as the IETF draft has it or not."""
TAG_KEY = "^[A-Za-z0-9_./-]{1,64}$"
TAG = "^[^:]+:"
CURSOR = "^[0-9]{1,18}$"
OPERATION = f"^{OPERATION_PATH}$"
PATTERNS = {
    CORRELATION_ID: "must be 1 to 128 of A-Z a-z 0-9 . _ : / + = -",
    IDEMPOTENCY_KEY: "must be 1 to 255 visible ASCII characters, without spaces",
    TAG_KEY: "must be named with 1 to 64 of A-Z a-z 0-9 _ . / -",
    TAG: "must be key:value",
    CURSOR: "must be the next_cursor of the page before",
    OPERATION: "must be named as in ctx.operation: 1 to 64 of A-Z a-z 0-9 _ . -, or a path of such names",
}
"""What to say of what does not match."""
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Operations = Annotated[
    dict[Annotated[str, Field(pattern=OPERATION)], Seconds | None],
    Field(
        max_length=100,
        description="Seconds by operation, its name or its path (load/download)",
        json_schema_extra={"additionalProperties": False},
    ),
    FEW,
]
Patience = Annotated[Seconds | None, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1e9})]
"""In a header, where no null can be sent."""
Grace = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""To JSON Schema 5.0 is an integer: some languages write no other numbers."""
Bytes = Annotated[int, Field(gt=0, le=2**53), WHOLE]
"""Up to where every JSON parser reads whole numbers exactly (RFC 8259 section 6)."""
HowMany = Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]
State = Literal["queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"]
StateFilter = Literal["active", "queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"]
ActiveFilter = Literal["active", "queued", "running", "stopping"]
Tags = Annotated[
    dict[Annotated[str, Field(pattern=TAG_KEY)], Annotated[str, Field(max_length=256)]],
    Field(max_length=32, json_schema_extra={"additionalProperties": False}),
    FEW,
]


class Request(BaseModel):
    """A request's body: JSON types as they are, nothing converted, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, members: Any) -> Any:
        return few(members, cls.model_fields) if cls.model_config.get("extra") == "forbid" else members


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}"


def _limit_form(limit: Limit) -> Any:
    """Return the type of a limit in a request."""
    form: Any = {Unit.SECONDS: Seconds, Unit.BYTES: Bytes, Unit.COUNT: HowMany, Unit.OPERATIONS: Operations}[limit.unit]
    if limit.may_be_zero:
        form = Grace
    if limit.most is not None:
        form = Annotated[int, Field(ge=1, le=limit.most), WHOLE]
    return form | None if limit.may_be_none else form


if TYPE_CHECKING:

    class LimitsRequest(Request):
        """Made below, from LIMITS."""

else:
    LimitsRequest = create_model(
        "LimitsRequest",
        __base__=Request,
        __doc__="Limits of one job, over those of its type; null means: no such limit.",
        **{
            # The default is the server's; `[limits]` and the job type may have another one.
            name: (_limit_form(limit), Field(default=limit.default, description=_sentence(limit.bounds)))
            for name, limit in LIMITS.items()
        },
    )


class _Job(Request):
    limits: LimitsRequest = LimitsRequest()
    priority: Annotated[int, Field(ge=-1000, le=1000), WHOLE] = 0
    tags: Tags = {}
    stop_when_client_leaves: bool = False

    def limits_given(self) -> dict[str, Any]:
        """Return the limits that the request names; the others are the type's."""
        return self.limits.model_dump(exclude_unset=True)


class JobRequest(_Job):
    """A job: its type, its input, its limits."""

    type: str = Field(max_length=64)
    input: dict[str, Any] = {}


class OperationRequest(_Job):
    """A job in the seed's spelling: every other member is input, and its stream ends with a marker line."""

    model_config = ConfigDict(extra="allow")

    operation: str = Field(max_length=64)

    @property
    def input(self) -> dict[str, Any]:
        return self.model_extra or {}


SPELLINGS = ("{type}", "{operation}")
"""Stand first in the paths of pydantic's faults; no member has such a name."""


def _spelling(body: Any) -> str:
    return SPELLINGS[isinstance(body, Mapping) and "operation" in body]


AnyJobRequest = Annotated[
    Annotated[JobRequest, Tag(SPELLINGS[0])] | Annotated[OperationRequest, Tag(SPELLINGS[1])], Discriminator(_spelling)
]


class BulkCancelRequest(Request):
    """Which jobs to cancel: at least one of type, tag and state; those that fit all."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}} for name in ("type", "tag", "state")
            ]
        }
    )

    type: str | None = Field(None, max_length=64)
    tag: str | None = Field(None, pattern=TAG, description="`key:value`")
    state: ActiveFilter | None = None
    reason: str = Field("", max_length=1000)
    grace_s: Grace | None = Field(None, description="Shortens each job's grace; a larger one is ignored")
    dry_run: bool = Field(False, description="Only say which they are")


class Query(BaseModel):
    """A request's query parameters."""

    model_config = ConfigDict(extra="forbid")


def split_tag(tag: str | None) -> tuple[str, str] | None:
    """Return key and value of a `key:value`, in which the value may have further colons."""
    if tag is None:
        return None
    key, _, value = tag.partition(":")
    return key, value


PREFER = "`wait=N`, seconds, 60 at most; `respond-async` is 0"


class SubmissionHeaders(BaseModel):
    """What a submission may say beside its body."""

    prefer: list[str] = Field(default=[], description=PREFER)
    x_correlation_id: str | None = Field(None, pattern=CORRELATION_ID, description="What this job is a part of")
    x_request_id: str | None = Field(None, pattern=CORRELATION_ID, description="The same by another name")
    x_request_timeout: Patience = Field(
        None, description="Seconds from now in which its caller wants the answer: lowers `limits.total_s`"
    )
    idempotency_key: str | None = Field(
        None, pattern=IDEMPOTENCY_KEY, description="The same again with the same body: the first answer again"
    )


class ListQuery(Query):
    state: StateFilter | None = None
    type: str | None = None
    tag: str | None = Field(None, pattern=TAG, description="`key:value`")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, pattern=CURSOR, description="`next_cursor` of the page before")


class StreamQuery(Query):
    after: int = Field(-1, ge=-1, description="Id of the last event seen; the header Last-Event-ID wins over it")
    markers: bool | None = Field(None, description="End with `[DONE]`, `[CANCELLED]` or `[ERROR] message`")
    ticket: str = Field("", description="Part of `stream_url`, in place of an API key")


class ResultQuery(Query):
    wait_s: float = Field(0, ge=0, allow_inf_nan=False, description="How long to wait for the end, at most 60")


class CancelQuery(Query):
    grace_s: Grace | None = Field(None, description="Shortens the grace; a larger one is ignored")
    reason: str = Field("", max_length=1000)


class KillQuery(Query):
    reason: str = Field("", max_length=1000)


class DrainQuery(Query):
    deadline_s: Grace | None = Field(None, description="What is left then is cancelled, each job with its own grace")


class ShutdownQuery(Query):
    grace_s: Grace | None = Field(None, description="Shortens each job's grace; a larger one is ignored")
    deadline_s: Grace = Field(0, description="For jobs to end by themselves before they are cancelled")
    reason: str = Field("", max_length=1000)


class Problem(BaseModel):
    """RFC 9457 problem details; the facts stand beside these members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:killable:problem:unknown_job"])
    title: str
    status: int
    detail: str
    code: str
    retryable: bool


class Queue(BaseModel):
    position: int | None
    estimated_wait_s: float | None


class ShortJob(BaseModel):
    """A job in a list."""

    job_id: str
    type: str
    state: State
    created_at: str
    started_at: str | None
    ended_at: str | None
    tags: dict[str, str]
    attempt: int
    worker_id: str | None
    pid: int | None
    """The worker's, for people: nothing is ever signalled by it."""
    tokens: int
    progress: dict[str, Any] | None
    """The last one that the job reported."""
    queue: Queue | None
    error: dict[str, Any] | None


class Job(ShortJob):
    """The record. A `result` or `partial` over `result_inline_bytes_max` is `{"$ref": address}`."""

    limits: dict[str, Any]
    tenant: str
    correlation_id: str
    events: int
    """The id that its next event would have: how many there are so far, but for those that died with a server."""
    attempts: int
    result: Any
    partial: Any
    certificate: dict[str, Any] | None
    instance_id: str


class AcceptedJob(Job):
    stream_url: str
    sse_url: str


class JobList(BaseModel):
    jobs: list[ShortJob]
    next_cursor: str | None


class CancelAnswer(BaseModel):
    job_id: str
    status: Literal["cancelled", "stopping"]
    certificate: dict[str, Any] | None


class BulkCancelled(BaseModel):
    job_id: str
    status: str = Field(description="cancelled · stopping · already_ended; of a dry run the job's state")


class BulkCancelAnswer(BaseModel):
    matched: int
    cancelled: int
    stopping: int
    already_ended: int
    dry_run: bool
    jobs: list[BulkCancelled]


class Drained(BaseModel):
    draining: bool
    shutting_down: bool
    deadline_s: float | None = Field(description="Left until what still runs is cancelled")
    running: int
    queued: int


class JobType(BaseModel):
    name: str
    description: str
    input_schema: dict[str, Any]
    pool: str
    codec: str
    limits: dict[str, Any]
    caps: dict[str, float]
    streams: bool
    available: bool
    unavailable_reason: str
    operations: list[str]
    limit_sources: dict[str, str] = Field(
        description="Who set each limit: decorator, or the key of killable.toml that did or would (limits.run_s)"
    )


class JobTypeList(BaseModel):
    job_types: list[JobType]


class Worker(BaseModel):
    worker_id: str
    pool: str
    pid: int | None
    state: str = Field(description="spawning · idle · busy · stopping · leaving · quarantined · gone")
    job_id: str | None
    type: str | None
    attempt: int | None
    age_s: float
    jobs: int
    start_method: str
    proof: str
    cpu: float | None
    rss_bytes: int | None
    uss_bytes: int | None


class Retired(BaseModel):
    worker_id: str
    pool: str
    job_id: str
    why: str
    at: str


class WorkerList(BaseModel):
    workers: list[Worker]
    retired: list[Retired] = Field(
        description="The latest that were not used again, latest first: what their last job has left"
    )


class Health(BaseModel):
    status: Literal["healthy"]


class Pool(BaseModel):
    name: str
    state: str = Field(description="starting · ready · broken · restarting")
    detail: str = Field(description="Why it is broken, with the traceback; or what it does instead of forking")


class Readiness(BaseModel):
    status: Literal["ok", "degraded"]
    degraded: list[str]
    pools: list[Pool]


class Info(BaseModel):
    version: str
    pid: int
    instance_id: str
    started_at: str
    features: list[str]
