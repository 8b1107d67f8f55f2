"""The process of a server on this machine: verify that it is that server, and end it if it does not exit.

Runs in: any process of a person's (Linux).

A pid received over the network proves nothing. It is opened as a pidfd, then checked, and every signal is sent through
that pidfd: to the process that was checked, or to none.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.server import owner_socket
from killable.api.cli.server.server_title import TITLE
from killable.api.client.addresses import is_loopback, unix_path
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    import psutil


class Foreign(KillableError):
    """The pid does not belong to a killable server that listens at the address. Facts: `pid`, `url`."""

    code = "foreign_process"
    exit_code = CommandExit.OS


class RunningServer:
    """A server's process, by its pidfd. Close it, or use it as a context manager."""

    def __init__(self, pid: int, address: str) -> None:
        """Open and check the process. Raise Foreign if it is not the server of that address."""
        self.pid = pid
        self._address = address
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError, ValueError, AttributeError) as error:
            raise self._foreign(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        try:
            self._require_server()
        except BaseException:
            self.close()
            raise

    @classmethod
    def listening_at(cls, address: str) -> RunningServer:
        """Return the server that listens there, found by its socket. Raise Foreign if it is not a killable server."""
        import psutil  # here, because other verbs must run where it cannot be imported

        for process in psutil.process_iter():
            try:
                if _is_serve(process.cmdline()) and _listens(process, address):
                    return cls(process.pid, address)
            except psutil.Error:
                continue
        raise Foreign(f"no `killable serve` of this user listens at {address}", url=address)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process has ended; return whether it has."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))

    def send(self, number: signal.Signals) -> None:
        """Signal the process that was checked; do nothing if it has ended. Raise Foreign."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise self._foreign("it belongs to another user") from None

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _require_server(self) -> None:
        import psutil

        try:
            process = psutil.Process(self.pid)
            if not _is_serve(process.cmdline()):
                raise self._foreign(f"it is not `killable serve` but {process.name()!r}")
            if not _listens(process, self._address):
                raise self._foreign("it does not listen there")
        except psutil.AccessDenied:
            raise self._foreign("it belongs to another user") from None
        except psutil.Error:
            raise self._foreign("it has ended") from None

    def _foreign(self, why: str) -> Foreign:
        return Foreign(
            f"pid {self.pid} is not signalled: {self._address} reports it as its own, but {why}",
            pid=self.pid, url=self._address,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_on_this_machine(address: str) -> bool:
    """Return whether an address can only be on this machine."""
    return unix_path(address) is not None or is_loopback(urlsplit(address).hostname or "")


def _is_serve(words: list[str]) -> bool:
    """Return whether it is `killable serve`, `python -m killable.api.cli serve`, or the title of a server."""
    names = {Path(word).name for word in words} | set(words)
    return "serve" in words and bool(names & {"killable", "killable.api.cli", TITLE})


def _listens(process: psutil.Process, address: str) -> bool:
    """Return whether the process listens at the address. Raise psutil.Error."""
    import psutil

    try:
        return _has_socket(process, address)
    except psutil.AccessDenied:
        if process.uids().real != os.getuid():
            raise
        return owner_socket.owner(address) == process.pid  # a server hides its descriptors from its own user, too


def _has_socket(process: psutil.Process, address: str) -> bool:
    import psutil

    if (named := unix_path(address)) is not None:
        path = os.path.realpath(named)
        connections = process.net_connections("unix")
        return any(isinstance(c.laddr, str) and c.laddr and os.path.realpath(c.laddr) == path for c in connections)
    split = urlsplit(address)
    port = split.port or (443 if split.scheme == "https" else 80)
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in process.net_connections("inet")
    )
