"""How much stands in memory for one reader, and what of a text is told."""

from __future__ import annotations

import asyncio
import json

from starlette.types import Message

from killable.api.http.sse import PING, WRITE_BYTES, _Wire, encode
from killable.supervisor.models import JobEvent
from killable.workers.runtime.catalogue import REPORT_BYTES_MAX, _end_of


def test_events_go_out_in_pieces_whatever_their_sizes() -> None:
    sizes = [10] * 2000 + [3 * WRITE_BYTES, 1, WRITE_BYTES - 1] + [WRITE_BYTES // 2] * 50
    events = [JobEvent(number, "token", b'"%b"' % (b"x" * size)) for number, size in enumerate(sizes)]
    pieces = list(encode(events))
    assert b"".join(pieces) == b"".join(piece for event in events for piece in encode([event]))
    assert all(len(piece) >= WRITE_BYTES for piece in pieces[:-1]), "no write for each of many small ones"
    assert sum(len(piece) > 2 * WRITE_BYTES for piece in pieces) == 1, "the one event that is as large"
    assert next(iter(encode(events))) == pieces[0], "one at a time"


def test_of_a_text_its_end_is_told_as_far_as_it_fits_into_a_message() -> None:
    assert _end_of("as it is") == "as it is"
    for letter in ("a", "\x00", "\U0001f600", "ü"):
        told = _end_of(letter * 100_000 + "the cause")
        assert told.endswith(letter + "the cause")
        assert REPORT_BYTES_MAX // 2 < len(json.dumps(told)) <= REPORT_BYTES_MAX


async def test_nothing_goes_out_behind_the_last_word_and_nothing_inside_another() -> None:
    """A ping may be due while either is on its way."""
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(message["body"])

    wire = _Wire(send, 60)
    event, ping = b"x" * (2 * WRITE_BYTES), {"type": "http.response.body", "body": PING, "more_body": True}
    async with asyncio.TaskGroup() as group:
        for message in ({**ping, "body": event}, ping, {**ping, "body": b"", "more_body": False}, ping):
            group.create_task(wire.send(message))
    assert sent == [event[:WRITE_BYTES], event[WRITE_BYTES:], PING, b""]
