"""Messages between the head and its driver, as they come: in any pieces, and larger than the buffer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.framed_messages import FRAME_BYTES_MAX, SIZE, SPACE_BYTES, FramedMessages

Got = list[tuple[dict[str, Any], list[bytes]]]


def frames() -> tuple[FramedMessages, Got, list[str]]:
    got: Got = []
    lost: list[str] = []
    return FramedMessages(lambda header, blobs: got.append((header, blobs)), lost.append), got, lost


def receive(into: FramedMessages, data: bytes) -> None:
    """Hand data over as a transport does: as much as there is room for, again and again."""
    while data:
        room = into.get_buffer(-1)
        assert len(room), "there is always room"
        taken = data[: len(room)]
        room[: len(taken)] = taken
        into.buffer_updated(len(taken))
        data = data[len(taken) :]


@pytest.mark.parametrize("seed", range(20))
def test_messages_come_in_any_pieces(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [dice.choice((0, 1, 300, 88 << 10, SPACE_BYTES - 8, 3 * SPACE_BYTES)) for _ in range(12)]
    sent = [({"n": n}, [dice.randbytes(size), b"", b"x" * dice.randrange(9)]) for n, size in enumerate(sizes)]
    packed = [messages.pack(header, blobs) for header, blobs in sent]
    data = b"".join(SIZE.pack(len(each)) + each for each in packed)
    into, got, lost = frames()
    while data:
        size = dice.choice((1, 3, 700, 70_000, 2 * SPACE_BYTES))
        receive(into, data[:size])
        data = data[size:]
    assert got == sent and not lost
    assert len(into.get_buffer(-1)) >= SIZE.size


def test_what_is_too_large_is_refused_by_its_size_alone() -> None:
    into, got, lost = frames()
    receive(into, SIZE.pack(FRAME_BYTES_MAX + 1))
    assert lost == [f"what it sends is no message: one of {FRAME_BYTES_MAX + 1} bytes"] and not got


@pytest.mark.parametrize("packed", [b"[]\n", b"no line", b'{"n": 1, "blobs": [5]}\nabc', b'{"n": 1, "blobs": []}\nabc'])
def test_a_frame_that_is_no_message_is_refused_with_another_one_behind_it(packed: bytes) -> None:
    into, got, lost = frames()
    good = messages.pack({"n": 2}, [b"abc"])
    receive(into, SIZE.pack(len(packed)) + packed + SIZE.pack(len(good)) + good)
    assert len(lost) == 1 and "no message" in lost[0] and not got


def test_a_connection_that_ends_within_a_message_says_so() -> None:
    into, _, lost = frames()
    receive(into, SIZE.pack(100) + b"{")
    into.connection_lost(None)
    assert lost == ["it has ended within a message"]
