"""Helpers shared by the routes: JSON answers, the `Prefer` header, documented answers.

Runs in: api.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from killable.api.http.problems import PROBLEM_TYPE
from killable.api.http.request_faults import fault, invalid
from killable.api.http.statuses import STATUSES
from killable.workers.error_codes import CODES
from killable.workers.protocol.messages import dump_json
from killable.workers.protocol.trace_context import parsed

Responses = dict[int | str, dict[str, Any]]

COMMON_CODES = ("misdirected", "forbidden", "too_many_connections", "busy", "internal")
"""Codes of all routes."""
BODY_CODES = ("malformed", "slow_request", "too_large", "unsupported_media_type", "invalid")
"""Codes of routes that read a body."""
HEADERS = {
    "Location": "URL of the job",
    "Link": 'The next page: `rel="next"`',
    "Preference-Applied": "The preference that was applied",
    "Idempotent-Replayed": "`true`: this is the stored answer to the first request with this Idempotency-Key",
    "X-Correlation-Id": "The id from the request, or a generated one",
    "Cache-Control": "`no-store`",
    "X-Accel-Buffering": "`no`",
    "Retry-After": "Seconds",
    "RateLimit": "What is left of a bound of the tenant",
    "RateLimit-Policy": "That bound",
    "WWW-Authenticate": "`Bearer`",
    "Allow": "The methods that are allowed",
}
LINKS_TO_JOB = {
    name: {
        "operationRef": f"#/paths/~1v1~1jobs~1{{job_id}}{operation}",
        "parameters": {"job_id": "$response.body#/job_id"},
    }
    for name, operation in (
        *(("record", "/get"), ("cancel", "/delete"), ("stream", "~1stream/get"), ("output", "~1output/get")),
        *(("result", "~1result/get"), ("partial", "~1partial/get")),
    )
}
"""OpenAPI links from an answer with a job id to the operations on that job."""
HEADERS_OF_STATUS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}


class Json(JSONResponse):
    """JSON as ASCII. Starlette's own class fails on a lone surrogate, which a job may return.

    Jobs control parts of many answers, so a browser is told not to guess that one is a page.
    """

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({"X-Content-Type-Options": "nosniff", **(headers or {})})

    def render(self, content: Any) -> bytes:
        return dump_json(content)


TRACE = "killable.trace"
"""Member of a request's scope with the TraceContext of its span; absent if it has none."""


def correlation_id_of(request: Request) -> str:
    """Return the request's correlation id, or generate one. `request.state` keeps it for an error answer."""
    found = request.headers.get("X-Correlation-Id") or request.headers.get("X-Request-Id") or str(uuid.uuid4())
    request.state.correlation_id = found
    return found


def trace_of(request: Request) -> dict[str, Any]:
    """Return the place in a trace that a request gives its jobs, as members of a Submission: that of its own span, if
    it has one, else its caller's.
    """
    context = request.scope.get(TRACE)
    if context is None:
        header = request.headers.getlist("traceparent")  # several are none
        states = ",".join(request.headers.getlist("tracestate"))
        context = parsed(header[0], states) if len(header) == 1 else None
    return {} if context is None else {"traceparent": context.traceparent, "tracestate": context.state}


async def _no_body(request: Request) -> None:
    if (await request.body()).strip() not in (b"", b"{}"):
        raise invalid([fault("body", [], "must be empty: all parameters are in the query")])


NO_BODY = Depends(_no_body)


def answer(description: str, model: type[BaseModel] | None = None, *headers: str, **more: Any) -> dict[str, Any]:
    """Return one item of a route's `responses`; `headers` are names from HEADERS."""
    entry: dict[str, Any] = {"description": description, "headers": {name: _header(name) for name in headers}, **more}
    return entry if model is None else entry | {"model": model}


def events_answer(content: dict[str, Any]) -> dict[str, Any]:
    """Return the item of server-sent events, described by `content`."""
    return answer("Events", None, "Cache-Control", "X-Accel-Buffering", content={"text/event-stream": content})


def documented(answers: Responses, *codes: str, protected: bool = True) -> Responses:
    """Return the `responses` of a route: its answers, the codes of its refusals, and `default` for other problems.

    `protected`: the route needs a key if the server has keys.
    """
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    titles: dict[int, list[str]] = {}
    for code in (*codes, *COMMON_CODES, *(("unauthorized",) if protected else ())):
        titles.setdefault(STATUSES[code], []).append(f"`{code}`: {CODES[code].title}")
    for status, lines in titles.items():
        headers = {name: _header(name) for name in HEADERS_OF_STATUS.get(status, ())}
        answers[status] = {"description": " · ".join(dict.fromkeys(lines)), "content": content, "headers": headers}
    return answers | {"default": {"description": "Any other problem", "content": content}}


def _header(name: str) -> dict[str, Any]:
    return {"description": HEADERS[name], "schema": {"type": "string"}}
