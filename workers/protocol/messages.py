"""The messages between worker and supervisor: the kinds of frames and their payloads.

Runs in: any.

    supervisor ── orders socket ──────► worker   RUN (with descriptors: sealed input, shared parts, result buffer),
                                                 CHECKPOINT_BEFORE, STOP, EXPIRE
    supervisor ── line (a socket) ────► worker   calls of an Executor, one per message (`call_message`)
    supervisor ◄─ frames pipe ───────── worker   READY … one closing frame per attempt, then IDLE
    supervisor ◄─ notifications pipe ── worker   one byte each: a signal number at its delivery, or a NOTIFY_ constant

Payloads are one line of JSON, except the job's own values (RUN's input, TOKEN, both checkpoints, RESULT), which are in
the pool's codec.
"""

from __future__ import annotations

import binascii
import json
import struct
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.message_bounds import (
    EXCEPTION_CHARS_MAX,
    FAULTS_MAX,
    PROGRESS_BYTES_MAX,
    RETRY_AFTER_S_MAX,
    WHY_CHARS_MAX,
)


class Kind(IntEnum):
    """Kinds of frames. The numbers are part of the protocol: new kinds get new numbers."""

    # worker → supervisor
    READY = 1
    """The signal handler is installed and the preloads have run: the worker can take a job and signals (`Ready`)."""
    ENTERED = 2
    """The job function is about to be entered (`Entered`)."""
    TOKEN = 3
    PROGRESS = 4
    CHECKPOINT = 5
    OPERATION = 6
    """The job entered an operation (`OperationEntered`)."""
    OPERATION_LEFT = 7
    """The job left an operation (`OperationLeft`)."""
    RESULT = 8
    """Closing: the job function returned; the payload is the value."""
    RAISED = 9
    """Closing: the job function ended in another way; the payload is a `Raised`."""
    IDLE = 10
    """After a closing frame: whether this worker can take another job (`Idle`)."""
    BROKEN = 11
    """Instead of READY: a preload failed, or the setup of the process (`Broken`)."""
    RESULT_SHM = 12
    """Closing: the job function returned, and its value is in the result buffer that came with an order."""
    RAN = 13
    """Instead of RESULT and IDLE: a call of an Executor returned, nothing else was reported or printed, and this worker
    can take another. The payload is its duration (RAN_SECONDS) and the value.
    """
    LOG_RECORD = 14
    """An Executor's task has logged (`log_records.encode_record`)."""
    WARNING = 15
    """An Executor's task has warned (`log_records.encode_warning`)."""
    TOKENS = 16
    """Tokens are in the ring, and the supervisor has just ceased to watch it (`token_ring`)."""
    FILE = 17
    """The job has saved a result file (`SavedFile`)."""
    SPAN = 18
    """A part of the job has begun or ended that its trace is to have (`authoring/spans`)."""
    # supervisor → worker
    RUN = 32
    STOP = 33
    EXPIRE = 34
    """An operation with `on_timeout="raise"` timed out (`Expire`)."""
    CHECKPOINT_BEFORE = 35
    """Before RUN: the last checkpoint of an earlier attempt of the job; the payload is the value."""


BYTES_MAX_OF_KINDS: Mapping[int, int] = MappingProxyType(
    {
        Kind.READY: 1 << 10,
        Kind.ENTERED: 1 << 10,
        Kind.OPERATION: 8 << 10,  # the path of OPERATIONS_MAX names
        Kind.OPERATION_LEFT: 1 << 10,
        Kind.IDLE: 16 << 10,
        Kind.FILE: 8 << 10,
        Kind.PROGRESS: PROGRESS_BYTES_MAX,
        Kind.RAISED: 5 << 19,  # a traceback and a pickled exception, or FAULTS_MAX faults, of 12 bytes a character
        Kind.BROKEN: 1 << 20,
    }
)
"""The most bytes of the messages that the supervisor decodes in its event loop: a job can write anything into the pipe.
Those of checkpoints count as its output.
"""

