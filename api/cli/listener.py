"""The socket that `serve` listens on: bound before anything is started, so that a port in use is the first thing said.

Runs in: supervisor.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from killable.api.access import is_loopback
from killable.api.cli.exits import Exit
from killable.supervisor.config import ConfigError, Fault, ServerSettings
from killable.workers.errors import KillableError


class CannotServe(KillableError):
    """The machine does not allow it: exit code 71."""

    code = "cannot_serve"
    exit_code = Exit.OS

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code or self.code)

    @property
    def retryable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket and how clients name it. Leaving it closes the socket and removes its file."""

    socket: socket.socket
    url: str
    path: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()
        if self.path:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # someone was tidier than we are


def listen(server: ServerSettings) -> Listener:
    """Bind, and nothing more. Raise ConfigError for an address that is not allowed, CannotServe for the rest."""
    if server.uds:
        return _bind_path(os.path.abspath(server.uds))
    if not is_loopback(server.host.lower()):
        expected = (
            "expected 127.0.0.1, ::1 or localhost: any other needs an API key, which this version does not know yet"
        )
        raise ConfigError.of([Fault("server.host", expected, f'"{server.host}"')])
    sock: socket.socket | None = None
    try:
        addresses = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise cannot_listen(f"port {server.port} of {server.host}", error) from error
    host = f"[{server.host}]" if ":" in server.host else server.host
    return Listener(sock, f"http://{host}:{sock.getsockname()[1]}")


def cannot_listen(place: str, error: OSError) -> CannotServe:
    if error.errno == errno.EADDRINUSE:
        return CannotServe(f"{place} is in use, perhaps by another killable serve (--port takes another, 0 a free one)")
    return CannotServe(f"cannot listen on {place}: {(error.strerror or str(error)).lower()}")


def _bind_path(path: str) -> Listener:
    """Bind a Unix socket that only this user can reach; take over the file of a server that is gone."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # bind(2) makes the file: a chmod afterwards would leave a moment open to everyone
    try:
        if _is_left_over(path):
            os.unlink(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise cannot_listen(path, error) from error
    finally:
        os.umask(mask)
    return Listener(sock, f"unix:{path}", path)


def _is_left_over(path: str) -> bool:
    """Tell whether this is a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
