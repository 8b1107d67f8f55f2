"""What worker and supervisor say to each other: the kinds of frames and their payloads.

Runs in: any.

    supervisor ── orders socket ► worker    RUN (with up to two descriptors: a sealed input, an outlet), STOP, EXPIRE
    supervisor ◄─ frames pipe ─── worker    READY … one closing frame per attempt, then IDLE
    supervisor ◄─ bells pipe ──── worker    one byte each: a signal was delivered; acknowledged, swallowed, not ours to
                                            hear, or heard as the end of an operation

Payloads are one line of JSON, except the job's own values (RUN's input, TOKEN, CHECKPOINT, RESULT), which are in the
pool's codec.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any, NamedTuple


class Kind(IntEnum):
    """Kinds of frames. The numbers are the wire's: they only grow."""

    # worker → supervisor
    READY = 1
    """The handler stands, the preloads ran: this worker may be given a job and signalled (`Ready`)."""
    ENTERED = 2
    """The job function is about to be entered (`Entered`)."""
    TOKEN = 3
    PROGRESS = 4
    CHECKPOINT = 5
    OPERATION = 6
    """An operation is entered (`OperationEntered`)."""
    OPERATION_LEFT = 7
    """... and left (`OperationLeft`)."""
    RESULT = 8
    """Closing: the job function returned; the payload is the value."""
    RAISED = 9
    """Closing: it ended in another way; the payload is a `Raised`."""
    IDLE = 10
    """After a closing frame: whether this worker can take another job (`Idle`)."""
    BROKEN = 11
    """Instead of READY: a preload failed, or what the process had to do to itself (`Broken`)."""
    RESULT_SHM = 12
    """Closing: the job function returned, and its value lies in the outlet that came with the order."""
    # supervisor → worker
    RUN = 32
    STOP = 33
    EXPIRE = 34
    """An operation's time is over, and its author wants to hear of it (`Expire`)."""


NOTIFY_ACKNOWLEDGED = 0xA6
"""The Python handler ran and the order named the attempt on its stack. Above 64, so it is no signal number."""
NOTIFY_REPLACED = 0xA8
"""The job has set a SIGTERM handler of its own: ours will not acknowledge anything."""
NOTIFY_RESTORED = 0xAA
"""The job has put ours back: from here on it is as if it had never set another."""
NOTIFY_SWALLOWED = 0xA7
"""`sys.unraisablehook` saw `Stopping` swallowed (a __del__, a C callback): it has to be raised again."""
NOTIFY_EXPIRED = 0xA9
"""The order about an operation's end was heard: `OperationTimedOut` is raised, or the operation had been left."""

INLINE_BYTES_MAX = 1 << 20
"""Up to here a value is written into the socket or pipe, in pieces of what it takes: memory of its own costs more."""

OPERATIONS_MAX = 100
"""Operations of one attempt that may be entered at once, in each other or side by side."""


_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dump_json(value: Any) -> bytes:
    """Encode as one line of ASCII JSON; raise ValueError on NaN and infinities, TypeError on what is not JSON.

    ASCII, because lone surrogates have no UTF-8, and U+0085, U+2028 and U+2029 are line ends to the many SSE clients
    that split with `str.splitlines`.
    """
    return _encode(value).encode("ascii")


def load_json(payload: bytes) -> Any:
    """Return what `dump_json` has made. Raise ValueError for what it cannot have made, RecursionError."""
    text = payload.decode("ascii")
    value, end = _decode(text)
    if end != len(text):
        raise ValueError(f"{len(text) - end} characters behind the value")
    return value


class Run(NamedTuple):
    """The order to run one attempt. `input` is in the pool's codec."""

    job_id: str
    type: str
    attempt: int
    """Counts the runs of this job from 1; the frame header has the fence."""
    input: bytes
    limits: bytes = b"{}"
    """As JSON: it is the same text in a thousand orders, and is made and read once."""
    tags: Mapping[str, str] = MappingProxyType({})
    correlation_id: str = ""
    announce: bool = True
    """Whether ENTERED is waited for: where nothing runs from then on, it would wake the supervisor for nothing."""
    sealed: bool = False
    """The input is not in here: it is in the memory whose descriptor comes with the order (`sealed.py`)."""
    result_buffer: bool = False
    """Behind that comes the descriptor of a file for a large result; it serves until one has been laid there."""

    def encode(self) -> bytes:
        job_id = encode_basestring_ascii(self.job_id).encode("ascii")
        context = b""
        if self.tags:
            context += b'"tags":%s,' % dump_json(self.tags)
        if self.correlation_id:
            context += b'"correlation_id":%s,' % dump_json(self.correlation_id)
        options = _options(self.type, self.attempt, self.announce, self.sealed, self.result_buffer)
        head = b'{"job_id":%s,%s%s' % (job_id, context, options)
        return b"".join((_RUN_LENGTHS.pack(len(head), len(self.limits)), head, self.limits, self.input))

    @classmethod
    def decode(cls, payload: bytes) -> Run:
        """Raise ValueError or TypeError for what no supervisor of ours writes."""
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
        """Return a mapping of the job's own, with every limit. Raise ValueError."""
        limits = dict(_parsed(self.limits))
        if "operation_s" in limits:
            limits["operation_s"] = dict(limits["operation_s"])
        return limits


_RUN_LENGTHS = struct.Struct("<II")