NOTIFY_ACKNOWLEDGED = 0xA6
"""The Python handler ran, and the order named the attempt on the stack. Above 64, so it is no signal number."""
NOTIFY_REPLACED = 0xA8
"""The job has installed a SIGTERM handler of its own: the worker will not acknowledge a stop."""
NOTIFY_RESTORED = 0xAA
"""The job has restored the worker's SIGTERM handler, which acknowledges stops again."""
NOTIFY_UNSEEN = 0xAB
"""The job has taken the wakeup descriptor: no signal number will show that a signal was delivered."""
NOTIFY_SEEN = 0xAC
"""The job has given the wakeup descriptor back."""
NOTIFY_SWALLOWED = 0xA7
"""`Stopping` was swallowed, or would be if raised now (a __del__, a C callback): send the signal again."""
NOTIFY_EXPIRED = 0xA9
"""The worker received EXPIRE: `OperationTimedOut` is raised, or the operation had been left."""

RAN_SECONDS = "<f"
"""The duration of a call in seconds, at the beginning of a RAN frame's payload (struct)."""


_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dump_json(value: Any) -> bytes:
    """Encode as one line of ASCII JSON. Raise ValueError for NaN and infinities, TypeError for what is not JSON.

    ASCII, because lone surrogates have no UTF-8, and U+0085, U+2028 and U+2029 are line ends to the many SSE clients
    that split with `str.splitlines`.
    """
    return _encode(value).encode("ascii")


def load_json(payload: bytes) -> Any:
    """Decode the output of `dump_json`. Raise ValueError for anything else, RecursionError for deep nesting."""
    text = payload.decode("ascii")
    value, end = _decode(text)
    if end != len(text):
        raise ValueError(f"{len(text) - end} characters behind the value")
    return value


def _load_texts(payload: bytes) -> Any:
    """Decode an object of few members, whose texts may be long, as `load_json` does. Raise ValueError for many members:
    a megabyte of empty lists takes half a second to decode, one of text a few milliseconds, or 30 with escapes only.
    """
    pieces = payload.replace(rb"\\", b"").replace(b'\\"', b"").split(b'"', 2 * _TEXTS_MAX + 1)
    if len(pieces) > 2 * _TEXTS_MAX + 1 or sum(map(len, pieces[::2])) > _BYTES_BETWEEN_TEXTS_MAX:
        raise ValueError("too many members")
    return load_json(payload)


_TEXTS_MAX = 50 + 4 * FAULTS_MAX
_BYTES_BETWEEN_TEXTS_MAX = 4 << 10

NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Run(NamedTuple):
    """The order to run one attempt. `input` is in the pool's codec."""

    job_id: str
    type: str
    attempt: int
    """The number of this run of the job, from 1; the frame header has the fence."""
    input: bytes
    limits: bytes = b"{}"
    """The limits as JSON: a thousand orders share one text, so it is encoded and parsed once."""
    tags: Mapping[str, str] = NO_TAGS
    correlation_id: str = ""
    announce: bool = True
    """Whether to send ENTERED: if no timer depends on it, it would wake the supervisor for nothing."""
    sealed: bool = False
    """The input is in a memory file whose descriptor comes with the order (`shared_memory.py`), not in `input`."""
    shared: int = 0
    """How many descriptors of shared parts follow, which other inputs refer to as well."""
    result_buffer: bool = False
    """The descriptor of a result buffer follows. The worker keeps it until it has written a large result to it."""
    files: Mapping[str, str] = NO_TAGS
    """The path of each uploaded file that the input has, by its id."""
    traceparent: str = ""
    """The place in a trace that its spans and requests have (`trace_context`); empty: it is in none."""
    tracestate: str = ""
    spans: bool = False
    """Whether the supervisor is to be told of the job's own spans."""

    def encode(self) -> bytes:
        job_id = encode_basestring_ascii(self.job_id).encode("ascii")
        context = b""
        if self.tags:
            context += b'"tags":%s,' % dump_json(self.tags)
        if self.correlation_id:
            context += b'"correlation_id":%s,' % dump_json(self.correlation_id)
        if self.files:
            context += b'"files":%s,' % dump_json(self.files)
        if self.traceparent:
            context += b'"traceparent":"%s",' % self.traceparent.encode("ascii")
            if self.tracestate:
                context += b'"tracestate":%s,' % dump_json(self.tracestate)
            if self.spans:
                context += b'"spans":true,'
        options = _options(self.type, self.attempt, self.announce, self.sealed, self.shared, self.result_buffer)
        head = b'{"job_id":%s,%s%s' % (job_id, context, options)
        return b"".join((_RUN_LENGTHS.pack(len(head), len(self.limits)), head, self.limits, self.input))

    @classmethod
    def decode(cls, payload: bytes) -> Run:
        """Raise ValueError or TypeError for a malformed payload."""
        try:
            head_bytes, limits_bytes = _RUN_LENGTHS.unpack_from(payload)
        except struct.error as error:
            raise ValueError(str(error)) from error
        limits_at = _RUN_LENGTHS.size + head_bytes
        input_at = limits_at + limits_bytes
        head = load_json(payload[_RUN_LENGTHS.size : limits_at])
        head.setdefault("tags", {})
        return cls(input=payload[input_at:], limits=payload[limits_at:input_at], **head)

    def limits_in_force(self) -> dict[str, Any]:
        """Return every limit of the job, in a copy that the job may change. Raise ValueError."""
        limits = dict(parsed_limits(self.limits))
        if "operation_s" in limits:
            limits["operation_s"] = dict(limits["operation_s"])
        return limits


