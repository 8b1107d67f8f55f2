"""Send and receive messages with descriptors over a SOCK_SEQPACKET socket (unix(7), SCM_RIGHTS).

Runs in: supervisor | guard | zygote; its bound, in workers.
"""

from __future__ import annotations

# `socket` makes an enum of each number that it has, and imports selectors: 2 ms of the start of a guard.
import _socket
import json
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

MESSAGE_BYTES_MAX = 160 << 10
"""Below the kernel's default send buffer (net.core.wmem_default, 208 KiB), so that one message always fits."""

DESCRIPTORS_MAX = 16
"""The most descriptors of one message: a worker needs seven, the kernel takes 253 (unix(7))."""


class MessageError(Exception):
    """A message that is too large, truncated, or not JSON."""


DESCRIPTOR_BYTES = struct.calcsize("i")


def room_for(count: int) -> int:
    """Return how many bytes of ancillary data so many descriptors take at most (cmsg(3))."""
    return _socket.CMSG_SPACE(count * DESCRIPTOR_BYTES)


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that passes descriptors."""
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]


def passed(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came as ancillary data."""
    found: list[int] = []
    for level, kind, packed in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found += struct.unpack_from(f"{len(packed) // DESCRIPTOR_BYTES}i", packed)
    return found


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep message boundaries; both close on exec."""
    import socket

    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: _socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message. The caller's descriptors stay open. Raise MessageError, BlockingIOError, OSError."""
    payload = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MessageError(f"a control message of {len(payload)} bytes is over {MESSAGE_BYTES_MAX}")
    sock.sendmsg([payload], rights(descriptors))


def receive(sock: _socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its descriptors, which the caller closes; None at end-of-file.

    Raise BlockingIOError when no message is there, MessageError for one that cannot be decoded.
    """
    try:
        payload, descriptors, flags = _receive_once(sock)
    except ConnectionResetError:
        # The peer closed the socket with unread messages (unix(7)). The kernel reports this once, before the messages
        # that the peer had sent.
        payload, descriptors, flags = _receive_once(sock)
    if not payload:
        return None
    if flags & _socket.MSG_TRUNC:
        raise MessageError("a control message was truncated")
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise MessageError("a control message is not JSON") from error
    return message, descriptors


def _receive_once(sock: _socket.socket) -> tuple[bytes, list[int], int]:
    payload, ancillary, flags, _ = sock.recvmsg(
        MESSAGE_BYTES_MAX + 1, room_for(DESCRIPTORS_MAX), _socket.MSG_CMSG_CLOEXEC
    )
    return payload, passed(ancillary), flags
