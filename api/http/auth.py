"""Authentication: a request's API key or stream ticket is checked before any route. Routes check the role.

Runs in: api. Plain ASGI, like the checks in `host_and_origin`.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.api_keys import ApiKey, KeyRing, Tickets
from killable.api.http.problems import problem
from killable.workers.errors import Refused

OPEN_PATHS = frozenset({"/livez", "/health", "/readyz"})
"""Need no key: load balancers and orchestrators have none."""
STREAM_PATH = re.compile(r"/v1/jobs/([^/]+)/stream")
CALLER = "killable.caller"
"""Member of the scope with the request's ApiKey; absent if the server has no keys or the request has only a ticket."""
TENANT = "default"
"""Tenant of the jobs of a server without keys."""


class KeyCheck:
    """Refuse a request without a valid key (401). A stream also accepts its ticket."""

    def __init__(self, app: ASGIApp, keys: KeyRing, tickets: Tickets) -> None:
        self._app = app
        self._keys = keys
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist("authorization")
        caller = self._caller(given)
        if caller is not None:
            await self._app({**scope, CALLER: caller}, receive, send)
            return
        if scope["path"] in OPEN_PATHS or self._has_ticket(scope):
            await self._app(scope, receive, send)
            return
        if given:
            detail, challenge = "The key in Authorization is not valid", 'Bearer error="invalid_token"'
        else:
            detail, challenge = "This server needs an API key: Authorization: Bearer KEY", "Bearer"
        await problem("unauthorized", detail, headers={"WWW-Authenticate": challenge})(scope, receive, send)

    def _caller(self, headers: list[str]) -> ApiKey | None:
        if len(headers) != 1:
            return None
        scheme, _, key = headers[0].partition(" ")
        return self._keys.find(key.strip().encode("latin-1")) if scheme.lower() == "bearer" else None

    def _has_ticket(self, scope: Scope) -> bool:
        match = STREAM_PATH.fullmatch(scope["path"])
        if match is None or scope["method"] not in ("GET", "HEAD") or not scope["query_string"]:
            return False
        tickets = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [])
        return len(tickets) == 1 and self._tickets.is_valid(match[1], tickets[0])


def tenant_of(request: Request) -> str:
    """Return the tenant of a submitted job: the name of the request's key."""
    return tenant_of_scope(request.scope)


def tenant_of_scope(scope: Scope) -> str:
    """Return the same before there is a Request."""
    caller: ApiKey | None = scope.get(CALLER)
    return TENANT if caller is None else caller.name


def is_operator(scope: Scope) -> bool:
    """Return whether the request has an operator's key; a server without keys has no operators."""
    caller: ApiKey | None = scope.get(CALLER)
    return caller is not None and caller.role == "operate"


async def _operator(request: Request) -> None:
    caller: ApiKey | None = request.scope.get(CALLER)
    if caller is not None and caller.role != "operate":
        raise Refused("This needs a key with the role operate; the role of this key is submit", code="forbidden")


OPERATOR = Depends(_operator)
"""Dependency of a route that only an operator may call."""
