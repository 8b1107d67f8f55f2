"""The way to journald: its socket, and whether stderr is its own.

Runs in: supervisor, in the log's thread. Behind `ports`. `telemetry/journald` makes what is sent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket

SOCKET = "/run/systemd/journal/socket"


def is_journal(stream: str, descriptor: int) -> bool:
    """Return whether the descriptor is the journal's that `stream`, the value of JOURNAL_STREAM, names."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return bool(stream) and stream == f"{found.st_dev}:{found.st_ino}"


class JournalSocket:
    """The way to journald."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, data: bytes) -> None:
        """Send a record. Blocks while journald has no room. Raise OSError: it is not there."""
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        """Send one that does not fit in a datagram as a sealed file in memory."""
        descriptor = os.memfd_create("killable-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", buffering=0, closefd=False) as file:
                file.write(data)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._socket.close()


_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""journald takes no file that may still change."""