_RUN_LENGTHS = struct.Struct("<II")


@lru_cache(maxsize=64)
def _options(type: str, attempt: int, announce: bool, sealed: bool, shared: int, result_buffer: bool) -> bytes:
    """Return the part of the head that a thousand orders share, as JSON without the opening brace."""
    members: dict[str, Any] = {"type": type, "attempt": attempt}
    if sealed:
        members["sealed"] = True
    if shared:
        members["shared"] = shared
    if result_buffer:
        members["result_buffer"] = True
    if not announce:
        members["announce"] = False
    return dump_json(members)[1:]


@lru_cache(maxsize=16)
def parsed_limits(limits: bytes) -> Mapping[str, Any]:
    """Return the limits of an order, which many orders share. Raise ValueError."""
    found: dict[str, Any] = load_json(limits)
    return found


class Stop(NamedTuple):
    """The order to end the attempt that the frame's fence names."""

    cause: str
    """An error code: `cancelled`, `timeout.run`, ..."""
    by: str
    grace_s: float
    reason: str = ""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Stop:
        return cls(**load_json(payload))


class Entered(NamedTuple):
    """The job function is about to be entered."""

    at: float | None = None
    """CLOCK_MONOTONIC seconds, which all processes of a machine share: a busy supervisor may read this later."""

    def encode(self) -> bytes:
        return dump_json({"at": self.at})

    @classmethod
    def decode(cls, payload: bytes) -> Entered:
        """Raise ValueError or TypeError for a malformed payload."""
        entered = cls(**load_json(payload))
        if entered.at is not None and type(entered.at) is not float:
            raise TypeError("at is no seconds")
        return entered


class OperationEntered(NamedTuple):
    """A job has entered `with ctx.operation(...)`."""

    number: int
    """Counts the operations entered in this attempt, from 1."""
    path: str
    """The name, after those of the operations around it: `load/download`."""
    timeout_s: float | None = None
    raises: bool = False
    """At its deadline `OperationTimedOut` is raised in the job, instead of stopping it."""
    around: int = 0
    """The number of the operation directly around this one; 0: none."""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> OperationEntered:
        """Raise ValueError or TypeError for a malformed payload."""
        entered = cls(**load_json(payload))
        timeout_s = entered.timeout_s
        kinds = type(entered.number), type(entered.path), type(entered.raises), type(entered.around)
        if kinds != (int, str, bool, int):
            raise TypeError("a member of another type")
        if timeout_s is not None and (type(timeout_s) not in (int, float) or not 0 <= timeout_s <= sys.float_info.max):
            raise ValueError("timeout_s is no seconds")
        return entered


class OperationLeft(NamedTuple):
    """A job has left the operation of this number, and so every operation inside it."""

    number: int

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> OperationLeft:
        """Raise ValueError or TypeError for a malformed payload."""
        left = cls(**load_json(payload))
        if type(left.number) is not int:
            raise TypeError("number is no number")
        return left


class SavedFile(NamedTuple):
    """A job has saved a result file (`ctx.save_file`)."""

    number: int
    """Its name in the worker's folder for files that the supervisor has yet to take."""
    name: str
    content_type: str = ""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> SavedFile:
        """Raise ValueError or TypeError for a malformed payload: a job can write anything into the pipe."""
        from killable.workers.protocol.file_names import content_type_fault, name_fault  # here: few jobs save files

        saved = cls(**load_json(payload))
        if (type(saved.number), type(saved.content_type)) != (int, str):
            raise TypeError("not a file")
        fault = name_fault(saved.name) or content_type_fault(saved.content_type)
        if fault:
            raise ValueError(fault)
        return saved


