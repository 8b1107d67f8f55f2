"""What a message between a head and a node has to be. Each is checked before anything of it is used.

Runs in: supervisor. Pure. Members that nobody here knows are left alone. Every function raises ValueError, with the
place in the message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from killable.supervisor.cluster.messages import STALE_EPOCH, Header
from killable.supervisor.models import Certificate, Outcome
from killable.supervisor.records import REPLACED, RetiredWorker, WorkerRecord, WorkerUse
from killable.workers.error_codes import CODES

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
CountedOn = Annotated[int, Field(ge=0, lt=1 << 62)]
"""A number from which a head goes on, in counts."""
Seconds = Annotated[float, Field(ge=0)]
_Limits = dict[str, float | dict[str, float | None] | None]
WORDS_MAX = 1 << 16
Words = Annotated[str, Field(max_length=WORDS_MAX)]
"""Of killable itself: pydantic refuses half characters (lone surrogates) where it counts."""


def _short(text: str) -> str:
    if len(text) > WORDS_MAX:
        raise ValueError(f"a text of {len(text)} characters")
    return text


WordsOfClients = Annotated[str, AfterValidator(_short)]
"""Whatever JSON can bring: a cancel arrives also if its reason ends with half a character."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


# ── what a head asks ──


class _Asked(_Message):
    epoch: Count
    head: Words


class _AskedOfOne(_Asked):
    incarnation: Words
    written: Count = 0
    """The number of the last transaction in the head's journal; 0: it has none, or has not begun to work."""


class _Hello(_Asked):
    lease_s: Annotated[float, Field(gt=0)]
    given: Count
    before: Words
    adopts: bool
    origin: Words = ""
    """The first head that had this one's journal; empty: it has none."""
    ends: dict[str, Count] = {}
    """The other heads that had it: the number of the last transaction that each can have written."""


class _Poll(_AskedOfOne):
    ack: Count
    answer: Count
    wait_s: Seconds
    forget: list[Count]


class _Part(_Message):
    order: Literal["part"]
    n: Count
    place: Count


class _Run(_Message):
    order: Literal["run"]
    n: Count
    parts: Count
    job_id: Words
    type: Words
    submitted_as: Words
    attempt: Annotated[int, Field(ge=1, lt=1 << 31)]
    limits: _Limits
    tags: dict[str, str]
    correlation_id: Words
    traceparent: Words = ""
    tracestate: Words = ""
    tells_spans: bool = False
    age_s: float
    waited_s: float
    at_event: Count
    output_bytes: Count
    tokens: Count
    checkpoint_bytes: Count = 0
    """So many at the end of the input are the last checkpoint of an earlier attempt."""


class _Verdict(_Message):
    model_config = ConfigDict(extra="forbid")

    code: Words
    by: Words
    reason: WordsOfClients
    facts: dict[str, Any]


class _Stop(_Message):
    order: Literal["stop"]
    n: Count
    job_id: Words
    attempt: Count
    verdict: _Verdict
    grace_s: Seconds | None


class _AskWorkers(_AskedOfOne):
    uses: bool = False


class _Do(_AskedOfOne):
    orders: list[Annotated[_Part | _Run | _Stop, Field(discriminator="order")]]


class _Adopt(_AskedOfOne):
    ns: list[Count]


class _KillWorker(_AskedOfOne):
    worker_id: Words
    wait_s: Seconds


_CALLS: dict[str, type[_Asked]] = {
    "hello": _Hello, "poll": _Poll, "do": _Do, "adopt": _Adopt, "workers": _AskWorkers, "kill_worker": _KillWorker,
    "leave": _AskedOfOne,
}  # fmt: skip

# ── what a node answers ──


class _Refused(_Message):
    refused: Words
    detail: str = ""


class _Stale(_Message):
    epoch: CountedOn


class _PoolState(_Message):
    name: Words
    state: Words
    slots: Count
    quarantined: Count
    detail: str
    zygote_restarts: Count
    replaced: dict[Literal[REPLACED], Count] = {}  # type: ignore[valid-type]
    proof: Words
    start_method: Words
    is_warm: bool
    starts_fail: bool = False


