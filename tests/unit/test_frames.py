"""The wire: one frame after the other."""

from __future__ import annotations

import struct

import pytest

from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS
from killable.workers.protocol.frames import FRAME_BYTES_MAX, HEADER_BYTES, Decoder, Frame, FrameError, encode

U32 = 0xFFFFFFFF


def test_the_header_is_as_documented() -> None:
    data = encode(3, 0x01020304, 0x0A0B0C0D, b"payload")
    length, _, fence, sequence, kind = struct.unpack_from("<IIIIB", data)
    assert (length, fence, sequence, kind, HEADER_BYTES) == (7, 0x01020304, 0x0A0B0C0D, 3, 17)
    assert data[HEADER_BYTES:] == b"payload"


def test_a_frame_is_these_bytes() -> None:
    """Workers of another installation speak to this supervisor: what is changed here is changed on the wire."""
    golden = "07000000 aa696df3 04030201 0d0c0b0a 03 7061796c6f6164"
    assert encode(3, 0x01020304, 0x0A0B0C0D, b"payload") == bytes.fromhex(golden)


def test_a_token_may_be_as_large_as_all_output() -> None:
    assert DEFAULT_LIMITS["output_bytes"] == FRAME_BYTES_MAX == 1 << 26
    payload = bytes(FRAME_BYTES_MAX)
    assert len(encode(3, 1, 0, payload)) == HEADER_BYTES + FRAME_BYTES_MAX


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)), b"y" * 100_000], ids=len)
@pytest.mark.parametrize(("kind", "fence", "sequence"), [(0, 0, 0), (255, U32, U32), (3, 7, 1)])
def test_a_frame_comes_back_as_it_went(kind: int, fence: int, sequence: int, payload: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(encode(kind, fence, sequence, payload)) == [Frame(kind, fence, sequence, payload)]
    assert decoder.torn == 0


def test_a_payload_over_the_bound_is_not_sent() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return FRAME_BYTES_MAX + 1

    with pytest.raises(FrameError, match="over the bound"):
        encode(3, 1, 0, Long())


def test_a_length_over_the_bound_is_refused_before_anything_is_collected() -> None:
    decoder = Decoder(frame_bytes_max=100)
    assert decoder.feed(encode(3, 1, 0, b"x" * 100)) == [Frame(3, 1, 0, b"x" * 100)]
    with pytest.raises(FrameError, match="a frame of kind 3 has 101 bytes, over the bound of 100"):
        decoder.feed(encode(3, 1, 1, b"x" * 101)[:HEADER_BYTES])


@pytest.mark.parametrize("damage", [4, 8, 12, 16, HEADER_BYTES, HEADER_BYTES + 4])
def test_good_frames_before_the_damage_are_not_lost(damage: int) -> None:
    good = [encode(3, 1, number, b"token") for number in range(3)]
    bad = bytearray(encode(3, 1, 3, b"token"))
    bad[damage] ^= 0x40
    with pytest.raises(FrameError) as caught:
        Decoder().feed(b"".join(good) + bad)
    assert caught.value.frames == [Frame(3, 1, number, b"token") for number in range(3)]


def test_what_is_missing_at_the_end_is_counted() -> None:
    data = encode(3, 1, 0, b"x" * 1000)
    assert Decoder().missing == 0
    for cut in range(0, len(data), 7):
        decoder = Decoder()
        assert decoder.feed(data[:cut]) == []
        assert decoder.torn == cut
        assert decoder.missing == (len(data) - cut if cut >= HEADER_BYTES else 0)
        assert decoder.feed(data[cut:]) == [Frame(3, 1, 0, b"x" * 1000)]
        assert decoder.torn == decoder.missing == 0


def test_a_large_frame_is_collected_without_copying_it_again_and_again() -> None:
    """Each chunk is kept as it came; what is copied grows with the frame and not with its square."""
    data = encode(3, 1, 0, b"x" * (1_000_001 - HEADER_BYTES))  # of which the last chunk has one byte
    decoder = Decoder()
    frames = []
    for start in range(0, len(data), 100):
        frames += decoder.feed(data[start : start + 100])
        assert decoder._buffer == b"" and (frames or len(decoder._parts) == start // 100 + 1)
    assert [len(frame.payload) for frame in frames] == [1_000_001 - HEADER_BYTES]
