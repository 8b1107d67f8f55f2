"""Refuses an address with a control character, before anything is decided by its path.

Runs in: api.

The pattern of a Starlette route ends in `$`, which also matches before a line end (Python's `re`): `/v1/shutdown%0A`
is routed, and is another path than `/v1/shutdown` to everything that compares: roles, rates, bodies, the audit log.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from killable.api.http.problems import problem

_has_control_character = re.compile(r"[\x00-\x1f\x7f]").search


class PlainPaths:
    """Answers 404 for a path that no address has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _has_control_character(scope["path"]):
            answer = problem("not_found", "No address has a control character in it; /openapi.json lists all of them")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)
