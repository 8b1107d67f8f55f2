"""Answers in pieces: what is large is neither parsed nor joined, and it is looked at and sent in turns.

Runs in: api. A whole answer may have 64 MiB, and kills wait while the event loop is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from starlette.responses import Response, StreamingResponse

from killable.api.http.writes import WRITE_BYTES, Piece, in_writes
from killable.supervisor.jobs.wakeup_turns import wakeup_turns

LOOKED_BYTES = 16 << 10
"""Of what is looked at in one turn: a millisecond."""


async def whole_answer(job_id: str, pieces: Iterable[Piece], headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON. Raise ValueError as `pieces` does, which may be found only as they are asked for."""
    found: list[Piece] = []
    size = seen = 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size - seen >= LOOKED_BYTES:
            seen = size
            await wakeup_turns().turn(job_id)
    if size <= WRITE_BYTES:
        return Response(b"".join(found), headers=headers, media_type="application/json")
    told = {**(headers or {}), "Content-Length": str(size)}
    return StreamingResponse(_in_turns(job_id, found), headers=told, media_type="application/json")


async def _in_turns(job_id: str, pieces: Sequence[Piece]) -> AsyncIterator[bytes | memoryview]:
    """Yield them, as what is sent at once: a socket that takes all does not wait by itself."""
    for number, part in enumerate(in_writes(pieces)):
        if number:
            await wakeup_turns().turn(job_id)
        yield part
