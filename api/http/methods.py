"""HEAD for every route with GET, and the methods of a path.

Runs in: api.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.route_roles import methods_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
IS_HEAD = "killable.head"
"""Set in the scope of a HEAD request, which routes receive as GET. Routes that stream their body then send none."""


class HeadAsGet:
    """Pass HEAD on as GET (RFC 9110 section 9.3.2), as FastAPI's routes accept only GET. The server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}
        await self._app(scope, receive, send)


def allowed(path: str) -> list[str]:
    """Return the methods of this path: Starlette lists only those of the first route."""
    there_are = methods_of(path)
    if "GET" in there_are:
        there_are.add("HEAD")
    return [method for method in METHODS if method in there_are]
