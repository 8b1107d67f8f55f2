"""What the answers of a connection are written to: the head of one goes out with what follows it, in one system call.

Runs in: supervisor, in its event loop. uvicorn writes the head of an answer by itself, which wakes a client who cannot
use it alone: up to 0.2 ms of the loop's time, where the other processor sleeps.
"""

from __future__ import annotations

import asyncio
from typing import Any

BEGIN = b"HTTP/1.1 "
"""Of a head. A piece of a body that begins so is held in the same way, which does no harm."""

OF_ITSELF = ("_read_ready_cb", "_write_ready")
"""Bound methods that a selector transport keeps in itself; not public. Since Python 3.12 its `close` drops them,
not its `abort`.
"""


class HeadWithBody(asyncio.Transport):
    """The transport of one connection, as uvicorn and the protocol use it."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        """One that waits for what follows it, at most until the next turn of the loop."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.writelines((head, data))
        elif data[: len(BEGIN)] == BEGIN:
            self._head = bytes(data)
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._head = None
        self._transport.abort()

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def left(self) -> None:
        """Drop what asyncio's transport has of itself, once its connection is lost. Only the garbage collector would
        find it then: its passes over a crowd that comes and goes held up the event loop for 50 to 500 ms.
        """
        attributes = vars(self._transport)
        for name in OF_ITSELF:
            if name in attributes:
                attributes[name] = None

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)