class Expire(NamedTuple):
    """The order to raise `OperationTimedOut`, unless the job has left the operation of this number."""

    number: int

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Expire:
        return cls(**load_json(payload))


class Raised(NamedTuple):
    """How a job function ended if it did not return."""

    cause: str
    """`exception` · `operation` · `memory` · `files` · `exit` · `stopped` · `unserializable` · `payload` ·
    `assignment`.
    """
    type: str = ""
    message: str = ""
    traceback: str = ""
    exit_code: int | None = None
    pickled: str = ""
    """The exception itself, in base64, if the codec is `pickle` and it can be pickled."""
    faults: Sequence[dict[str, str]] = ()
    """For `payload`: the faults of the input, as JSON pointers and messages."""
    is_transient: bool = False
    """The author of the job wants another attempt: the exception is one of `retry_on`, or a `Retry`."""
    after_s: float | None = None
    """Of a `Retry`: the seconds until then."""
    errno: str = ""
    """Of an OSError: the name of its number, `ENOSPC`."""

    def encode(self) -> bytes:
        return dump_json(self._replace(type=self.type[:EXCEPTION_CHARS_MAX])._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Raised:
        """Raise ValueError or TypeError for a malformed payload: a job can write anything into the pipe."""
        raised = cls(**_load_texts(payload))
        if not all(isinstance(fault, dict) for fault in raised.faults):
            raise TypeError("a fault that is no object")
        texts = [
            *raised[:4],
            raised.pickled,
            raised.errno,
            *(text for fault in raised.faults for text in (*fault, *fault.values())),
        ]
        if not all(isinstance(text, str) for text in texts) or type(raised.exit_code) not in (int, type(None)):
            raise TypeError("a member of another type")
        binascii.a2b_base64(raised.pickled)
        if type(raised.is_transient) is not bool or type(raised.after_s) not in (int, float, type(None)):
            raise TypeError("a member of another type")
        if raised.after_s is not None and not 0 <= raised.after_s <= RETRY_AFTER_S_MAX:
            raise ValueError("after_s is no wait until another attempt")
        return raised


class Ready(NamedTuple):
    """A worker's first message: it can take a job."""

    cgroup_errno: int = 0
    """The errno of moving into its cgroup; 0: it has moved, or has no cgroup."""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Ready:
        """Raise ValueError or TypeError for a malformed payload."""
        word = cls(**load_json(payload))
        if not isinstance(word.cgroup_errno, int):
            raise TypeError("cgroup_errno is no number")
        return word


class Broken(NamedTuple):
    """The only message of a worker that cannot take jobs; `why` is a sentence or a traceback."""

    why: str
    errno: int | None = None

    def encode(self) -> bytes:
        return dump_json(self._replace(why=self.why[-WHY_CHARS_MAX:])._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Broken:
        """Raise ValueError or TypeError for a malformed payload."""
        word = cls(**_load_texts(payload))
        if not isinstance(word.why, str) or not isinstance(word.errno, int | None):
            raise TypeError("why is no text, or errno no number")
        return word


_CHANGE_CHARS_MAX = 1000


class Idle(NamedTuple):
    """A worker's message after an attempt: whether it can take another one, and if not, why."""

    reusable: bool
    why: str = ""

    def encode(self) -> bytes:
        return IDLE_FREE if self == _FREE else _idle(self)

    @classmethod
    def decode(cls, payload: bytes) -> Idle:
        """Raise ValueError or TypeError for a malformed payload."""
        if payload == IDLE_FREE:
            return _FREE
        idle = cls(**load_json(payload))
        if type(idle.reusable) is not bool or not isinstance(idle.why, str):
            raise TypeError("reusable is no truth value, or why no text")
        return idle._replace(why=idle.why[:_CHANGE_CHARS_MAX])


def _idle(idle: Idle) -> bytes:
    return dump_json(idle._replace(why=idle.why[:_CHANGE_CHARS_MAX])._asdict())


_FREE = Idle(reusable=True)
IDLE_FREE = _idle(_FREE)
"""The payload of IDLE after nearly every attempt."""