class _JobType(_Message):
    model_config = ConfigDict(extra="forbid")

    name: Words
    description: str
    input_schema: dict[str, Any]
    pool: Words
    codec: Words
    limits: _Limits
    caps: _Limits
    streams: bool
    on_loss: Words
    retry_on: list[str] = []
    retry_codes: list[str] = []
    available: bool
    unavailable_reason: str
    operations: list[str]
    limit_sources: dict[str, str]
    openai: str = ""
    openai_model: str = ""


class _Held(_Message):
    n: Count
    job_id: Words
    attempt: Count
    at_event: Count
    events: Count
    assigned_s: float | None
    started_s: float | None


class _Dropped(_Message):
    job_id: Words
    attempt: Count


class _Welcome(_Message):
    answer: Count
    incarnation: Annotated[str, Field(min_length=1)]
    process: Words
    settings: dict[str, str]
    types: list[_JobType]
    pools: list[_PoolState]
    version: Words
    python: Words
    held: list[_Held]
    dropped: list[_Dropped]
    begun: CountedOn


class _Polled(_Message):
    answer: Count


class _Workers(_Message):
    workers: list[WorkerRecord]
    retired: list[RetiredWorker]
    uses: list[WorkerUse] = []


class _Killed(_Message):
    worker: WorkerRecord | None = None
    unknown: Words = ""


_ANSWERS: dict[str, type[_Message]] = {
    "hello": _Welcome, "poll": _Polled, "workers": _Workers, "kill_worker": _Killed, "do": _Message, "adopt": _Message,
    "leave": _Message,
}  # fmt: skip


class _Item(_Message):
    n: Count
    is_cut: bool = False


class _Note(_Message):
    cause: Words
    worker_id: Words | None = None
    pid: Count | None = None
    verdict: _Verdict | None = None
    span: Annotated[str, Field(max_length=1 << 20)] | None = None
    """What the job tells of a span of its own, and no transition."""


class _Notes(_Item):
    kind: Literal["notes"]
    notes: list[_Note]


class _Events(_Item):
    kind: Literal["events"]
    at: Count


class _Value(_Item):
    kind: Literal["result", "partial", "end"]


class _Slot(_Item):
    kind: Literal["slot"]
    after_ms: float


class _Batch(_Message):
    seq: Count
    pools: list[_PoolState]
    items: list[Annotated[_Notes | _Events | _Value | _Slot, Field(discriminator="kind")]]


class _End(_Message):
    outcome: dict[str, Any]
    certificate: dict[str, Any]
    may_retry: bool


_OUTCOME, _CERTIFICATE = TypeAdapter(Outcome), TypeAdapter(Certificate)


def check_call(method: str, header: Header, blobs: list[bytes]) -> None:
    """Check what a head asks of a node."""
    if method not in _CALLS:
        raise ValueError(f"a call of {method[:64]!r}")
    _check(_CALLS[method], header)
    if method == "do":
        _check_number(header["orders"], blobs)


def check_answer(method: str, header: Header) -> None:
    """Check what a node has answered, a refusal, too."""
    _check(_Refused if "refused" in header else _ANSWERS[method], header)
    if header.get("refused") == STALE_EPOCH:
        _check(_Stale, header)


def check_batch(header: Header, blobs: list[bytes]) -> None:
    """Check a batch of news."""
    _check(_Batch, header)
    _check_number(header["items"], blobs)


def end_of(value: Any) -> tuple[Outcome, Certificate, bool]:
    """Return how an attempt has ended, its certificate, and whether it may be tried again."""
    _check(_End, value)
    try:
        outcome = _OUTCOME.validate_python(value["outcome"])
        certificate = _CERTIFICATE.validate_python(value["certificate"])
    except ValidationError as error:
        raise ValueError(_words(error)) from error
    states = ("completed",) if outcome.code is None else ("failed", "cancelled", "timed_out")
    if outcome.state not in states or (outcome.code is not None and outcome.code not in CODES):
        raise ValueError(f"an end in state {outcome.state[:64]!r} with code {str(outcome.code)[:64]!r}")
    return outcome, certificate, value["may_retry"]


def _check_number(headers: list[Any], blobs: list[bytes]) -> None:
    if len(headers) != len(blobs):
        raise ValueError(f"{len(headers)} headers for {len(blobs)} pieces of data")


def _check(kind: type[_Message], header: Header) -> None:
    try:
        kind.model_validate(header)
    except ValidationError as error:
        raise ValueError(_words(error)) from error


def _words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
