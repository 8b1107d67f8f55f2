"""A job's output, joined from its tokens; and the headers of all that a job produces.

Runs in: api.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from itertools import chain

from killable.api.http.writes import WRITE_BYTES, cut, in_writes
from killable.supervisor.engine import Engine
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
TOKENS_A_TURN = 128
"""Tokens that are decoded at once: 0.3 ms."""


async def media_type_of(engine: Engine, record: JobRecord) -> str:
    """Return the media type of the job's output up to this record: bytes if any token is bytes, else text."""
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            if any(token.startswith(b'{"base64"') for token in tokens):
                return BYTES
    return TEXT


async def pieces_of(engine: Engine, record: JobRecord) -> AsyncIterator[bytes | memoryview]:
    """Yield the output up to this record, and not later tokens, which may not fit its media type.

    What waits for a reader is one piece of some WRITE_BYTES, however large a token is.
    """
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            rest: list[bytes | memoryview] = []
            for start in range(0, len(tokens), TOKENS_A_TURN):
                some = decoded(tokens[start : start + TOKENS_A_TURN])
                for number, piece in enumerate(in_writes(chain(rest, some))):
                    if number:
                        yield rest.pop()
                    if number or start:  # a socket that takes all does not wait by itself
                        await wakeup_turns().turn(record.job_id)
                    rest = [piece]  # the next tokens may fit into the same write
            for piece in rest:
                yield piece


def as_attachment(name: str) -> dict[str, str]:
    """Return the headers of a body that a job controls: a browser saves it, under this name, and runs nothing of it."""
    return {"X-Content-Type-Options": "nosniff", "Content-Disposition": f'attachment; filename="{name}"'}


async def nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the body of an answer to HEAD."""
    return
    yield b""


def decoded(tokens: Sequence[bytes]) -> Iterator[bytes | memoryview]:
    """Yield tokens as bytes: text as UTF-8 with lone surrogates escaped, bytes as they are, else a line of JSON.

    A large one comes in parts. Raise ValueError for what no worker writes.
    """
    for token in tokens:
        if len(token) > WRITE_BYTES:
            yield from _in_parts(token)
        else:
            yield _decode(token)


_FORMS = ((b'{"text":"', b'"}'), (b'{"base64":"', b'"}'), (b'{"value":', b"}"))
"""How `encode_token` begins and ends what it writes."""


def _in_parts(token: bytes) -> Iterator[bytes | memoryview]:
    begin, end = next((form for form in _FORMS if token.startswith(form[0]) and token.endswith(form[1])), (b"", b""))
    inner = memoryview(token)[len(begin) : len(token) - len(end)]
    match begin:
        case b'{"text":"':
            yield from map(_utf8, _texts(inner))
        case b'{"base64":"':
            yield from map(base64.b64decode, cut(inner, WRITE_BYTES // 3 * 4))
        case b'{"value":':
            yield from cut(inner)
            yield b"\n"
        case _:
            yield _decode(token)


def _decode(token: bytes) -> bytes:
    members = json.loads(token)
    if "text" in members:
        return _utf8(members["text"])
    if "base64" in members:
        return base64.b64decode(members["base64"])
    return dump_json(members["value"]) + b"\n"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _texts(quoted: memoryview) -> Iterator[str]:
    """Yield a JSON string's content in parts. A cut is within no escape, and within no surrogate pair."""
    while quoted:
        part = bytes(quoted[:WRITE_BYTES])
        is_last = len(part) == len(quoted)
        if not is_last:
            # The last backslash of the last six bytes begins an escape (of at most six), unless one escapes it.
            start = part[: part.rfind(b"\\", -_ESCAPE_BYTES) + 1]
            if (len(start) - len(start.rstrip(b"\\"))) % 2:
                part = start[:-1]
        text: str = json.loads(b'"%b"' % part)
        if not is_last and "\ud800" <= text[-1] <= "\udbff":
            text, part = text[:-1], part[:-_ESCAPE_BYTES]  # the second half of its pair may follow
        quoted = quoted[len(part) :]
        yield text


_ESCAPE_BYTES = len(r"\ud83d")


async def _tokens(engine: Engine, record: JobRecord) -> AsyncGenerator[list[bytes], None]:
    """Yield the tokens of the latest attempt: what an earlier one has streamed is void."""
    async for batch in engine.events(record.job_id, record.first_id - 1, follow=False):
        tokens = [event.data for event in batch if event.name == "token" and event.id < record.events]
        if tokens:
            yield tokens
