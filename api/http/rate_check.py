"""Submissions a second: counted before a body is read, and told in RateLimit headers.

Runs in: api. Plain ASGI, like the checks in `host_and_origin`. The engine decides (`count_submission`).
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http import rate_headers
from killable.api.http.auth import is_operator, tenant_of_scope
from killable.api.http.bodies import SUBMISSION_PATH
from killable.api.http.openai_paths import SUBMISSIONS as OPENAI_SUBMISSIONS
from killable.api.http.problems import refused
from killable.supervisor.engine import Engine
from killable.supervisor.records import Quota
from killable.workers.errors import Refused

_PATHS = OPENAI_SUBMISSIONS | {SUBMISSION_PATH}


class SubmissionRateCheck:
    """Refuses a submission over its tenant's rate (429) without reading its body. One whose Idempotency-Key is known
    starts nothing, and a client that has lost the first answer must get it: these have the same rate for themselves.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        try:
            quota = await self._engine.count_submission(
                tenant_of_scope(scope),
                operator=is_operator(scope),
                idempotency_key=Headers(scope=scope).get("idempotency-key", ""),
            )
        except Refused as error:
            await (await refused(Request(scope), error))(scope, receive, send)
            return
        await self._app(scope, receive, send if quota is None else _with_quota(send, quota))


def _with_quota(send: Send, quota: Quota) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in rate_headers.of_quota(quota).items():
                headers.setdefault(name, value)  # a refusal has those of its own bound
        await send(message)

    return send_with
