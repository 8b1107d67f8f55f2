"""Checks of Host and Origin, made before any route.

Runs in: api.

Without them, any web page that a developer visits could submit and kill jobs, by DNS rebinding or by a form post.
They are plain ASGI, because Starlette's BaseHTTPMiddleware hides the disconnect of a client.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.app_settings import HttpSettings
from killable.api.http.problems import problem

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.IGNORECASE)
"""RFC 9110 section 7.2: uri-host [":" port]. A user part does not match; a URL parser would drop it silently."""


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
