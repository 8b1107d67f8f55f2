"""Connections from which so much is read and no more: a webhook's answer is its status, and a few fields.

Runs in: the webhooks' thread.

HTTP lets a server send any number of interim answers (`100 Continue`) before the final one. Each is parsed in Python,
in a thread of the server's process: as long as they come, nothing else in that process has the interpreter for itself.
What TLS itself sends (session tickets) is read by OpenSSL, without the interpreter, and is not counted here.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

ANSWER_BYTES_MAX = 32 << 10
"""Bytes that are read of an answer. The rest of one that is longer is not looked at, as nothing of its body is."""


class BoundedAnswers(httpcore.AnyIOBackend):
    """Connects as httpcore does; what is connected is bounded."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        return _Bounded(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection for one request."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = ANSWER_BYTES_MAX

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._left:
            raise httpcore.RemoteProtocolError(f"no answer in the first {ANSWER_BYTES_MAX} bytes that came")
        came = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(came)
        return came

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
