"""How much stands in memory for one reader, and what of a text is told."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message

from killable.api.http.open_streams import OF_OPERATORS, OpenStreams
from killable.api.http.sse import PING, encode, in_whole_events
from killable.api.http.writes import WRITE_BYTES, cut, in_writes
from killable.supervisor.models import JobEvent
from killable.workers.errors import Refused
from killable.workers.runtime.job_type_catalogue import REPORT_BYTES_MAX, _end_of


def test_events_go_out_in_pieces_whatever_their_sizes() -> None:
    sizes = [10] * 2000 + [3 * WRITE_BYTES, 1, WRITE_BYTES - 1] + [WRITE_BYTES // 2] * 50
    events = [JobEvent(number, "token", b'"%b"' % (b"x" * size)) for number, size in enumerate(sizes)]
    pieces = list(in_writes(encode(events)))
    assert b"".join(pieces) == b"".join(piece for event in events for piece in encode([event]))
    assert max(map(len, pieces)) == WRITE_BYTES
    full, short = (sum((len(piece) > WRITE_BYTES // 2) is is_full for piece in pieces) for is_full in (True, False))
    large = sum(len(event.data) > WRITE_BYTES for event in events)
    assert large == 2 and short <= 2 * large + 1 < full, "no write for each of many small ones"
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert len(views) == 3 + 1 and {id(view.obj) for view in views} <= {id(event.data) for event in events}, "no copy"
    assert next(in_writes(encode(events))) == pieces[0], "one at a time"


def test_of_a_text_its_end_is_told_as_far_as_it_fits_into_a_message() -> None:
    assert _end_of("as it is") == "as it is"
    for letter in ("a", "\x00", "\U0001f600", "ü"):
        told = _end_of(letter * 100_000 + "the cause")
        assert told.endswith(letter + "the cause")
        assert REPORT_BYTES_MAX // 2 < len(json.dumps(told)) <= REPORT_BYTES_MAX


def test_what_is_cut_is_whole_again() -> None:
    for size in (1, WRITE_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES):
        payload = bytes(index % 251 for index in range(size))
        parts = list(cut(memoryview(payload)))
        assert b"".join(parts) == payload and {len(part) for part in parts[:-1]} <= {WRITE_BYTES}


@pytest.mark.parametrize("beyond", range(4))
async def test_no_ping_goes_out_in_the_middle_of_an_event(beyond: int) -> None:
    """One may be due while any part is on its way. Its end may be cut, too."""
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        for _ in range(20 if "body" not in message else 1):
            await asyncio.sleep(0)
        sent.append(message.get("body", b"start"))

    send_whole = in_whole_events(send, 60)
    bodies = [*map(bytes, cut(memoryview(b"x" * (2 * WRITE_BYTES - 2 + beyond) + b"\n\n"))), b"small\n\n"]
    async with asyncio.TaskGroup() as group:
        group.create_task(send_whole({"type": "http.response.start"}))
        for body in bodies:
            for each in (PING, body):
                group.create_task(send_whole({"type": "http.response.body", "body": each, "more_body": True}))
        group.create_task(send_whole({"type": "http.response.body", "body": PING, "more_body": True}))
    assert sent == [b"start", PING, *bodies[:-1], PING, bodies[-1], PING]


def test_operators_may_open_streams_when_those_of_others_are_as_many_as_may_be() -> None:
    streams = OpenStreams(2, ping_s=1.0, send_timeout_s=1.0)
    streams.open = 2
    streams.check(operator=True)
    with pytest.raises(Refused, match="2 streams are open"):
        streams.check(operator=False)
    streams.open += OF_OPERATORS
    with pytest.raises(Refused):
        streams.check(operator=True)
