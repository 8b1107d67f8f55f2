"""Which connections are read in a turn of the event loop: a few, and addresses take turns.

Runs in: supervisor, in its event loop. asyncio reads every connection that has sent something in one turn of the loop:
with a thousand of them a turn took half a second, and what belongs to a kill needs several. So connections are paused,
and the kernel tells of them through an epoll of their own, which is a single descriptor to the loop.

    paused ──readable──► waits for its turn ──resumed──► asyncio reads it ──► the protocol ──others wait──► paused
                                                               ▲                  └──── nobody waits ────┐
                                                               └──────── open, until others are ─────────┘
"""

from __future__ import annotations

import asyncio
import select
from collections import OrderedDict
from typing import Any, cast

from killable.api.http.operators_first import Precedence
from killable.supervisor.jobs.round_robin import RoundRobin

READS_MAX = 2
"""Connections that are read in one turn: 0.2 ms of small requests."""
READ_BYTES = 16 << 10
"""Of one read: of many small chunks or requests, asyncio's 256 KiB were parsed for up to 0.2 s at once."""
OPEN_MAX = 8
"""Connections that asyncio goes on reading while nobody waits, those that were read last: to pause one and resume it
costs 0.1 ms.
"""
POLLED_MAX = 256
"""Connections that are taken from the kernel at once."""
_LEFT = select.EPOLLRDHUP | select.EPOLLONESHOT
_ONCE = select.EPOLLIN | _LEFT


class ConnectionReading:
    """The reading of one connection. uvicorn's flow control has it in place of the transport."""

    __slots__ = ("_fd", "_is_gone", "_is_wanted", "_transport", "_turns", "is_idle", "source")

    def __init__(self, turns: ReadingTurns, transport: asyncio.Transport, fd: int, source: str) -> None:
        self._turns = turns
        self._transport = transport
        self._fd = fd
        self.source = source
        """Whose connection it is: an address, or a network of them."""
        self._is_wanted = True
        self._is_gone = False
        self.is_idle = False
        """Whether it is not to be read, as that was not wanted when its turn came."""

    # ── called by uvicorn's flow control ──

    def pause_reading(self) -> None:
        self._is_wanted = False

    def resume_reading(self) -> None:
        self._is_wanted = True
        if self.is_idle and not self._is_gone:
            self.is_idle = False
            if self._turns.keeps_open(self):
                self._transport.resume_reading()
            else:
                self._turns.wait(self._fd)

    # ── called by the protocol ──

    def done(self, watches: bool) -> None:
        """Note that it was read, and what came was taken.

        `watches`: it is closed when its client leaves, though it is not to be read: what comes stands behind an answer.
        """
        if not (self._is_wanted and self._turns.keeps_open(self)):
            self._turns.shut(self)
            if self.is_idle and watches:
                self._turns.wait(self._fd, _LEFT)

    def left(self) -> None:
        """Note that the connection is closed."""
        self._is_gone = True
        self._turns.leave(self._fd)

    # ── called by the turns ──

    def turn(self) -> None:
        """Let asyncio read it."""
        if self._is_wanted:
            self._transport.resume_reading()
        else:
            self.is_idle = True

    def pause(self) -> None:
        """Have it wait for its next turn."""
        self._transport.pause_reading()
        self.is_idle = not self._is_wanted
        if self._is_wanted:
            self._turns.wait(self._fd)

    def close(self) -> None:
        """Close it: its client has left."""
        self._transport.close()


class ReadingTurns:
    """The connections of one server that are read by turns. It has a descriptor while there are any."""

    def __init__(self, precedence: Precedence) -> None:
        self._precedence = precedence
        self._epoll: select.epoll | None = None
        self._members: dict[int, ConnectionReading] = {}
        self._readable: RoundRobin[ConnectionReading] = RoundRobin()
        self._open: OrderedDict[ConnectionReading, None] = OrderedDict()
        """Those that asyncio reads as soon as it can, the one that was read last at the end."""
        self._left = READS_MAX
        """Reads that may begin in this turn."""
        self._is_deferred = False
        """Whether they wait for the end of an operator's request."""

    def join(self, transport: asyncio.Transport, source: str) -> ConnectionReading | None:
        """Read a connection by turns from now on. Return None if that cannot be: asyncio reads it then."""
        fd = transport.get_extra_info("socket").fileno()
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
                asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._poll)
            self._epoll.register(fd, _ONCE)
        except OSError:  # no descriptor is left
            self._close_if_unused()
            return None
        transport.pause_reading()
        cast(Any, transport).max_size = READ_BYTES  # asyncio's; it has no other setting
        reading = self._members[fd] = ConnectionReading(self, transport, fd, source)
        return reading

    def wait(self, fd: int, what: int = _ONCE) -> None:
        """Have the kernel tell when a connection can be read, or only when its client has left."""
        assert self._epoll is not None
        self._epoll.modify(fd, what)

    def keeps_open(self, reading: ConnectionReading) -> bool:
        """Return whether asyncio may read a connection as soon as it can."""
        if self._readable:
            return False
        self._open[reading] = None
        self._open.move_to_end(reading)
        if len(self._open) > OPEN_MAX:
            self.shut(next(iter(self._open)))
        return True

    def shut(self, reading: ConnectionReading) -> None:
        """Have a connection wait for its next turn."""
        self._open.pop(reading, None)
        reading.pause()

    def leave(self, fd: int) -> None:
        """Forget a connection, whose descriptor is still open."""
        assert self._epoll is not None
        self._open.pop(self._members.pop(fd), None)
        self._epoll.unregister(fd)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._epoll is not None and not self._members:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _poll(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0, POLLED_MAX):
            reading = self._members[fd]
            if reading.is_idle:
                reading.close()
            else:
                self._readable.add(reading.source, reading)
        self._serve()

    def _serve(self) -> None:
        if self._is_deferred or not self._readable:
            return
        if self._precedence.defer(self._go_on):
            self._is_deferred = True
            return
        if self._left == READS_MAX:
            asyncio.get_running_loop().call_soon(self._next_turn)
        while self._left and self._readable:
            self._left -= 1
            self._readable.take().turn()

    def _go_on(self) -> None:
        self._is_deferred = False
        self._serve()

    def _next_turn(self) -> None:
        self._left = READS_MAX
        self._serve()
