"""The listening socket of `serve`. It is bound before anything is started, so that a port in use is reported first.

Runs in: supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from killable.api.cli.display.exit_codes import CommandExit
from killable.supervisor.configuration.config import ConfigError, ConfigFault
from killable.supervisor.http_server_settings import ServerSettings
from killable.workers.errors import KillableError

PATH_BYTES_MAX = 107
"""unix(7): sun_path has 108 bytes with the terminating zero."""

BACKLOG = 1024
"""Connections that wait to be accepted, also while the pools warm up."""


class CannotServe(KillableError):
    """The machine does not allow it. Exit code 71."""

    code = "cannot_serve"
    exit_code = CommandExit.OS


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and its URL. Exiting the context closes the socket and removes its file."""

    socket: socket.socket
    url: str
    path: str = ""
    made: tuple[int, int] = (0, 0)
    """Device and inode of its file: a file with others belongs to the next server or another program."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):  # the file has been removed already
                if _identity(self.path) == self.made and _is_stale_socket(self.path):  # inodes are reused
                    os.unlink(self.path)


def listen(server: ServerSettings, source: str = "") -> Listener:
    """Bind and listen; fails if another server listens there. `source` is where the address was configured.

    Raise ConfigError for an address that this machine does not have, CannotServe for other errors.
    """
    if server.uds:
        return _bind_path(os.path.abspath(server.uds))
    sock: socket.socket | None = None
    try:
        addresses = socket.getaddrinfo(
            server.host.strip("[]"), server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        raise _no_address(server, error, source) from error
    bound = sock.getsockname()
    host = server.host.strip("[]")
    host = f"[{host}]" if ":" in host else host
    return Listener(sock, f"http://{host}:{bound[1]}")


def listen_for_operators(server: ServerSettings) -> Listener | None:
    """Bind and listen on the operators' socket, if there is to be one. Raise CannotServe."""
    return _bind_path(os.path.abspath(server.operator_socket)) if server.operator_socket else None


def cannot_listen(place: str, error: OSError) -> CannotServe:
    """Return the error for a socket that cannot be opened, with what to do."""
    why = (error.strerror or str(error)).lower()
    if place.startswith("/"):
        folder = os.path.dirname(place)
        match error.errno:
            case errno.EADDRINUSE:
                return CannotServe(
                    f"{place} is in use, perhaps by another `killable serve`: choose another path with --uds"
                )
            case errno.ENOENT | errno.ENOTDIR:
                return CannotServe(f"cannot listen on {place}: there is no directory {folder}")
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return CannotServe(f"cannot listen on {place}: this user may not write to {folder} ({why})")
    elif error.errno == errno.EADDRINUSE:
        return CannotServe(
            f"{place} is in use, perhaps by another `killable serve`: choose another with --port, 0 for any"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        return CannotServe(
            f"this user may not listen on {place} ({why}): ports below 1024 need CAP_NET_BIND_SERVICE; use a higher "
            "port, with a proxy in front"
        )
    return CannotServe(f"cannot listen on {place}: {why}")


def _no_address(server: ServerSettings, error: Exception, source: str) -> KillableError:
    if isinstance(error, (UnicodeError, socket.gaierror)):
        why = getattr(error, "strerror", None) or "not a host name"
        fault = ConfigFault(
            "server.host", "expected an address of this machine", f'"{server.host}": {why.lower()}', source
        )
        return ConfigError.of([fault])
    assert isinstance(error, OSError)
    if error.errno == errno.EADDRNOTAVAIL:
        expected = "expected an address of this machine (`ip address` lists them; 0.0.0.0 means all of them)"
        return ConfigError.of([ConfigFault("server.host", expected, f'"{server.host}"', source)])
    return cannot_listen(f"port {server.port} of {server.host}", error)


def _bind_path(path: str) -> Listener:
    """Bind a Unix socket that only this user can connect to; replace the file of a server that is gone."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise CannotServe(f"cannot listen on {path}: the path of a Unix socket may have at most {PATH_BYTES_MAX} bytes")
    if _is_not_a_socket(path):
        raise CannotServe(f"cannot listen on {path}: a file that is not a socket exists there, and is not replaced")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # bind(2) creates the file: with a chmod afterwards, any user could connect in between
    try:
        if _is_stale_socket(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)  # at once: a socket that is not listening would be taken for a stale one
        made = _identity(path)
    except OSError as error:
        sock.close()
        raise cannot_listen(path, error) from error
    finally:
        os.umask(mask)
    return Listener(sock, f"unix:{path}", path, made)


def _identity(path: str) -> tuple[int, int]:
    """Return the device and inode of the file. Raise OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _is_not_a_socket(path: str) -> bool:
    try:
        return not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False  # bind(2) reports the error, if there is one


def _is_stale_socket(path: str) -> bool:
    """Return whether this is a socket that no process listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog means a busy server, not a stale socket
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
