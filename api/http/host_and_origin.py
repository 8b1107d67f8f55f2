"""Checks of Host, Origin, content type and body size, made before any route.

Runs in: api.

Without them, any web page that a developer visits could submit and kill jobs, by DNS rebinding or by a form post.
They are plain ASGI, because Starlette's BaseHTTPMiddleware hides the disconnect of a client.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.problems import problem
from killable.api.http.settings import HttpSettings

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.IGNORECASE)
"""RFC 9110 section 7.2: uri-host [":" port]. A user part does not match; a URL parser would drop it silently."""

BODY_BYTES_PER_S = 16 << 10
"""Bytes of a body that extend its deadline by 1 s: slow lines (a telephone's) pass, clients that hold a slot do not."""


class HostAndOriginCheck:
    """Refuse a foreign Host (421) and a foreign Origin (403)."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._hosts = frozenset(host.strip("[]").lower() for host in (settings.host, *settings.allowed_hosts))
        self._origins = frozenset(settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_allowed_host(hosts[0]):
            answer = problem("misdirected", "The Host header names a host that is not allowed (server.allowed_hosts)")
        elif any(not self._may_call(origin.lower(), hosts[0].lower()) for origin in origins):
            answer = problem("forbidden", "Pages of this Origin may not call this server (server.cors_origins)")
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)

    def _is_allowed_host(self, header: str) -> bool:
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        return name in self._hosts or is_loopback(name)

    def _may_call(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")


def is_loopback(name: str) -> bool:
    """Return whether a host name can only mean this machine (RFC 6761 section 6.3; 127.0.0.0/8; ::1)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class BodyCheck:
    """Refuse a body that is not JSON (415), too large with or without Content-Length (413), or too slow (408)."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._bytes_max = settings.body_bytes_max
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        length = headers.get("content-length", "0")
        if scope["type"] != "http" or (length == "0" and "transfer-encoding" not in headers):
            await self._app(scope, receive, send)
        elif headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await problem("unsupported_media_type", "A body must be application/json")(scope, receive, send)
        elif int(length) > self._bytes_max:
            await problem("too_large", self._detail)(scope, receive, send)
        else:
            await self._app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        """Return a `receive` that raises HTTPException, the only error that FastAPI passes on, at the body's bounds."""
        seen = 0
        is_whole = False
        clock = asyncio.get_running_loop().time
        start = clock()

        async def bounded() -> Message:
            nonlocal seen, is_whole
            if is_whole:
                return await receive()  # waits for the client's disconnect, which has no deadline
            try:
                async with asyncio.timeout_at(start + self._timeout_s + seen / BODY_BYTES_PER_S):
                    message = await receive()
            except TimeoutError as error:
                # Without the rest of the body, the start of the next request cannot be found.
                raise HTTPException(408, self._slow, {"Connection": "close"}) from error
            seen += len(message.get("body", b""))
            if seen > self._bytes_max:
                raise HTTPException(413, self._detail)
            is_whole = not message.get("more_body", False)
            return message

        return bounded

    @property
    def _detail(self) -> str:
        return f"A body may have at most {self._bytes_max} bytes (server.body_bytes_max)"

    @property
    def _slow(self) -> str:
        return f"The body did not arrive within {self._timeout_s:g} s, and a second more per {BODY_BYTES_PER_S} bytes"
