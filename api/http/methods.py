"""HEAD for every route with GET, and the methods of a path.

Runs in: api.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.route_roles import ACCESS

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


def allowed(request: Request) -> list[str]:
    """Return the methods of this path according to `/openapi.json`: Starlette lists only those of the first route."""
    path: str = request.scope["path"]
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    fitting = (there for template, there in paths.items() if _fits(template, path))
    there_are = {method.upper() for method in paths.get(path) or next(fitting, {})}
    there_are = there_are or {method for method, known in ACCESS if known == path}  # what it does not describe
    if "GET" in there_are:
        there_are.add("HEAD")
    return [method for method in METHODS if method in there_are]


def _fits(template: str, path: str) -> bool:
    parts, others = template.split("/"), path.split("/")
    return len(parts) == len(others) and all(
        part.startswith("{") or part == other for part, other in zip(parts, others, strict=True)
    )
