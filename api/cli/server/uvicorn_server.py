"""uvicorn's server with acceptors of our own, an event for when it listens, and without signal handlers.

Runs in: supervisor, in its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from killable.api.cli.server.acceptor import Acceptor
from killable.api.cli.server.idle_connections import KEEP_ALIVE_S
from killable.api.cli.server.listener import BACKLOG

_OF_ONE_REQUEST = ("Invalid HTTP request received.", "Unsupported upgrade request.", "No supported WebSocket library")
"""How uvicorn's warnings of them begin."""


def is_about_the_server(record: logging.LogRecord) -> bool:
    """Return whether a record of uvicorn's is about more than one request: anyone could fill a disk with those that are
    no HTTP, or ask for another protocol. Their clients are told.
    """
    return record.levelno != logging.WARNING or not str(record.msg).startswith(_OF_ONE_REQUEST)


class AcceptingServer(uvicorn.Server):
    """Serves sockets that are bound already. Its application has no lifespan."""

    def __init__(
        self,
        app: ASGIApp,
        protocol: type[asyncio.Protocol],
        make_room: Callable[[], bool],
        defer: Callable[[Callable[[], None]], bool] | None = None,
    ) -> None:
        """`make_room` and `defer` are those of an Acceptor."""
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # `trusted_proxies` has them
                timeout_keep_alive=KEEP_ALIVE_S,
                backlog=BACKLOG,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(is_about_the_server)
        self._make_room, self._defer = make_room, defer
        self._acceptors: list[Acceptor] = []
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, as uvicorn's does with `loop.create_server`."""
        self._acceptors = [Acceptor(sock, self._protocol, self._make_room, self._defer) for sock in sockets or ()]
        self.servers = cast("list[asyncio.base_events.Server]", self._acceptors)
        self.started = True
        self.listening.set()

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(config=self.config, server_state=self.server_state, app_state={})
        return protocol

    def trouble(self) -> str:
        """Return why connections have to wait; empty: they need not."""
        return next((acceptor.trouble for acceptor in self._acceptors if acceptor.trouble), "")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn's handlers would end the server before the jobs, and then raise the signal again."""
        yield
