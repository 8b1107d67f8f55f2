"""Tell the service manager how the server is: ready, reloading, stopping, alive. This is sd_notify(3) of systemd.

Runs in: supervisor.

A message is one datagram to the Unix socket in NOTIFY_SOCKET. Nothing is sent, and nothing costs, without that
variable. Sending never blocks the event loop: what the manager has no room for is sent later.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, MutableMapping
from typing import Self

logger = logging.getLogger("killable.server")

SOCKET, PERIOD, PERIOD_OF = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
RETRY_S = 0.1
"""Pause before a message is sent again for which the manager's queue had no room."""
EXTENSION_S, EXTEND_EVERY_S = 20.0, 5.0
"""By how much the manager's time for a stop is extended, and how often, while the event loop turns."""
UNSENT_MAX = 100
"""Messages that wait at most; then the oldest is dropped."""


class ServiceManager:
    """The manager of this process. Without one, its methods do nothing."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`watchdog_s`: after so many seconds without `WATCHDOG=1` the service is restarted; None: it is not."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._unsent: deque[str] = deque(maxlen=UNSENT_MAX)
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._extension: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self._is_ready = False
        self.crash_output = 2
        """The descriptor for the stacks of threads when the manager ends a process that stands still."""

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Return the manager that the environment names, and take its variables out: they are for this process only."""
        address, period, pid = (environ.pop(name, "") for name in (SOCKET, PERIOD, PERIOD_OF))
        if not address.startswith(("/", "@")):
            if address:
                logger.warning("manager_unknown", extra={"detail": f"{SOCKET}={address}: it is told nothing"})
            return cls()
        is_ours = not pid or pid == str(os.getpid())
        watched = is_ours and period.isascii() and period.isdigit() and int(period) > 0
        return cls(address, int(period) / 1e6 if watched else None)

    def __enter__(self) -> Self:
        """Begin to send, with a sign of life at each half of the manager's period, by a timer of the running loop.

        If the loop stands still nothing is sent. The manager then ends the process, by SIGABRT if it is systemd, and
        the stacks of its threads go to stderr. Raise OSError if no descriptor is left.
        """
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if self._watchdog_s is not None:
            faulthandler.enable(self.crash_output)
            self._alive(self._watchdog_s / 2)
        return self

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    def failed(self, text: str) -> None:
        """Set the line to why there is no server; also before the manager is told anything else, or after the end."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as once:
                once.setblocking(False)
                once.sendto(f"STATUS={' '.join(text.split())}".encode(), self._address)

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._tell(f"STATUS={' '.join(text.split())}")

    def ready(self, text: str) -> None:
        """Say that the start is over."""
        self._is_ready = True
        self._tell(f"READY=1\nSTATUS={' '.join(text.split())}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the body is a reload. Before the start is over nothing is said: the end of a reload is READY=1."""
        is_told = self._is_ready
        if is_told:
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if is_told:
                self._tell("READY=1")

    def extend(self) -> None:
        """Ask for more time for a stop, again and again, to the end: `drain_s` and the graces of jobs bound it."""
        if self._extension is not None:
            self._extension.cancel()
        self._tell(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}")
        if self._socket is not None:
            self._extension = asyncio.get_running_loop().call_later(EXTEND_EVERY_S, self.extend)

    def stopping(self, text: str) -> None:
        """Say that the end has begun: the manager's time for a stop runs from here, and is extended."""
        self._tell(f"STOPPING=1\nSTATUS={' '.join(text.split())}")
        self.extend()

    def __exit__(self, *exc: object) -> None:
        if self._socket is not None:
            self._send_waiting()
            self._socket.close()
            self._socket = None
        for timer in (self._timer, self._retry, self._extension):
            if timer is not None:
                timer.cancel()

    def _alive(self, period_s: float) -> None:
        self._tell("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(period_s, self._alive, period_s)

    def _tell(self, message: str) -> None:
        if self._socket is not None:
            self._unsent.append(message)
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits, in order. Without room for it, try again in a moment."""
        assert self._socket is not None
        while self._unsent:
            try:
                self._socket.sendto(self._unsent[0].encode(), self._address)
            except BlockingIOError:
                if self._retry is None:
                    self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._send_again)
                return
            except OSError as error:
                logger.warning("manager_not_told", extra={"path": self._address, "detail": error.strerror})
                self._unsent.clear()
                return
            self._unsent.popleft()

    def _send_again(self) -> None:
        self._retry = None
        if self._socket is not None:
            self._send_waiting()
