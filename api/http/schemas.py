"""The models of requests, which are validated, and of answers, which are documented.

Runs in: api.

Unknown members of a request are refused, never ignored: a misspelt limit would not be enforced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

from pydantic import (
    AfterValidator,
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
from pydantic_core import PydanticCustomError

from killable.api.http.prefer_wait import PREFER, Prefer
from killable.api.http.request_patterns import (
    CODE,
    CORRELATION_ID,
    CURSOR,
    IDEMPOTENCY_KEY,
    NODE_NAME_MAX,
    OPERATION,
    TAG,
    TAG_KEY,
)
from killable.api.http.route_roles import Role, Visibility
from killable.api.http.unknown_fields import FEW, few
from killable.api.http.webhooks import URL_CHARS_MAX
from killable.supervisor import models
from killable.supervisor.configuration.documentation import documentation_of
from killable.supervisor.jobs.job_queue import PRIORITY_MAX
from killable.supervisor.jobs.node_labels import CONDITION
from killable.supervisor.jobs.summary import SHORT_JOB
from killable.supervisor.records import (
    DrainProgress,
    FileRecord,
    JobCounts,
    JobRecord,
    NodeRecord,
    PoolRecord,
    ReloadRecord,
    RetiredWorker,
    TenantRecord,
    WorkerRecord,
)
from killable.workers.authoring.limits_and_caps import LIMITS, Limit, Unit

Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Operations = Annotated[
    dict[Annotated[str, Field(pattern=OPERATION)], Seconds | None],
    Field(
        max_length=100,
        description="Seconds by operation: its name or its path (load/download)",
        json_schema_extra={"additionalProperties": False},
    ),
    FEW,
]
HeaderSeconds = Annotated[Seconds | None, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1e9})]
"""Seconds in a header, which cannot carry null."""
Grace = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


TO_INTEGER = BeforeValidator(_to_integer)
"""JSON Schema counts 5.0 as an integer: some languages write no other numbers."""
Bytes = Annotated[int, Field(gt=0, le=2**53), TO_INTEGER]
"""The maximum is the largest integer that every JSON parser reads exactly (RFC 8259 section 6)."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1), TO_INTEGER]
State = Literal["queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"]
StateFilter = Literal["active", "queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"]
ActiveFilter = Literal["active", "queued", "running", "stopping"]
Tags = Annotated[
    dict[Annotated[str, Field(pattern=TAG_KEY)], Annotated[str, Field(max_length=256)]],
    Field(max_length=32, json_schema_extra={"additionalProperties": False}),
    FEW,
]


Nodes = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=256)],
        Annotated[str, Field(max_length=1024, pattern=f"^{CONDITION.pattern}$")],
    ],
    Field(
        max_length=16,
        description="Labels of the nodes that may run the job, with Ray's conditions: `a`, `!a`, `in(a,b)`, `!in(a,b)`",
        json_schema_extra={"additionalProperties": False},
    ),
    FEW,
]


CallbackUrl = Annotated[str, Field(min_length=1, max_length=URL_CHARS_MAX)]


class Request(BaseModel):
    """The body of a request. JSON types are not converted; unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown(cls, members: Any) -> Any:
        return few(members, cls.model_fields) if cls.model_config.get("extra") == "forbid" else members


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}"


def _limit_form(limit: Limit) -> Any:
    """Return the pydantic type of a limit in a request."""
    form: Any = {Unit.SECONDS: Seconds, Unit.BYTES: Bytes, Unit.COUNT: Count, Unit.OPERATIONS: Operations}[limit.unit]
    if limit.may_be_zero:
        form = Grace
    if limit.most is not None:
        form = Annotated[int, Field(ge=1, le=limit.most), TO_INTEGER]
    return form | None if limit.may_be_none else form


if TYPE_CHECKING:

    class LimitsRequest(Request):
        """Created below from LIMITS."""

else:
    LimitsRequest = create_model(
        "LimitsRequest",
        __base__=Request,
        __doc__="Limits of one job; they override those of its type. null removes a limit.",
        **{
            # The built-in default; `[limits]` and the job type may set another one.
            name: (_limit_form(limit), Field(default=limit.default, description=_sentence(limit.bounds)))
            for name, limit in LIMITS.items()
        },
    )
    # It is the default of a member, and never changed. pydantic would copy one without a hash for each request: 0.1 ms.
    LimitsRequest.__hash__ = object.__hash__


class _Job(Request):
    limits: LimitsRequest = LimitsRequest()
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX), TO_INTEGER] = 0
    tags: Tags = {}
    stop_when_client_leaves: bool = False

    def limits_given(self) -> dict[str, Any]:
        """Return only the limits that the request names; the job type sets the others."""
        return self.limits.model_dump(exclude_unset=True)


class OpenAIOptions(_Job):
    """How the jobs of an OpenAI request are to run."""


class JobRequest(_Job):
    """A job: its type, input and limits."""

    type: str = Field(max_length=64)
    input: dict[str, Any] = {}
    nodes: Nodes = {}
    callback_url: CallbackUrl | None = Field(
        None, description="Where the job's end is sent, signed; null: where the caller's jobs go, if anywhere"
    )


class OperationRequest(_Job):
    """A job named by `operation`. Members that are not listed are its input. Its stream ends with a marker line. It
    selects no nodes.
    """

    model_config = ConfigDict(extra="allow")

    operation: str = Field(max_length=64)

    @property
    def input(self) -> dict[str, Any]:
        return self.model_extra or {}


BODY_FORMS = ("{type}", "{operation}")
"""The first step in the paths of pydantic's errors. No member has such a name."""


