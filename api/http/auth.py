"""Authentication and roles: a request's API key or stream ticket is checked before any route, and before its body.

Runs in: api. Plain ASGI, like the checks in `host_and_origin`. `route_roles` has what each route needs.
"""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import parse_qs

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.api_keys import ApiKey, KeyRing
from killable.api.http.audited_requests import act_of
from killable.api.http.connection import CONNECTION, Connection
from killable.api.http.failed_keys import WAITING_MAX, FailedKeys
from killable.api.http.own_jobs import WHOLE_SERVER
from killable.api.http.problems import problem
from killable.api.http.route_roles import CALLER, LIVE_STREAMS, VIA, Access, access_to, includes
from killable.api.http.stream_tickets import Reader, Tickets
from killable.supervisor.models import DEFAULT_TENANT

STREAM_PATH = re.compile(r"/v1/jobs/([^/]+)/stream")
TICKET = "killable.ticket"
"""Member of the scope with the Reader that the request's ticket was issued to; absent with a key."""


class KeyCheck:
    """Refuse a request without a valid key (401) or with one that may not do this (403). A stream takes a ticket."""

    def __init__(self, app: ASGIApp, keys: KeyRing, tickets: Tickets, failed: FailedKeys) -> None:
        self._app = app
        self._keys = keys
        self._tickets = tickets
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = access_to(scope["method"], scope["path"])
        given = _keys_in(scope)
        caller: ApiKey | None = scope.get(CALLER) or presented_key(scope, self._keys)
        has_expired = caller is not None and caller.has_expired(time.time())
        if caller is not None and not has_expired:
            act_of(scope).caller, act_of(scope).via = caller, scope.get(VIA, "key")
            forbidden = _forbidden(caller, access)
            if forbidden:
                await problem("forbidden", forbidden)(scope, receive, send)
            else:
                await self._app({**scope, CALLER: caller}, receive, send)
        elif access.role is None:
            await self._app(scope, receive, send)
        elif key := self._live_caller(scope):
            act_of(scope).caller, act_of(scope).via = key, "ticket"
            await self._app({**scope, CALLER: key}, receive, send)
        elif reader := self._ticket_of(scope):
            act_of(scope).via = "ticket"
            await self._app({**scope, TICKET: reader}, receive, send)
        else:
            await self._refuse(given, caller if has_expired else None, scope, receive, send)

    def _ticket_of(self, scope: Scope) -> Reader | None:
        match = STREAM_PATH.fullmatch(scope["path"])
        ticket = None if match is None else _ticket_in(scope)
        return None if match is None or ticket is None else self._tickets.reader(match[1], ticket)

    def _live_caller(self, scope: Scope) -> ApiKey | None:
        ticket = _ticket_in(scope) if scope["path"] in LIVE_STREAMS else None
        return None if ticket is None else self._tickets.live_caller(ticket, self._keys, time.time())

    async def _refuse(
        self, given: list[str], expired: ApiKey | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"' if given else "Bearer"}
        if expired is not None:
            detail = f"The key {expired.name} expired at {expired.expires}"
        elif given:
            detail = "The key in Authorization or X-Api-Key is not valid"
        else:
            detail = "This server needs an API key: Authorization: Bearer KEY"
        address = (scope.get("client") or ("",))[0]
        delay_s = self._failed.note(address, asyncio.get_running_loop().time())
        act_of(scope).caller = expired
        connection: Connection | None = scope.get(CONNECTION)
        if delay_s and self._failed.waiting < WAITING_MAX and not (connection is not None and connection.is_reserved):
            self._failed.waiting += 1
            if connection is not None:
                connection.note_refused()
            try:
                async with asyncio.timeout(delay_s):
                    await _until_gone(receive)
                return
            except TimeoutError:
                pass
            finally:
                self._failed.waiting -= 1
        elif delay_s:
            headers["Connection"] = "close"
        await problem("unauthorized", detail, headers=headers)(scope, receive, send)


def _ticket_in(scope: Scope) -> str | None:
    """Return the ticket in a request that reads; None: it has none, or several."""
    if scope["method"] not in ("GET", "HEAD") or not scope["query_string"]:
        return None
    tickets = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [])
    return tickets[0] if len(tickets) == 1 else None


def _keys_in(scope: Scope) -> list[str]:
    """Return what a request presents as keys, each after the name of its scheme."""
    headers = Headers(scope=scope)
    return headers.getlist("authorization") + [f"Bearer {key}" for key in headers.getlist("x-api-key")]


def presented_key(scope: Scope, keys: KeyRing) -> ApiKey | None:
    """Return the key that a request presents, which may have expired; None: it has none, or one that is not valid."""
    given = _keys_in(scope)
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    return keys.find(key.strip().encode("latin-1")) if scheme.lower() == "bearer" else None


async def _until_gone(receive: Receive) -> None:
    """Wait until the client leaves; if it sends a body, for ever: that is not read."""
    while (message := await receive())["type"] == "http.request":
        if message.get("more_body"):
            await asyncio.Event().wait()


def _forbidden(caller: ApiKey, access: Access) -> str:
    """Return why a key may not do this, or ""."""
    if access.role is not None and not includes(caller.role, access.role):
        return f"This needs a key with the role {access.role}; the role of this key is {caller.role}"
    return WHOLE_SERVER if access.whole_server and caller.visibility == "own" else ""


def caller_of(scope: Scope) -> ApiKey | None:
    """Return the request's key; None: the server has none, or the request has only a ticket."""
    caller: ApiKey | None = scope.get(CALLER)
    return caller


def tenant_seen_by(request: Request) -> str | None:
    """Return the tenant whose jobs and files alone the request's key may see; None: it may see those of all."""
    caller = caller_of(request.scope)
    return caller.name if caller is not None and caller.visibility == "own" else None


def key_name_of(request: Request) -> str:
    """Return the name of the request's key, or ""."""
    caller = caller_of(request.scope)
    return "" if caller is None else caller.name


def tenant_of(request: Request) -> str:
    """Return the tenant of a submitted job: the name of the request's key."""
    return tenant_of_scope(request.scope)


def tenant_of_scope(scope: Scope) -> str:
    """Return the same before there is a Request."""
    caller = caller_of(scope)
    return DEFAULT_TENANT if caller is None else caller.name


def is_operator(scope: Scope) -> bool:
    """Return whether the request has an operator's key; a server without keys has no operators."""
    caller = caller_of(scope)
    return caller is not None and caller.role == "operate"
