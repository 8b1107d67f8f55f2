"""HEAD where there is GET, and which methods an address has.

Runs in: api.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
IS_HEAD = "killable.head"
"""Set in the scope of a HEAD, which routes see as GET: what makes its body as it goes leaves it out."""


class HeadAsGet:
    """Answer HEAD as GET without the body (RFC 9110 section 9.3.2): FastAPI's routes know GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET", IS_HEAD: True}, receive, send_without_body)


def allowed(request: Request) -> list[str]:
    """Return the methods of all routes at this path; Starlette's own header has those of the first route only."""
    routes = request.app.router.routes
    scopes = {method: dict(request.scope) | {"method": method} for method in METHODS}
    found = {m for m, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)}
    if "GET" in found:
        found.add("HEAD")
    return [method for method in METHODS if method in found]
