"""A job's output, joined from its tokens.

Runs in: api.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from killable.supervisor.engine import Engine
from killable.supervisor.models import JobEvent, JobRecord
from killable.workers.protocol.messages import dump_json

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
PIECE_EVENTS = 1024
"""Tokens decoded before the event loop continues: about a millisecond for small ones."""


async def media_type_of(engine: Engine, record: JobRecord) -> str:
    """Return the media type of the job's output up to this record: bytes if any token is bytes, else text."""
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            if any(token.startswith(b'{"base64"') for token in tokens):
                return BYTES
    return TEXT


async def pieces_of(engine: Engine, record: JobRecord) -> AsyncIterator[bytes]:
    """Yield the output up to this record, and not later tokens, which may not fit its media type."""
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            yield b"".join(map(decode, tokens))


async def nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the body of an answer to HEAD."""
    return
    yield b""


def decode(token: bytes) -> bytes:
    """Return a token as bytes: text as UTF-8 with lone surrogates escaped, bytes as they are, else a line of JSON."""
    members = json.loads(token)
    if "text" in members:
        text: str = members["text"]
        return text.encode("utf-8", "backslashreplace")
    if "base64" in members:
        return base64.b64decode(members["base64"])
    return dump_json(members["value"]) + b"\n"


async def _tokens(engine: Engine, record: JobRecord) -> AsyncGenerator[list[bytes], None]:
    async for batch in engine.events(record.job_id, follow=False):
        for part in _parts(batch):
            tokens = [event.data for event in part if event.name == "token" and event.id < record.events]
            if tokens:
                yield tokens
            await asyncio.sleep(0)


def _parts(batch: Sequence[JobEvent]) -> list[Sequence[JobEvent]]:
    return [batch[start : start + PIECE_EVENTS] for start in range(0, len(batch), PIECE_EVENTS)]
