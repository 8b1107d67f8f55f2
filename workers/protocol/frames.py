"""Length-prefixed, checksummed frames: a sans-I/O codec.

Runs in: any.

    length u32 | crc32 u32 | fence u32 | sequence u32 | kind u8 | payload (length bytes)      (little-endian)

`fence` is the number of the attempt, unique within a supervisor: it identifies late frames of an earlier attempt.
`sequence` counts the frames of an attempt from 0; a gap is a protocol error. The checksum starts from a value made of
fence, sequence and kind, so that one crc32 call covers the payload and the header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from zlib import crc32

from killable.workers.named_tuples import NamedTuple

FRAME_BYTES_MAX = 64 << 20
"""The largest payload in bytes: the largest default of `output_bytes`. A greater length is garbage, not a frame."""

NO_BOUNDS: Mapping[int, int] = MappingProxyType({})

_HEADER = struct.Struct("<IIIIB")
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
HEADER_BYTES = _HEADER.size
_SEED = 0x6B696C6C
"""Makes a run of zeros an invalid frame: without it their checksum would be zero."""


class Frame(NamedTuple):
    kind: int
    fence: int
    sequence: int
    payload: bytes


class FrameError(Exception):
    """The bytes are not valid frames: a length is over the bound, or a checksum is wrong.

    `frames` are the valid frames before them in the same chunk.
    """

    def __init__(self, message: str, frames: list[Frame] | None = None) -> None:
        super().__init__(message)
        self.frames = frames or []


def _seed(fence: int, sequence: int, kind: int) -> int:
    """Return what the checksum of a frame starts from."""
    return (fence * 0x9E3779B1 + sequence * 0x85EBCA6B + kind + _SEED) & 0xFFFFFFFF


def encode(kind: int, fence: int, sequence: int, payload: bytes) -> bytes:
    """Return one frame as bytes. Raise FrameError when the payload is over FRAME_BYTES_MAX."""
    length = len(payload)
    if length > FRAME_BYTES_MAX:
        raise FrameError(f"a payload of {length} bytes is over the bound of {FRAME_BYTES_MAX}")
    return _pack(length, crc32(payload, _seed(fence, sequence, kind)), fence, sequence, kind) + payload


def head(kind: int, fence: int, sequence: int, pieces: Iterable[bytes]) -> bytes:
    """Return what stands before these pieces of a payload: a large one is written without a copy of it."""
    checksum, length = _seed(fence, sequence, kind), 0
    for piece in pieces:
        checksum, length = crc32(piece, checksum), length + len(piece)
    return _pack(length, checksum, fence, sequence, kind)


class Decoder:
    """Decodes frames from chunks of bytes, which may be cut anywhere. After a FrameError every `feed` raises it."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, of_kinds: Mapping[int, int] = NO_BOUNDS) -> None:
        """`of_kinds`: the bounds of kinds that have a lower one."""
        self._buffer = b""
        self._parts: list[bytes | memoryview] = []
        """Of an unfinished frame whose header is there."""
        self._missing = 0
        self._frame_bytes_max = frame_bytes_max
        self._of_kinds = of_kinds
        self._lowest_bound = min(of_kinds.values(), default=frame_bytes_max)
        self._damage = ""

    @property
    def torn(self) -> int:
        """Bytes received of an unfinished frame. If not 0 at end-of-file, the writer died during a write."""
        return len(self._buffer) + sum(map(len, self._parts))

    @property
    def missing(self) -> int:
        """Bytes still to come of the unfinished frame; also 0 while its header is incomplete."""
        return self._missing

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that the next bytes complete, in order. Raise FrameError."""
        if self._damage:
            raise FrameError(self._damage)  # the start of the next frame is unknown
        frames: list[Frame] = []
        add = frames.append
        if self._missing:
            # In the middle of a large frame: collect chunks, without copying the earlier ones each time.
            missing = self._missing
            self._parts.append(chunk if len(chunk) <= missing else memoryview(chunk)[:missing])
            self._missing = max(0, missing - len(chunk))
            if self._missing:
                return []
            add(self._collected())
            chunk = chunk[missing:]
        elif self._buffer:
            chunk = self._buffer + chunk
        make = Frame._make
        position, end = 0, len(chunk)
        while end - position >= HEADER_BYTES:
            length, checksum, fence, sequence, kind = _unpack_from(chunk, position)
            if length > self._lowest_bound and length > (most := self._of_kinds.get(kind, self._frame_bytes_max)):
                raise self._damaged(f"a frame of kind {kind} has {length} bytes, over the bound of {most}", frames)
            start = position + HEADER_BYTES
            stop = start + length
            if stop > end:
                self._missing = stop - end
                break
            payload = chunk[start:stop]
            if crc32(payload, _seed(fence, sequence, kind)) != checksum:
                raise self._wrong(kind, sequence, length, frames)
            add(make((kind, fence, sequence, payload)))
            position = stop
        rest = chunk[position:]
        if self._missing:
            self._parts.append(rest)
            self._buffer = b""
        else:
            self._buffer = rest
        return frames

    def _collected(self) -> Frame:
        """Return the large frame whose parts are all there. Its payload is copied once."""
        first, *rest = self._parts
        _, _, fence, sequence, kind = _unpack_from(first)
        payload = b"".join((memoryview(first)[HEADER_BYTES:], *rest))
        self._parts.clear()
        if head(kind, fence, sequence, (payload,)) != first[:HEADER_BYTES]:
            raise self._wrong(kind, sequence, len(payload), [])
        return Frame(kind, fence, sequence, payload)

    def _wrong(self, kind: int, sequence: int, length: int, frames: list[Frame]) -> FrameError:
        return self._damaged(f"a frame's checksum is wrong (kind {kind}, number {sequence}, {length} bytes)", frames)

    def _damaged(self, what: str, frames: list[Frame]) -> FrameError:
        self._damage = what
        return FrameError(what, frames)