def _body_form(body: Any) -> str:
    return BODY_FORMS[isinstance(body, Mapping) and "operation" in body]


AnyJobRequest = Annotated[
    Annotated[JobRequest, Tag(BODY_FORMS[0])] | Annotated[OperationRequest, Tag(BODY_FORMS[1])],
    Discriminator(_body_form),
]


JOB_FILTERS = ("type", "tag", "state", "node", "tenant", "code", "search")
_TENANT = Field(None, max_length=128, description="Name of the key that submitted it")
_CODE = Field(
    None,
    pattern=CODE,
    description="Why it has ended, or is stopped; `timeout` is every code that begins with `timeout.`, too",
)
SEARCH_WORDS_MAX = 8
"""Each is looked for in all jobs."""


def _few_words(search: str) -> str:
    if len(search.split()) > SEARCH_WORDS_MAX:
        raise PydanticCustomError("too_many_words", f"has more than {SEARCH_WORDS_MAX} words")
    return search


Search = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_few_words)]
_SEARCH = Field(
    None,
    description=f"Up to {SEARCH_WORDS_MAX} words, each in its id, type, tags, correlation id or code, in any case",
)


class BulkCancelRequest(Request):
    """A filter for jobs to cancel: at least one of type, tag, state, node, tenant, code and search. A job must match
    all that are given.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}} for name in JOB_FILTERS
            ]
        }
    )

    type: str | None = Field(None, max_length=64)
    tag: str | None = Field(None, pattern=TAG, description="`key:value`")
    state: ActiveFilter | None = None
    node: str | None = Field(None, max_length=NODE_NAME_MAX, description="Name of the node that the job runs on")
    tenant: str | None = _TENANT
    code: str | None = _CODE
    search: Search | None = _SEARCH
    reason: str = Field("", max_length=1000)
    grace_s: Grace | None = Field(None, description="Shortens the grace period of each job; a longer one is ignored")
    dry_run: bool = Field(False, description="List the matching jobs without cancelling them")


class Query(BaseModel):
    """The query parameters of a request."""

    model_config = ConfigDict(extra="forbid")


def split_tag(tag: str | None) -> tuple[str, str] | None:
    """Return the key and the value of `key:value`. The value may contain further colons."""
    if tag is None:
        return None
    key, _, value = tag.partition(":")
    return key, value


class SubmissionHeaders(BaseModel):
    """The headers of a submission."""

    prefer: Prefer = Field(default_factory=list, description=PREFER)
    x_correlation_id: str | None = Field(
        None, pattern=CORRELATION_ID, description="Id of the larger task that this job is part of"
    )
    x_request_id: str | None = Field(
        None, pattern=CORRELATION_ID, description="Another name for X-Correlation-Id, which overrides it"
    )
    x_request_timeout: HeaderSeconds = Field(
        None, description="Seconds for which the caller waits for the result; lowers `limits.total_s`"
    )
    idempotency_key: str | None = Field(
        None,
        pattern=IDEMPOTENCY_KEY,
        description="A later request with the same key and the same body gets the first answer; "
        "if that was cancelled because its client had left, it begins anew",
    )


class JobsQuery(Query):
    state: StateFilter | None = None
    type: str | None = None
    tag: str | None = Field(None, pattern=TAG, description="`key:value`")
    node: str | None = Field(None, max_length=NODE_NAME_MAX, description="Name of the node of the latest attempt")
    tenant: str | None = _TENANT
    code: str | None = _CODE
    search: Search | None = _SEARCH
    limit: int = Field(50, ge=1, le=200)


def wanted_by(filters: Mapping[str, str | None]) -> models.Wanted:
    """Return the filters that a request has. Its other members are not looked at."""
    wanted = {name: filters[name] for name in JOB_FILTERS}
    return cast(models.Wanted, wanted | {"tag": split_tag(filters["tag"])})


class ListQuery(JobsQuery):
    cursor: str | None = Field(None, pattern=CURSOR, description="`next_cursor` of the previous page")


class StreamQuery(Query):
    after: int = Field(-1, ge=-1, description="Id of the last event received; the header Last-Event-ID overrides it")
    markers: bool | None = Field(
        None, description="End the stream with the line `[DONE]`, `[CANCELLED]` or `[ERROR] message`"
    )
    ticket: str = Field("", description="The ticket in `stream_url`, instead of an API key")


TICKET: Any = Field("", description="A ticket of /v1/stream-tickets, instead of an API key")


class JobWatchQuery(JobsQuery):
    limit: int = Field(50, ge=1, le=200, description="Jobs in the first event")
    after: int = Field(-1, ge=-1, description="Id of the last event received; the header Last-Event-ID overrides it")
    ticket: str = TICKET


class WorkerWatchQuery(Query):
    workers: bool = Field(True, description="Each worker; without them events have what those of a pool use together")
    ticket: str = TICKET


class ResponseQuery(Query):
    stream: bool = Field(False, description="Its events, instead of the response as it stands")
    starting_after: int = Field(-1, ge=-1, le=2**53, description="The `sequence_number` of the last event received")
    include_obfuscation: bool = Field(False, description="Events are never padded")


class ResultQuery(Query):
    wait_s: float = Field(0, ge=0, allow_inf_nan=False, description="Seconds to wait for the end, at most 60")


class FilesQuery(Query):
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, pattern=CURSOR, description="`next_cursor` of the previous page")


class UploadQuery(Query):
    name: str = Field("", max_length=255, description="What jobs find it as; default: the form's name, else `file`")


class CancelQuery(Query):
    grace_s: Grace | None = Field(None, description="Shortens the grace period of the job; a longer one is ignored")
    reason: str = Field("", max_length=1000)


class KillQuery(Query):
    reason: str = Field("", max_length=1000)


class DrainQuery(Query):
    deadline_s: Grace | None = Field(
        None, description="Seconds until the remaining jobs are cancelled, each with its own grace period"
    )


class WorkersQuery(Query):
    node: str | None = Field(None, max_length=NODE_NAME_MAX, description="Only workers of this node")


class NodeDrainQuery(Query):
    deadline_s: Grace | None = Field(
        None, description="Seconds until what still runs there is stopped with its own grace, and may run elsewhere"
    )


class ShutdownQuery(Query):
    grace_s: Grace | None = Field(None, description="Shortens the grace period of each job; a longer one is ignored")
    deadline_s: Grace = Field(0, description="Seconds for jobs to finish before they are cancelled")
    reason: str = Field("", max_length=1000)


class Problem(BaseModel):
    """RFC 9457 problem details. The facts of a problem are further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:killable:problem:unknown_job"])
    title: str
    status: int
    detail: str
    code: str
    retryable: bool


