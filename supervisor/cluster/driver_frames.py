"""Messages between the head and the process of its driver: the size, then what `messages` packs.

Runs in: supervisor, on the head, and the driver.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.messages import Header

SIZE = struct.Struct(">I")
LOGGED = 0
"""The number of a message that answers nothing: it is a record of the driver's log, with `level`, `event`, `detail`."""
FRAME_BYTES_MAX = 64 << 20
"""A longer one is none: what carries data has 88 KiB of it."""


class DriverFrames(asyncio.Protocol):
    """One end of the socket."""

    def __init__(self, on_frame: Callable[[Header, list[bytes]], None], on_lost: Callable[[str], None]) -> None:
        """`on_lost` is told once why nothing comes any more: empty if the other side has only hung up. `on_frame` may
        raise ValueError, KeyError and TypeError: then what has come is no message.
        """
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while not self._is_lost and len(received) >= SIZE.size:
            (size,) = SIZE.unpack_from(received)
            if size > FRAME_BYTES_MAX:
                self._lose(f"what it sends is no message: one of {size} bytes")
                return
            if len(received) < SIZE.size + size:
                return
            packed = bytes(received[SIZE.size : SIZE.size + size])
            del received[: SIZE.size + size]
            try:
                self._on_frame(*messages.unpack(packed))
            except (ValueError, KeyError, TypeError) as error:
                self._lose(f"what it sends is no message: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("it has ended within a message" if self._received else "")

    def send(self, header: Header, blobs: Sequence[bytes | memoryview] = ()) -> None:
        """Send a message; if the other side is gone, nobody gets it."""
        if self._transport is not None and not self._transport.is_closing():
            packed = messages.pack(header, blobs)
            self._transport.write(SIZE.pack(len(packed)) + packed)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _lose(self, why: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.hang_up()
            self._on_lost(why)
