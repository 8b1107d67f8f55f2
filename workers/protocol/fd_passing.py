"""Send and receive messages with descriptors over a SOCK_SEQPACKET socket (unix(7), SCM_RIGHTS).

Runs in: supervisor | guard | zygote; its bound, in workers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

MESSAGE_BYTES_MAX = 160 << 10
"""Below the kernel's default send buffer (net.core.wmem_default, 208 KiB), so that one message always fits."""

DESCRIPTORS_MAX = 16
"""The most descriptors of one message: a worker needs seven, the kernel takes 253 (unix(7))."""


class MessageError(Exception):
    """A message that is too large, truncated, or not JSON."""


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep message boundaries; both close on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message. The caller's descriptors stay open. Raise MessageError, BlockingIOError, OSError."""
    payload = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MessageError(f"a control message of {len(payload)} bytes is over {MESSAGE_BYTES_MAX}")
    socket.send_fds(sock, [payload], list(descriptors))


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its descriptors, which the caller closes; None at end-of-file.

    Raise BlockingIOError when no message is there, MessageError for one that cannot be decoded.
    """
    try:
        payload, descriptors, flags, _ = _receive_once(sock)
    except ConnectionResetError:
        # The peer closed the socket with unread messages (unix(7)). The kernel reports this once, before the messages
        # that the peer had sent.
        payload, descriptors, flags, _ = _receive_once(sock)
    if not payload:
        return None
    if flags & socket.MSG_TRUNC:
        raise MessageError("a control message was truncated")
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise MessageError("a control message is not JSON") from error
    return message, descriptors


def _receive_once(sock: socket.socket) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(sock, MESSAGE_BYTES_MAX + 1, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