class OpenAIError(BaseModel):
    """What is wrong with a request, or how its job has ended. Facts are further members."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None = Field(description="The field at fault: `messages[0].content`")
    code: str | None


class OpenAIErrorAnswer(BaseModel):
    error: OpenAIError


class AnthropicError(BaseModel):
    """The same at `/v1/messages`."""

    model_config = ConfigDict(extra="allow")

    type: str
    message: str
    code: str | None = Field(description="As at OpenAI's addresses")


class AnthropicErrorAnswer(BaseModel):
    type: Literal["error"]
    error: AnthropicError


class OpenAIObject(BaseModel):
    """An object as OpenAI documents it."""

    model_config = ConfigDict(extra="allow")


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="When this server was started, in seconds since 1970")
    owned_by: str
    kinds: list[str] = Field(description="chat · completions · embeddings · tokenize · detokenize")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[OpenAIModel]


class Queue(BaseModel):
    position: int | None
    estimated_wait_s: float | None
    detail: str = Field(description="Why no node can have it that its `nodes` select; empty: it waits as others do")


def model_of(
    name: str, record: type, *, base: type[BaseModel] = BaseModel, only: Sequence[str] = (),
    without: Sequence[str] = (), **changed: Any,
) -> Any:  # fmt: skip
    """Create the model of an answer from a record: its fields, their types and their documentation, after those of
    `base`.

    `changed` are the types that differ in JSON. Every member is required: answers are always complete.
    """
    hints, documentation = get_type_hints(record), documentation_of(record)
    members: dict[str, Any] = {
        name: (changed.get(name, hint), Field(description=documentation.get(name)))
        for name, hint in hints.items()
        if name not in without and (not only or name in only)
    }
    return create_model(name, __base__=base, __doc__=record.__doc__, **members)


def _answer(name: str, base: type[BaseModel] = BaseModel, **members: Any) -> Any:
    """Create the model of an answer from its members, which are all required."""
    required: dict[str, Any] = {member: (form, ...) for member, form in members.items()}
    return create_model(name, __base__=base, __doc__=None if base is BaseModel else base.__doc__, **required)


def _list_of(model: Any) -> Any:
    return list[model]


_HAS_KEY = (
    "Whether anyone can have this name: an API key has it, or it is a user of the operators' socket; without keys "
    "everybody is `default`"
)
_IN_JSON: dict[str, Any] = {"state": State, "queue": Queue | None, "result": Any, "partial": Any}
ShortJob = model_of("ShortJob", JobRecord, only=SHORT_JOB, **_IN_JSON)
Usage = Annotated[
    dict[str, int] | None,
    Field(description="Tokens that a model has counted, also of an answer that was stopped; null: it counts none"),
]
Job = _answer("Job", model_of("Job", JobRecord, without=("markers", "replayed", "priority"), **_IN_JSON), usage=Usage)
"""A `result` or `partial` larger than `result_inline_bytes_max` is `{"$ref": address}`."""
Worker = model_of("Worker", WorkerRecord)
Retired = model_of("Retired", RetiredWorker)
Drained = model_of("Drained", DrainProgress)
Reloaded = model_of("Reloaded", ReloadRecord)
JobType = model_of("JobType", models.JobType, operations=list[str], limits=dict[str, Any])
Pool = model_of("Pool", PoolRecord, only=("name", "state", "detail"))
AcceptedJob = _answer("AcceptedJob", Job, stream_url=str, sse_url=str)
JobList = _answer("JobList", model_of("JobCounts", JobCounts), jobs=_list_of(ShortJob), next_cursor=str | None)
JobTypeList = _answer("JobTypeList", job_types=_list_of(JobType))
Node = model_of("Node", NodeRecord)
NodeList = _answer("NodeList", nodes=_list_of(Node))
WorkerList = _answer("WorkerList", workers=_list_of(Worker), retired=_list_of(Retired))
"""`retired`: the latest workers that were not reused, latest first."""
Tenant = _answer("Tenant", model_of("TenantRecord", TenantRecord), has_key=Annotated[bool, Field(description=_HAS_KEY)])
TenantList = _answer("TenantList", tenants=_list_of(Tenant))
Readiness = _answer("Readiness", status=Literal["ok", "degraded"], degraded=list[str], pools=_list_of(Pool))


UploadedFile = model_of("UploadedFile", FileRecord)
FileList = _answer("FileList", files=_list_of(UploadedFile), next_cursor=str | None)


class JobFile(BaseModel):
    """A file that a job has saved."""

    name: str
    size: int = Field(description="In bytes")
    content_type: str


JobFileList = _answer("JobFileList", files=_list_of(JobFile))


class CancelAnswer(BaseModel):
    job_id: str
    status: Literal["cancelled", "stopping"]
    certificate: dict[str, Any] | None
    durable: bool | None = Field(
        description="Whether its end is in the journal already; null while it has not ended, and without a journal"
    )


class BulkCancelled(BaseModel):
    job_id: str
    status: str = Field(description="cancelled · stopping · already_ended; in a dry run the job's state")
    durable: bool | None = Field(
        description="Whether its end is in the journal already; null while it has not ended, and without a journal"
    )


class BulkCancelAnswer(BaseModel):
    matched: int
    cancelled: int
    stopping: int
    already_ended: int
    dry_run: bool
    jobs: list[BulkCancelled]


class Health(BaseModel):
    status: Literal["healthy"]


class Caller(BaseModel):
    """The key of the request."""

    name: str
    role: Role
    visibility: Visibility


class Info(BaseModel):
    version: str
    pid: int
    instance_id: str
    started_at: str
    features: list[str]
    caller: Caller | None = Field(description="Who asks; null: the server has no keys, and everyone may do everything")
