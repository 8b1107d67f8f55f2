"""What routes share: the engine and settings of their app, JSON answers, `Prefer`, documented problems.

Runs in: api.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from killable.api.problems import PROBLEM_TYPE, fault, invalid
from killable.api.schemas import WAIT_S_MAX
from killable.api.settings import HttpSettings
from killable.supervisor.engine import Engine
from killable.workers.errors import CODES
from killable.workers.messages import dump_json

Responses = dict[int | str, dict[str, Any]]

CANCEL_WAIT_S = 10.0
"""How long a cancel is waited for when the caller does not say: twice the default grace."""


class Json(JSONResponse):
    """JSON as ASCII: Starlette's own fails on a lone surrogate, which a job may well return."""

    def render(self, content: Any) -> bytes:
        return dump_json(content)


async def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


async def _settings(request: Request) -> HttpSettings:
    return cast(HttpSettings, request.app.state.settings)


async def _prefer_wait_s(request: Request) -> float | None:
    """Return how long the client would wait (RFC 7240); what cannot be read is ignored, as the RFC has it."""
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            name, value = name.strip().lower(), value.strip().strip('"')
            if name == "respond-async":
                return 0.0
            if name == "wait" and value.isdecimal():
                return min(float(value), WAIT_S_MAX)
    return None


async def _no_body(request: Request) -> None:
    if (await request.body()).strip() not in (b"", b"{}"):
        raise invalid([fault("body", [], "is not read here: grace_s and reason are query parameters")])


EngineOf = Annotated[Engine, Depends(_engine)]
SettingsOf = Annotated[HttpSettings, Depends(_settings)]
PreferWait = Annotated[float | None, Depends(_prefer_wait_s)]
NO_BODY = Depends(_no_body)


def documented(answers: Responses, *codes: str) -> Responses:
    """Return the `responses` of a route: its answers, the codes that it can refuse with, and `default` for the rest."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    titles: dict[int, list[str]] = {}
    for code in codes:
        titles.setdefault(CODES[code].status, []).append(f"`{code}`: {CODES[code].title}")
    for status, lines in titles.items():
        answers[status] = {"description": " · ".join(lines), "content": content}
    return answers | {"default": {"description": "Any other problem", "content": content}}
