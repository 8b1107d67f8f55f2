"""The wire under every cut and every damage.

A wrong frame is worse than none: what was damaged must be noticed, never believed.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from killable.workers.protocol.frames import FRAME_BYTES_MAX, HEADER_BYTES, Decoder, Frame, FrameError, encode

u32 = st.integers(0, 2**32 - 1)
frames_of_any_kind = st.builds(Frame, st.integers(0, 255), u32, u32, st.binary(max_size=200))
streams = st.lists(frames_of_any_kind, max_size=8)


def wire(frames: list[Frame]) -> bytes:
    return b"".join(encode(*frame) for frame in frames)


def feed(decoder: Decoder, *chunks: bytes) -> tuple[list[Frame], bool]:
    """Return the frames that came out, and whether the damage was noticed."""
    found: list[Frame] = []
    for chunk in chunks:
        try:
            found += decoder.feed(chunk)
        except FrameError as error:
            return found + error.frames, True
    return found, False


def test_frames_split_at_every_byte_are_the_same_frames() -> None:
    frames = [
        Frame(1, 0, 0, b""),
        Frame(3, 7, 1, b"token"),
        Frame(8, 2**32 - 1, 2, bytes(range(256))),
        Frame(9, 7, 3, b"x"),
    ]
    data = wire(frames)
    for cut in range(len(data) + 1):
        assert feed(Decoder(), data[:cut], data[cut:]) == (frames, False)
    assert feed(Decoder(), *(data[at : at + 1] for at in range(len(data)))) == (frames, False)


@given(streams, st.data())
def test_frames_cut_anywhere_are_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    whole = wire(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    chunks = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    decoder = Decoder()
    assert feed(decoder, *chunks) == (frames, False)
    assert decoder.torn == 0


@given(streams, frames_of_any_kind, st.data())
def test_a_torn_frame_is_not_given_out_and_is_counted(frames: list[Frame], last: Frame, data: st.DataObject) -> None:
    torn = encode(*last)
    length = data.draw(st.integers(0, len(torn) - 1))
    decoder = Decoder()
    assert feed(decoder, wire(frames) + torn[:length]) == (frames, False)
    assert decoder.torn == length


@given(streams, frames_of_any_kind, streams, st.data())
def test_a_damaged_byte_is_never_believed(
    before: list[Frame], damaged: Frame, after: list[Frame], data: st.DataObject
) -> None:
    """Whatever comes out are the frames that stood before the damage: of the length, which may swallow what follows
    and wait for more, of the checksum, of the rest of the header, and of the payload.
    """
    bad = bytearray(encode(*damaged))
    at = data.draw(st.integers(0, len(bad) - 1))
    bad[at] ^= data.draw(st.integers(1, 255))
    whole = wire(before) + bytes(bad) + wire(after)
    cut = data.draw(st.integers(0, len(whole)))
    decoder = Decoder()
    found, noticed = feed(decoder, whole[:cut], whole[cut:])
    assert found == before
    assert noticed or (at < 4 and decoder.torn == len(whole) - len(wire(before)))


@pytest.mark.parametrize("part", ["length", "checksum", "fence", "sequence", "kind", "payload"])
def test_each_bit_of_a_frame_is_guarded(part: str) -> None:
    first, length = {
        "length": (0, 4), "checksum": (4, 4), "fence": (8, 4), "sequence": (12, 4), "kind": (16, 1),
        "payload": (17, 40),
    }[part]  # fmt: skip
    good = encode(3, 7, 1, b"forty bytes of a payload, no more no less"[:40])
    assert len(good) == HEADER_BYTES + 40
    for bit in range(8 * length):
        bad = bytearray(good)
        bad[first + bit // 8] ^= 1 << bit % 8
        # Filled up, so that a length that grew has all it asks for, if it is within the bound.
        found, noticed = feed(Decoder(frame_bytes_max=1000), bytes(bad) + b"\0" * 1000)
        assert (found, noticed) == ([], True), (part, bit)


@given(st.binary(min_size=HEADER_BYTES, max_size=500))
@example(bytes(500))
@example(b"\xff" * 500)
@example(b"[DONE]\n" * 50)
def test_garbage_is_noticed_or_waits_within_the_bound(garbage: bytes) -> None:
    decoder = Decoder(frame_bytes_max=1000)
    found, noticed = feed(decoder, garbage)
    assert found == []
    assert noticed or decoder.torn == len(garbage)


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_no_more_is_kept_than_one_frame_and_one_chunk(chunks: list[bytes]) -> None:
    decoder = Decoder(frame_bytes_max=100)
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except FrameError:
            return
        assert decoder.torn <= HEADER_BYTES + 100


def test_a_length_without_end_is_refused_at_once() -> None:
    header = (FRAME_BYTES_MAX + 1).to_bytes(4, "little") + bytes(HEADER_BYTES - 4)
    assert feed(Decoder(), header) == ([], True)


@given(frames_of_any_kind, streams, st.data())
def test_after_the_damage_nothing_is_believed_any_more(damaged: Frame, after: list[Frame], data: st.DataObject) -> None:
    """Where the next frame begins is not known any more: not even what looks like one is given out."""
    bad = bytearray(encode(*damaged))
    bad[data.draw(st.integers(4, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    with pytest.raises(FrameError):
        decoder.feed(bytes(bad))
    for frame in after:
        with pytest.raises(FrameError):
            decoder.feed(encode(*frame))
