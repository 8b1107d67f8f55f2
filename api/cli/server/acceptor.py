"""Accepts connections by turns of addresses, and pauses while the process has no descriptor for another one.

Runs in: supervisor, in its event loop. asyncio's own server goes on through a whole backlog without a descriptor, logs
a traceback for each attempt, and has as many timers begin again a second later.

    kernel's backlog ──some in a turn──► waits: addresses take turns ──one in a turn──► the protocol
                                            └── too many wait, and its client has left ──► closed

The kernel's backlog has one line for all. Who opens connections and leaves at once fills it faster than they begin, and
others waited behind them for ten seconds and more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
from collections.abc import Callable

from killable.api.http.client_network import network_of
from killable.supervisor.jobs.round_robin import RoundRobin

ACCEPTED_MAX = 16
"""Connections that are taken from the kernel in one turn of the loop: some 0.3 ms. Only one begins in a turn, which
costs as much, with the end of the one that it replaces.
"""
WAITING_MAX = 64
"""Connections that wait to begin; more stay in the kernel's backlog."""
PAUSE_S = 1.0
"""Seconds until the next attempt, when no connection could be closed to make room."""
ROOM_S = 0.01
"""Seconds until the next attempt, when one was closed: its descriptor is free a turn of the loop later."""
SAY_EVERY_S = 60.0
"""Seconds between two lines of the log about it."""
TROUBLE_S = 10.0
"""Seconds for which it is reported as degraded after the last failure."""

NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What fails without a descriptor or memory (accept(2))."""

_GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP
"""What poll(2) says of a connection whose client has left: it would get no answer."""

logger = logging.getLogger("killable.server")


class Acceptor:
    """Accepts the connections of one listening socket. Has the methods of `asyncio.Server` that uvicorn calls."""

    def __init__(
        self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol], make_room: Callable[[], bool],
        defer: Callable[[Callable[[], None]], bool] | None = None,
    ) -> None:  # fmt: skip
        """`make_room` closes a connection that rests, and returns False when there is none. `defer` returns True if
        connections have to wait, and calls what it was given when they may come.
        """
        self._defer = defer
        self._socket = sock
        self._protocol = protocol
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._waiting: RoundRobin[socket.socket] = RoundRobin()
        """Those that have not begun, by address; those that were closed meanwhile among them."""
        self._open: dict[int, socket.socket] = {}
        """Those of them that are open, by descriptor."""
        self._poll = select.poll()
        """Has those."""
        self._is_taken = False
        """Whether a connection has begun in this turn."""
        self._adopting: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._failed_at: float | None = None
        self._why = ""
        self._said_at: float | None = None
        self._unsaid = 0
        self._is_closed = False
        sock.setblocking(False)
        self._resume()

    @property
    def trouble(self) -> str:
        """Why connections have to wait; empty: they need not."""
        if self._failed_at is None or self._loop.time() > self._failed_at + TROUBLE_S:
            return ""
        return f"connections wait to be accepted: {self._why}"

    def close(self) -> None:
        """Accept no more."""
        if not self._is_closed:
            self._is_closed = True
            self._pause()
            for connection in self._open.values():
                connection.close()
            self._open.clear()

    async def wait_closed(self) -> None:
        """Return at once: who owns the connections waits for them."""

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    def _go_on(self) -> None:
        if not self._is_closed:
            self._resume()
            self._begin_next()

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _accept(self) -> None:
        if self._has_to_wait():
            return
        for _ in range(ACCEPTED_MAX):
            if len(self._open) >= WAITING_MAX and not self._drop_gone():
                break
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                break
            except (InterruptedError, ConnectionAbortedError):
                continue
            except OSError as error:
                self._on_failure(error)
                break
            connection.setblocking(False)
            self._open[connection.fileno()] = connection
            self._poll.register(connection, select.POLLRDHUP)
            # A Unix socket has no addresses.
            self._waiting.add(network_of(address[0]) if isinstance(address, tuple) else "", connection)
        self._begin_next()

    def _has_to_wait(self) -> bool:
        if self._defer is None or not self._defer(self._go_on):
            return False
        self._pause()
        return True

    def _drop_gone(self) -> bool:
        """Close those that wait and whose clients have left. Return whether there are any."""
        found = [descriptor for descriptor, event in self._poll.poll(0) if event & _GONE]
        for descriptor in found:
            self._taken(descriptor).close()
        return bool(found)

    def _taken(self, descriptor: int) -> socket.socket:
        self._poll.unregister(descriptor)
        return self._open.pop(descriptor)

    def _begin_next(self) -> None:
        """Have one of those that wait begin, if none has in this turn."""
        while self._open and not self._is_taken and not self._is_closed:
            connection = self._waiting.take()
            if connection.fileno() < 0:
                continue  # closed while it waited
            self._is_taken = True
            self._loop.call_soon(self._next_turn)
            task = self._loop.create_task(self._adopt(self._taken(connection.fileno())))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    def _next_turn(self) -> None:
        self._is_taken = False
        if self._open and not self._is_closed and not self._has_to_wait():
            self._begin_next()

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # its client has left already

    def _on_failure(self, error: OSError) -> None:
        """Pause: nothing but a descriptor that is closed can help."""
        self._pause()
        self._why = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
        now = self._failed_at = self._loop.time()
        has_room = error.errno in NO_ROOM and self._make_room()
        self._unsaid += 1
        if self._said_at is None or now >= self._said_at + SAY_EVERY_S:
            logger.warning("accept_paused", extra={"error": self._why, "attempts": self._unsaid})
            self._said_at, self._unsaid = now, 0
        self._retry = self._loop.call_later(ROOM_S if has_room else PAUSE_S, self._resume)