@lru_cache(maxsize=64)
def _options(type: str, attempt: int, announce: bool, sealed: bool, result_buffer: bool) -> bytes:
    """Return what is the same in the heads of a thousand orders: without the brace before it."""
    members: dict[str, Any] = {"type": type, "attempt": attempt}
    if sealed:
        members["sealed"] = True
    if result_buffer:
        members["result_buffer"] = True
    if not announce:
        members["announce"] = False
    return dump_json(members)[1:]


@lru_cache(maxsize=16)
def _parsed(limits: bytes) -> dict[str, Any]:
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


PROGRESS_BYTES_MAX = 4 << 10
"""Of one word on how far a job is: its record keeps the last one, and each page of records repeats it."""


class Entered(NamedTuple):
    """The job function is about to be entered."""

    at: float | None = None
    """CLOCK_MONOTONIC seconds, which all processes of a machine share: a busy supervisor may read this later."""

    def encode(self) -> bytes:
        return dump_json({"at": self.at})

    @classmethod
    def decode(cls, payload: bytes) -> Entered:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        entered = cls(**load_json(payload))
        if entered.at is not None and type(entered.at) is not float:
            raise TypeError(f"not seconds: {entered.at!r}")
        return entered


class OperationEntered(NamedTuple):
    """A job has entered `with ctx.operation(...)`."""

    number: int
    """Of this entry into it, counted from 1 in each attempt."""
    path: str
    """Its name behind those of the operations around it: `load/download`."""
    timeout_s: float | None = None
    raises: bool = False
    """At its deadline the job gets `OperationTimedOut` instead of being stopped."""
    around: int = 0
    """The number of the operation that it is directly inside of; 0: of none."""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> OperationEntered:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        entered = cls(**load_json(payload))
        timeout_s = entered.timeout_s
        kinds = type(entered.number), type(entered.path), type(entered.raises), type(entered.around)
        if kinds != (int, str, bool, int):
            raise TypeError(f"not an operation: {entered}")
        if timeout_s is not None and (type(timeout_s) not in (int, float) or not 0 <= timeout_s < float("inf")):
            raise ValueError(f"not seconds: {timeout_s!r}")
        return entered


class OperationLeft(NamedTuple):
    """The `with` of this number is over, and so is every one inside it."""

    number: int

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> OperationLeft:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        left = cls(**load_json(payload))
        if type(left.number) is not int:
            raise TypeError(f"not the number of an operation: {left.number!r}")
        return left


class Expire(NamedTuple):
    """The order to raise `OperationTimedOut`, if that entry into the operation has not been left."""

    number: int

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Expire:
        return cls(**load_json(payload))


class Raised(NamedTuple):
    """How a job function ended that did not return."""

    cause: str
    """`exception` · `operation` · `memory` · `files` · `exit` · `stopped` · `unserializable` · `payload` ·
    `assignment`.
    """
    type: str = ""
    message: str = ""
    traceback: str = ""
    exit_code: int | None = None
    pickled: str = ""
    """The exception itself, in base64, where the codec is `pickle` and it can be sent."""
    faults: Sequence[dict[str, str]] = ()
    """What is wrong with the input, for `payload`: JSON pointers and messages."""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Raised:
        """Raise ValueError, TypeError: what a job has written itself can be anything."""
        raised = cls(**load_json(payload))
        if not all(isinstance(fault, dict) for fault in raised.faults):
            raise TypeError("a fault that is no object")
        texts = [*raised[:4], raised.pickled, *(text for fault in raised.faults for text in (*fault, *fault.values()))]
        if not all(isinstance(text, str) for text in texts) or type(raised.exit_code) not in (int, type(None)):
            raise TypeError("a member of another type")
        binascii.a2b_base64(raised.pickled)
        return raised


WHY_CHARS_MAX = 60_000
"""Of a traceback, its end."""


class Ready(NamedTuple):
    """A worker's first word: it can be given a job."""

    cgroup_errno: int = 0
    """Why it could not move into its group; 0: it did, or has none."""

    def encode(self) -> bytes:
        return dump_json(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Ready:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        word = cls(**load_json(payload))
        if not isinstance(word.cgroup_errno, int):
            raise TypeError("cgroup_errno is no number")
        return word


class Broken(NamedTuple):
    """A worker's only word: it can never be given one, and why, in words or as a traceback."""

    why: str
    errno: int | None = None

    def encode(self) -> bytes:
        return dump_json(self._replace(why=self.why[-WHY_CHARS_MAX:])._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> Broken:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        word = cls(**load_json(payload))
        if not isinstance(word.why, str) or not isinstance(word.errno, int | None):
            raise TypeError("why is no text, or errno no number")
        return word


_CHANGE_CHARS_MAX = 1000


class Idle(NamedTuple):
    """A worker's word after an attempt: may it be given another one, and if not, what had changed."""

    reusable: bool
    why: str = ""

    def encode(self) -> bytes:
        return IDLE_FREE if self == _FREE else _idle(self)

    @classmethod
    def decode(cls, payload: bytes) -> Idle:
        """Raise ValueError or TypeError for what no worker of ours writes."""
        if payload == IDLE_FREE:
            return _FREE
        idle = cls(**load_json(payload))
        if type(idle.reusable) is not bool or not isinstance(idle.why, str):
            raise TypeError("reusable is no truth value, or why no text")
        return idle._replace(why=idle.why[:_CHANGE_CHARS_MAX])


def _idle(idle: Idle) -> bytes:
    return dump_json(idle._asdict())


_FREE = Idle(reusable=True)
IDLE_FREE = _idle(_FREE)
"""What IDLE says after nearly every attempt."""
