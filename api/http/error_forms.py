"""Problem documents in the form that the clients of an address know.

Runs in: api. Pure but for the middleware, which is plain ASGI.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.problems import INTERNAL, problem
from killable.workers.protocol.messages import dump_json

PROBLEM = b"application/problem+json"
_INVALID_REQUEST, _INTERNAL_ERROR = -32600, -32603
"""Of JSON-RPC."""

Form = Callable[[Mapping[str, Any]], tuple[int, dict[str, Any], Mapping[str, str]]]
"""Returns status, body and further headers of an error, made from a problem document."""


class ErrorForms:
    """Turns problem documents where clients know another form."""

    def __init__(self, app: ASGIApp, form_of: Callable[[str, str], Form | None]) -> None:
        self._app = app
        self._form_of = form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = self._form_of(scope["path"], scope["method"]) if scope["type"] == "http" else None
        if form is None:
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = b""
        is_begun = False

        async def turning(message: Message) -> None:
            nonlocal held, body, is_begun
            is_begun = True
            if message["type"] == "http.response.start" and _is_problem(message):
                held = message
            elif held is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    for each in turned(held, body, form):
                        await send(each)

        try:
            await self._app(scope, receive, turning)
        except Exception:  # it goes on to the server's log
            if not is_begun:
                await problem("internal", INTERNAL)(scope, receive, turning)
            raise


def _is_problem(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(PROBLEM) for name, value in message.get("headers", ()))


def turned(start: Message, body: bytes, form: Form) -> tuple[Message, Message]:
    """Return the two messages of a problem's answer as those of an error of this form."""
    if not body:  # of HEAD
        return start, {"type": "http.response.body", "body": b""}
    status, error, more = form(json.loads(body))
    content = dump_json(error)
    headers = MutableHeaders(raw=list(start["headers"]))
    headers.update({"content-type": "application/json", "content-length": str(len(content)), **more})
    return {**start, "status": status, "headers": headers.raw}, {"type": "http.response.body", "body": content}


def as_json_rpc(problem: Mapping[str, Any]) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Return an error as clients of MCP show it; of another body they say that there was an error."""
    status = int(problem["status"])
    code = _INTERNAL_ERROR if status >= 500 else _INVALID_REQUEST
    error = {"code": code, "message": f"{problem['code']}: {problem['detail']}", "data": problem}
    return status, {"jsonrpc": "2.0", "id": None, "error": error}, {}
