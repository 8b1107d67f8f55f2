"""What the application tells the server of a connection: that it has a key. What it refuses on a reserved one.

Runs in: api. Plain ASGI, inside the check of keys. Without such a connection in the scope (another server) it does
nothing.
"""

from __future__ import annotations

from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.access import CALLER, OPEN_PATHS
from killable.api.http.auth import is_operator
from killable.api.http.problems import problem

CONNECTION = "killable.connection"
"""Member of the scope with the request's Connection."""
TOO_MANY = "As many connections are open as may be (server.connections_max, server.connections_per_address_max)"


class Connection(Protocol):
    """A connection, as the application sees it."""

    is_reserved: bool
    """Whether only operators are answered on it."""

    @property
    def has_left(self) -> bool:
        """Whether its client has left."""

    def note_key(self) -> None: ...


class ConnectionUse:
    """Lets connections with a valid key go last, and keeps the reserved ones for operators (503 for others)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection | None = scope.get(CONNECTION)
        if connection is not None:
            if connection.is_reserved and not (is_operator(scope) or scope["path"] in OPEN_PATHS):
                refusal = problem("too_many_connections", TOO_MANY, headers={"Connection": "close"})
                await refusal(scope, receive, send)
                return
            if CALLER in scope:
                connection.note_key()
        await self._app(scope, receive, send)
