"""The sockets between a head and its nodes, and how soon the kernel gives one up on which nothing arrives.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping

SILENT_S = 2
"""So long what was sent may be without a word from the other machine. After a pause of the network the kernel would
send it again later and later; a new connection is there at once.
"""
_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


async def connect(host: str, port: int) -> socket.socket:
    """Return a connection to an address. Raise OSError."""
    sock = _socket_for(host)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def listen(host: str) -> socket.socket:
    """Return a socket that listens on an address of this machine; what is accepted has its options. Raise OSError."""
    sock = _socket_for(host)
    try:
        sock.bind((host, 0))
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_for(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    for option in _OPTIONS:
        sock.setsockopt(*option)
    return sock


def tls(environ: Mapping[str, str] = os.environ, *, listens: bool) -> ssl.SSLContext | None:
    """Return how Ray encrypts its own connections, by its variables; None: it does not. Both sides show a certificate.
    Raise OSError: a file is missing, or is none; ValueError: a variable is.
    """
    if environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"
    authority, certificate, key = (environ.get(name, "") for name in names)
    if not (authority and certificate and key):
        raise ValueError(f"with RAY_USE_TLS, Ray needs {', '.join(names)}")
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH if listens else ssl.Purpose.SERVER_AUTH, cafile=authority
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    return context
