"""What a large answer is sent in: writes of some 64 KiB, cut of what is large and joined of what is small.

Runs in: api. One answer may have 64 MiB: what waits for its reader is one write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

WRITE_BYTES = 64 << 10
"""Of one write at most; the high-water mark of asyncio's transports."""
Piece = bytes | bytearray | memoryview


def in_writes(pieces: Iterable[Piece]) -> Iterator[bytes | memoryview]:
    """Yield pieces, one write at a time. What is large is not copied."""
    joined: list[Piece] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > WRITE_BYTES:
            if joined:
                yield b"".join(joined)
                joined, size = [], 0
            if len(piece) > WRITE_BYTES:
                *whole, piece = cut(memoryview(piece))
                yield from whole
        joined.append(piece)
        size += len(piece)
    if joined:
        yield b"".join(joined)


def cut(payload: memoryview, size: int = WRITE_BYTES) -> Iterator[memoryview]:
    """Yield it in parts: a server's `send` waits until the part before has been taken."""
    return (payload[start : start + size] for start in range(0, len(payload), size))
