"""CORS: which methods and headers the pages of other origins may send, and which headers of an answer they may read.

Runs in: api. Which origins may call at all: `host_and_origin`.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from killable.api.http.problems import problem

METHODS = ("GET", "POST", "DELETE")
SENT = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"),
    *("X-Api-Key", "X-Correlation-Id", "X-Request-Id", "X-Request-Timeout"),
    # What OpenAI's package says of itself, and of its caller.
    *("OpenAI-Organization", "OpenAI-Project", "X-Stainless-Arch", "X-Stainless-Lang", "X-Stainless-OS"),
    *("X-Stainless-Package-Version", "X-Stainless-Retry-Count", "X-Stainless-Runtime"),
    *("X-Stainless-Runtime-Version", "X-Stainless-Timeout", "X-Stainless-Read-Timeout", "X-Stainless-Async"),
    *("X-Stainless-Helper-Method", "X-Stainless-Raw-Response"),
)
READ = (
    *("Idempotent-Replayed", "Link", "Location", "Preference-Applied", "Retry-After", "WWW-Authenticate"),
    *("RateLimit", "RateLimit-Policy", "X-Correlation-Id", "X-Request-Id", "X-Should-Retry"),
)


class Cors(CORSMiddleware):
    """Starlette's CORS middleware, with a problem document for a refused preflight."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(app, allow_origins=origins, allow_methods=METHODS, allow_headers=SENT, expose_headers=READ)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        detail = f"Pages may use {', '.join(self.allow_methods)} and the headers listed in /openapi.json"
        return problem("forbidden", detail, headers={"Vary": "Origin"})
