"""How much stands in memory for one reader, and what of a text is told."""

from __future__ import annotations

import json

from killable.api.sse import WRITE_BYTES, encode
from killable.supervisor.job import Event
from killable.workers.catalogue import TOLD_BYTES_MAX, _end_of


def test_events_go_out_in_pieces_whatever_their_sizes() -> None:
    sizes = [10] * 2000 + [3 * WRITE_BYTES, 1, WRITE_BYTES - 1] + [WRITE_BYTES // 2] * 50
    events = [Event(number, "token", b'"%b"' % (b"x" * size)) for number, size in enumerate(sizes)]
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
        assert TOLD_BYTES_MAX // 2 < len(json.dumps(told)) <= TOLD_BYTES_MAX
