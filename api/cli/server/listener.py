"""The socket that `serve` listens on: bound before anything is started, so that a port in use is the first thing said.

Runs in: supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from killable.api.cli.display.errors import CommandExit
from killable.supervisor.configuration.config import ConfigError, ConfigFault
from killable.supervisor.settings import ServerSettings
from killable.workers.errors import KillableError

PATH_BYTES_MAX = 107
"""unix(7): sun_path has 108, with a zero at the end."""

DESCRIPTORS = 1 << 16
BACKLOG = 128
"""Connections that wait until the server accepts them: while its pools get warm, too. asyncio accepts so many in one
turn, and logs each one for which there is no descriptor.
"""


class CannotServe(KillableError):
    """The machine does not allow it: exit code 71."""

    code = "cannot_serve"
    exit_code = CommandExit.OS


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and how clients name it. Leaving it closes the socket and removes its file."""

    socket: socket.socket
    url: str
    path: str = ""
    made: tuple[int, int] = (0, 0)
    """Device and number of the file there: another one is the next server's, or somebody else's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):  # someone was tidier than we are
                if _identity(self.path) == self.made and _is_left_over(self.path):  # numbers are used again
                    os.unlink(self.path)


def take_descriptors() -> None:
    """Raise the limit of open files as far as this user may, 65536 at most (setrlimit(2)).

    A stream takes one, a worker seven; the usual 1024 are fewer than `server.connections_max`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(server: ServerSettings, source: str = "") -> Listener:
    """Bind and listen: a second server is refused. Raise ConfigError for an address that is none of ours, CannotServe
    for the rest.

    `source` is who wrote the address.
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


def cannot_listen(place: str, error: OSError) -> CannotServe:
    """Say why a socket cannot be had, and what to do."""
    why = (error.strerror or str(error)).lower()
    if place.startswith("/"):
        folder = os.path.dirname(place)
        match error.errno:
            case errno.EADDRINUSE:
                return CannotServe(f"{place} is in use, perhaps by another killable serve (--uds takes another path)")
            case errno.ENOENT | errno.ENOTDIR:
                return CannotServe(f"cannot listen on {place}: there is no directory {folder}")
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return CannotServe(f"cannot listen on {place}: this user may not write in {folder} ({why})")
    elif error.errno == errno.EADDRINUSE:
        return CannotServe(f"{place} is in use, perhaps by another killable serve (--port takes another, 0 a free one)")
    elif error.errno in (errno.EACCES, errno.EPERM):
        return CannotServe(
            f"{place} is not for this user ({why}): ports below 1024 need CAP_NET_BIND_SERVICE; take a higher one, and "
            "a proxy in front"
        )
    return CannotServe(f"cannot listen on {place}: {why}")


def _no_address(server: ServerSettings, error: Exception, source: str) -> KillableError:
    if isinstance(error, (UnicodeError, socket.gaierror)):
        why = getattr(error, "strerror", None) or "no host name"
        fault = ConfigFault(
            "server.host", "expected an address of this machine", f'"{server.host}": {why.lower()}', source
        )
        return ConfigError.of([fault])
    assert isinstance(error, OSError)
    if error.errno == errno.EADDRNOTAVAIL:
        expected = "expected an address of this machine (`ip address` lists them; 0.0.0.0 is all of them)"
        return ConfigError.of([ConfigFault("server.host", expected, f'"{server.host}"', source)])
    return cannot_listen(f"port {server.port} of {server.host}", error)


def _bind_path(path: str) -> Listener:
    """Bind a Unix socket that only this user can reach; take over the file of a server that is gone."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise CannotServe(f"cannot listen on {path}: the path of a Unix socket has at most {PATH_BYTES_MAX} bytes")
    if _is_something_else(path):
        raise CannotServe(f"cannot listen on {path}: there is something else, no socket; it is left alone")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # bind(2) makes the file: a chmod afterwards would leave a moment open to everyone
    try:
        if _is_left_over(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)  # at once: a file on which nobody listens is taken for a left one
        made = _identity(path)
    except OSError as error:
        sock.close()
        raise cannot_listen(path, error) from error
    finally:
        os.umask(mask)
    return Listener(sock, f"unix:{path}", path, made)


def _identity(path: str) -> tuple[int, int]:
    """Return the device and number of what stands there. Raise OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _is_something_else(path: str) -> bool:
    try:
        return not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False  # bind(2) says what is wrong with it, if anything is


def _is_left_over(path: str) -> bool:
    """Tell whether this is a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one whose backlog is full is busy, and there
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
