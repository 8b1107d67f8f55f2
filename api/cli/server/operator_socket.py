"""The operators' Unix socket: whoever may connect to it operates the server, without a key, beside all other clients.

Runs in: supervisor, in its event loop. It has connections of its own: those of the address for everyone, however many,
are no reason to wait. The kernel says who connects (unix(7), SO_PEERCRED): root, and the user that the server runs as.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from fastapi import FastAPI

from killable.api.cli.server.bounded_protocol import BoundedProtocol, protocol_of
from killable.api.cli.server.listener import Listener
from killable.api.cli.server.uvicorn_server import AcceptingServer
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.route_roles import CALLER, SOCKET_USER, VIA

logger = logging.getLogger("killable.server")

CONNECTIONS_MAX = 64
"""More than operators and their tools have; each is a descriptor that jobs could need."""
CLOSES_S = 1.0


class OperatorServer:
    """The same application on the operators' socket."""

    def __init__(self, app: FastAPI, settings: HttpSettings, listener: Listener, make_room: Callable[[], bool]) -> None:
        """`make_room` closes a connection of another client when there is no descriptor for an operator's."""
        bounded = cast("partial[BoundedProtocol]", protocol_of(replace(settings, connections_max=CONNECTIONS_MAX)))
        self._listener = listener
        protocol = cast("type[asyncio.Protocol]", partial(OperatorProtocol, **bounded.keywords | {"turns": None}))
        self._server = AcceptingServer(app, protocol, make_room)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return once connections are accepted."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener.socket]))
        waiting = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._serving.done():
            await self._serving

    async def close(self) -> None:
        """Accept no more connections, and drop those that are left after a second."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=CLOSES_S)
        self._server.force_exit = True
        await asyncio.wait({self._serving}, timeout=CLOSES_S)
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving


class OperatorProtocol(BoundedProtocol):
    """A connection of an operator; of anyone else it is closed."""

    __slots__ = ("_operator",)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = peer_of(transport.get_extra_info("socket"))
        self._operator: ApiKey | None = None
        if uid in (0, os.geteuid()):
            # No key has a name like this, so none sees the operators' jobs as its own.
            self._operator = ApiKey(f"{SOCKET_USER}{uid}", "operate", visibility="all")
        else:
            logger.warning("operator_refused", extra={"uid": uid})
        super().connection_made(transport)
        if self._operator is None:
            transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._operator is not None:
            cast("dict[str, Any]", self.scope).update({CALLER: self._operator, VIA: "socket"})

    def data_received(self, data: bytes) -> None:
        if self._operator is not None:
            super().data_received(data)


def peer_of(sock: Any) -> int:
    """Return the user who connected, as the kernel knows it: at the time of connect(2)."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
