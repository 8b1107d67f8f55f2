"""The message that gives a call of an Executor to a worker, through the worker's line (`call_socket.py`).

Runs in: supervisor, any thread of the program (writes) | worker (reads).

    fence u32 | after i32 | flags u8 | shared parts u8 | bytes of the job id u8 | bytes of the limits u16
    | job id | limits | traceparent, tracestate, line feed (with TRACED) | input

`after` is the fence of the call that the worker has before this one, as far as the supervisor had read when it wrote
the message: negative, if that one ended with IDLE, and 0, if there is none. A worker that had another one passes the
message over, for the supervisor gives the call again (`Lane`): it was sent before an IDLE frame was read, or behind a
call that was taken back.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.trace_context import TRACEPARENT_CHARS

LINE_BYTES_MAX = 96 << 10
"""The longest message: with it the kernel's default send buffer (net.core.wmem_default, 208 KiB) has room for two."""
HEAD_BYTES_MAX = 4 << 10
"""At most so much of a message is not the input."""

STREAM, ANNOUNCE, SEALED, RESULT_BUFFER, TRACED = 1, 2, 4, 8, 16
"""Flags: the call's items are streamed · ENTERED is sent · the input is in a memory file whose descriptor comes along ·
so does the descriptor of a result buffer · the call is part of a trace.
"""

_HEAD = struct.Struct("<IiBBBH")
_pack, _unpack_from = _HEAD.pack, _HEAD.unpack_from
_fence_of = struct.Struct("<I").unpack_from


class CallMessage(NamedTuple):
    """One call, as the worker receives it."""

    fence: int
    after: int
    flags: int
    shared: int
    """How many shared parts of the input come along as descriptors, behind that of the input itself."""
    job_id: str
    limits: bytes
    """The limits as JSON; most calls have the same text."""
    input: bytes
    traceparent: str = ""
    tracestate: str = ""


def encode_call(
    fence: int, after: int, flags: int, shared: int, job_id: bytes, limits: bytes, input: bytes,
    headers: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """Return the message as bytes. `headers` are those of the trace that the call is part of."""
    if headers:
        flags |= TRACED
        input = f"{headers['traceparent']}{headers.get('tracestate', '')}\n".encode("ascii") + input
    return _pack(fence, after, flags, shared, len(job_id), len(limits)) + job_id + limits + input


def decode_call(message: bytes) -> CallMessage:
    """Raise ValueError for a malformed message."""
    try:
        fence, after, flags, shared, id_bytes, limits_bytes = _unpack_from(message)
    except struct.error as error:
        raise ValueError(str(error)) from error
    limits_at = _HEAD.size + id_bytes
    input_at = limits_at + limits_bytes
    job_id, limits = message[_HEAD.size : limits_at].decode("ascii"), message[limits_at:input_at]
    if not flags & TRACED:
        return CallMessage(fence, after, flags, shared, job_id, limits, message[input_at:], "", "")
    trace, newline, input = message[input_at:].partition(b"\n")
    if not newline:
        raise ValueError("the headers of the trace have no end")
    text = trace.decode("ascii")
    parent, state = text[:TRACEPARENT_CHARS], text[TRACEPARENT_CHARS:]
    return CallMessage(fence, after, flags & ~TRACED, shared, job_id, limits, input, parent, state)


def fence_of(message: bytes) -> int:
    """Return the fence of a message."""
    fence: int = _fence_of(message)[0]
    return fence
