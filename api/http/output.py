"""A job's tokens put together again: what it would have printed.

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
"""Decoded before the loop turns: of small ones about a millisecond."""


async def kind_of(engine: Engine, record: JobRecord) -> str:
    """Return the media type of what the job has put out until this record was made."""
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            if any(token.startswith(b'{"base64"') for token in tokens):
                return BYTES
    return TEXT


async def pieces_of(engine: Engine, record: JobRecord) -> AsyncIterator[bytes]:
    """Yield the output until this record was made, so that it fits the media type found for it."""
    async with aclosing(_tokens(engine, record)) as batches:
        async for tokens in batches:
            yield b"".join(map(decode, tokens))


async def nothing() -> AsyncIterator[bytes]:
    """Yield no piece: the answer to HEAD."""
    return
    yield b""


def decode(token: bytes) -> bytes:
    """Return what a token stands for: text as UTF-8, lone surrogates escaped; bytes; any other value as a line."""
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
