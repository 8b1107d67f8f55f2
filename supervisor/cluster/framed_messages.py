"""Messages between processes of a cluster: the size, then what `messages` packs.

Runs in: supervisor, on the head and its nodes, and the driver.
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

SPACE_BYTES = 256 << 10
"""For what comes at once: a full answer of a node has 88 KiB."""


class FramedMessages(asyncio.BufferedProtocol):
    """One end of the socket. What comes is read into one buffer, of which each blob is copied once."""

    def __init__(
        self,
        on_frame: Callable[[Header, list[bytes]], None],
        on_lost: Callable[[str], None],
        *,
        on_made: Callable[[], None] = lambda: None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        """`on_made` is told when something can be sent. A longer frame than `frame_bytes_max` is none, until
        `allow_large`, and there is space for no more.

        `on_lost` is told once why nothing comes any more: empty if the other side has only hung up. `on_frame` may
        raise ValueError, KeyError and TypeError: then what has come is no message.
        """
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_made = on_made
        self._bytes_max = frame_bytes_max
        self._space = min(SPACE_BYTES, SIZE.size + frame_bytes_max)
        self._use(bytearray(self._space))
        self._begin = self._end = 0
        """What of the buffer is received, and not taken yet."""
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._on_made()

    @property
    def address(self) -> str:
        """That of the other side, when something can be sent over a network."""
        assert self._transport is not None
        address: str = self._transport.get_extra_info("peername")[0]
        return address

    def allow_large(self) -> None:
        """Take frames of any size."""
        self._bytes_max, self._space = FRAME_BYTES_MAX, SPACE_BYTES

    def _use(self, buffer: bytearray) -> None:
        self._buffer, self._view = buffer, memoryview(buffer)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        wanted = SIZE.size
        while not self._is_lost and self._end - self._begin >= wanted:
            (size,) = SIZE.unpack_from(self._buffer, self._begin)
            wanted = SIZE.size + size
            if size > self._bytes_max:
                self._lose(f"what it sends is no message: one of {size} bytes")
                return
            if self._end - self._begin >= wanted:
                begin = self._begin + SIZE.size
                self._begin += wanted
                wanted = SIZE.size
                self._take(begin, self._begin)
        self._make_room(wanted)

    def _take(self, begin: int, end: int) -> None:
        try:
            self._on_frame(*messages.unpack(self._buffer, begin, end))
        except (ValueError, KeyError, TypeError) as error:
            self._lose(f"what it sends is no message: {error}")

    def _make_room(self, wanted: int) -> None:
        """Have room for the rest of a frame of so many bytes, whose begin is received."""
        received = self._view[self._begin : self._end]
        if wanted > len(self._buffer) - self._begin or self._begin == self._end:
            if wanted > len(self._buffer) or len(self._buffer) != self._space:
                self._use(bytearray(max(wanted, self._space)))
            self._view[: len(received)] = bytes(received)
            self._begin, self._end = 0, len(received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("it has ended within a message" if self._end > self._begin else "")

    def send(self, header: Header, blobs: Sequence[bytes | memoryview] = ()) -> None:
        """Send a message; if the other side is gone, nobody gets it."""
        if self._transport is not None and not self._transport.is_closing():
            head = messages.head(header, blobs)
            size = len(head) + sum(map(len, blobs))
            self._transport.writelines((SIZE.pack(size) + head, *blobs))

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _lose(self, why: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.hang_up()
            self._on_lost(why)
