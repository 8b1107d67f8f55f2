"""Length-prefixed, checksummed frames: a sans-I/O codec.

Runs in: any.

    length u32 | crc32 u32 | fence u32 | sequence u32 | kind u8 | payload (length bytes)      (little-endian)

`fence` is the number of the attempt, unique within a supervisor, so a late frame of an earlier attempt is
recognised. `sequence` counts the frames of an attempt from 0; a gap is a protocol error. The checksum starts from a
value made of fence, sequence and kind: one crc32 call covers the payload and the header.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

FRAME_BYTES_MAX = 64 << 20
"""Largest payload: the largest `output_bytes` anyone gets by default. A length above it is garbage, not a frame."""

_HEADER = struct.Struct("<IIIIB")
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
HEADER_BYTES = _HEADER.size
_SEED = 0x6B696C6C
"""So that a run of zeros, whose checksum would be zero, is no frame."""


class Frame(NamedTuple):
    kind: int
    fence: int
    sequence: int
    payload: bytes


class FrameError(Exception):
    """The bytes are not frames of ours: a length over the bound, a wrong checksum.

    `frames` are the good ones that stood before them in the same chunk.
    """

    def __init__(self, message: str, frames: list[Frame] | None = None) -> None:
        super().__init__(message)
        self.frames = frames or []


def encode(kind: int, fence: int, sequence: int, payload: bytes) -> bytes:
    """Return one frame as bytes. Raise FrameError when the payload is over FRAME_BYTES_MAX."""
    length = len(payload)
    if length > FRAME_BYTES_MAX:
        raise FrameError(f"a payload of {length} bytes is over the bound of {FRAME_BYTES_MAX}")
    seed = (fence * 0x9E3779B1 + sequence * 0x85EBCA6B + kind + _SEED) & 0xFFFFFFFF
    return _pack(length, crc32(payload, seed), fence, sequence, kind) + payload


class Decoder:
    """Turns bytes, cut anywhere, back into frames. After a FrameError it stays broken."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._frame_bytes_max = frame_bytes_max
        self._damage = ""

    @property
    def torn(self) -> int:
        """Number of bytes of an unfinished frame: not zero at end-of-file means that the writer died in a write."""
        return len(self._buffer) + sum(map(len, self._parts))

    @property
    def missing(self) -> int:
        """How many bytes of the unfinished frame are to come; 0 also when not even its header is here."""
        return self._missing

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes and return the frames that they complete, in order. Raise FrameError."""
        if self._damage:
            raise FrameError(self._damage)  # where the next frame begins is not known any more
        if self._missing:
            # In the middle of a large frame: collect without copying what is already here over and over.
            self._parts.append(chunk)
            self._missing -= len(chunk)
            if self._missing > 0:
                return []
            chunk = b"".join(self._parts)
            self._parts.clear()
            self._missing = 0
        elif self._buffer:
            chunk = self._buffer + chunk
        frames: list[Frame] = []
        add = frames.append
        make = Frame._make
        position, end = 0, len(chunk)
        while end - position >= HEADER_BYTES:
            length, checksum, fence, sequence, kind = _unpack_from(chunk, position)
            if length > self._frame_bytes_max:
                raise self._damaged(f"a frame of {length} bytes is over the bound of {self._frame_bytes_max}", frames)
            start = position + HEADER_BYTES
            stop = start + length
            if stop > end:
                self._missing = stop - end
                break
            payload = chunk[start:stop]
            if crc32(payload, (fence * 0x9E3779B1 + sequence * 0x85EBCA6B + kind + _SEED) & 0xFFFFFFFF) != checksum:
                what = f"a frame's checksum is wrong (kind {kind}, number {sequence}, {length} bytes)"
                raise self._damaged(what, frames)
            add(make((kind, fence, sequence, payload)))
            position = stop
        rest = chunk[position:]
        if self._missing:
            self._parts.append(rest)
            self._buffer = b""
        else:
            self._buffer = rest
        return frames

    def _damaged(self, what: str, frames: list[Frame]) -> FrameError:
        self._damage = what
        return FrameError(what, frames)
