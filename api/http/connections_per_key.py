"""What the application tells the server of a connection: that it has a key. What it refuses on a reserved one, and to a
key that has too many.

Runs in: api. Plain ASGI, inside the check of keys. Another server has no such connections in the scope.
"""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.api_keys import KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.auth import caller_of, is_operator
from killable.api.http.connection import CONNECTION, TOO_MANY, Connection
from killable.api.http.problems import problem
from killable.api.http.route_roles import CALLER, OPEN_PATHS, access_to


class ConnectionsPerKey:
    """Lets connections with a valid key go last, and keeps the reserved ones for operators (503 for others). Bounds the
    requests of one key, and with them its connections that are busy (503), so that others have some; its cancels get
    through.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None, settings: HttpSettings) -> None:
        """Without `connections_per_key_max`: half of all, where several share the server, else no bound."""
        self._app = app
        self._keys = keys
        self._per_key_max = settings.connections_per_key_max
        self._share_max = max(1, settings.connections_max // 2)
        self._of_keys: Counter[str] = Counter()
        """Requests that are being answered, by the name of their key; not those of operators."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection | None = scope.get(CONNECTION)
        if connection is not None:
            if connection.is_reserved and not (is_operator(scope) or scope["path"] in OPEN_PATHS):
                refusal = problem("too_many_connections", TOO_MANY, headers={"Connection": "close"})
                await refusal(scope, receive, send)
                return
            if CALLER in scope:
                connection.note_key()
        if self._keys is None or (caller := caller_of(scope)) is None or is_operator(scope):
            await self._app(scope, receive, send)
            return
        name, most = caller.name, self._per_key_max or (self._share_max if self._keys.are_shared else 0)
        if most and self._of_keys[name] >= most and access_to(scope["method"], scope["path"]).verb != "cancel":
            told = f"{most} requests of the key {name} are being answered (server.connections_per_key_max)"
            await problem("too_many_connections", told)(scope, receive, send)
            return
        self._of_keys[name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._of_keys[name] -= 1
            if not self._of_keys[name]:
                del self._of_keys[name]
