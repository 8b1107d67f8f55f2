"""Lets a person's command find out from the kernel which process is the server of an address.

Runs in: supervisor; any process of a person's.

A server's descriptors are hidden from its user (`supervisor/linux/server_protection`), so that the owner of a listening
socket cannot be looked up in /proc. The kernel tells the process that listens on a Unix socket to whoever connects
(unix(7), SO_PEERCRED); a server on a port listens on an abstract one, too, which it never reads.
"""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import urlsplit

from killable.api.client.addresses import unix_path

_BACKLOG = 64


def claim(address: str) -> socket.socket | None:
    """Listen on the abstract socket of an address. Return None where it needs none, or another server has it."""
    name = _name(address)
    if not name.startswith("\0"):
        return None
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(name)
        claimed.listen(_BACKLOG)
    except OSError:
        claimed.close()
        return None
    return claimed


def owner(address: str) -> int | None:
    """Return the pid of the process that listens at the address, if it belongs to this user; None if unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog
        try:
            probe.connect(_name(address))
            pid, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return pid if uid == os.getuid() else None


def _name(address: str) -> str:
    """Return the name of the Unix socket; an abstract one begins with a zero byte."""
    if (path := unix_path(address)) is not None:
        return os.path.realpath(path)
    split = urlsplit(address)
    return f"\0killable-serve-{split.port or (443 if split.scheme == 'https' else 80)}"
