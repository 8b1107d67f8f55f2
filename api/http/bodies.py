"""Bodies of requests: counted before they are parsed, and parsed in another process if they are large.

Runs in: api. Plain ASGI, like the checks in `host_and_origin`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.api_keys import KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.auth import is_operator, tenant_of_scope
from killable.api.http.check_pool import CheckPool
from killable.api.http.openai_paths import SUBMISSIONS as OPENAI_SUBMISSIONS
from killable.api.http.problems import problem, refusal, refused
from killable.api.http.request_faults import invalid
from killable.api.http.route_roles import MCP_PATH
from killable.api.http.schemas import OperationRequest
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple

BODY_BYTES_PER_S = 16 << 10
"""Bytes of a body that extend its deadline by 1 s: slow lines (a telephone's) pass, clients that hold a slot do not."""
SMALL_BYTES_MAX = 16 << 10
"""A larger body is not parsed in the event loop: 1 MiB of braces would hold up every kill for 20 ms or more."""
LARGE_BODY = "killable.large_body"
"""Member of the scope with the LargeBody of the request, if it has one."""
SUBMISSION_PATH = "/v1/jobs"
UPLOAD_PATH = "/v1/files"
_MEMBERS = tuple(OperationRequest.model_fields)


def is_upload(scope: Scope) -> bool:
    """Return whether a request's body is a file, which `file_uploads` bounds. No other method there reads a body."""
    return bool(scope["type"] == "http" and scope["path"] == UPLOAD_PATH)


class LargeBody(NamedTuple):
    """What the route does not get of a large body that was parsed elsewhere."""

    input: bytes
    """JSON, not checked against the schema of the job's type; of a call over MCP its arguments."""
    digest: str
    """SHA-256 of the whole body."""


def large_body_of(request: Request) -> LargeBody | None:
    """Return the large body of a request; None: the route has parsed it, or it has none."""
    found: LargeBody | None = request.scope.get(LARGE_BODY)
    return found


class BodyCheck:
    """Refuse a body that is not JSON (415), too large with or without Content-Length (413), too slow (408), or more
    than all bodies together may have (503).
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys
        self._bytes_max = settings.body_bytes_max
        self._timeout_s = settings.body_timeout_s
        self._all_bytes_max = settings.bodies_bytes_max
        self._all_bytes = 0
        """Of the bodies of all requests that are not answered yet, but for operators'."""
        self._of_tenants: Counter[str] = Counter()
        self._of_operators = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        length = headers.get("content-length", "0")
        if is_upload(scope) or scope["type"] != "http" or (length == "0" and "transfer-encoding" not in headers):
            await self._app(scope, receive, send)
        elif headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await problem("unsupported_media_type", "A body must be application/json")(scope, receive, send)
        elif int(length) > self._bytes_max:
            await problem("too_large", self._detail)(scope, receive, send)
        else:
            body, tenant = _Count(), None if is_operator(scope) else tenant_of_scope(scope)
            try:
                await self._app(scope, self._bounded(receive, body, tenant), send)
            finally:
                self._add(tenant, -body.bytes)

    def _add(self, tenant: str | None, size: int) -> None:
        """Count bytes of a tenant; None: of an operator."""
        if tenant is None:
            self._of_operators += size
            return
        self._all_bytes += size
        self._of_tenants[tenant] += size
        if not self._of_tenants[tenant]:
            del self._of_tenants[tenant]

    def _has_room(self, tenant: str | None) -> bool:
        """Return whether what is counted is within the bounds. Operators cancel and drain while others hold all."""
        if tenant is None:
            return self._of_operators <= self._all_bytes_max
        return self._all_bytes <= self._all_bytes_max and self._of_tenants[tenant] <= self._tenant_bytes_max

    @property
    def _tenant_bytes_max(self) -> int:
        """The most bytes of one tenant: its bodies leave room for those of others."""
        share = self._all_bytes_max // 2 if self._keys is not None and self._keys.are_shared else self._all_bytes_max
        return max(share, self._bytes_max)

    def _bounded(self, receive: Receive, body: _Count, tenant: str | None) -> Receive:
        """Return a `receive` that raises HTTPException, the only error that FastAPI passes on, at the body's bounds."""
        is_whole = False
        clock = asyncio.get_running_loop().time
        start = clock()

        async def bounded() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()  # waits for the client's disconnect, which has no deadline
            try:
                async with asyncio.timeout_at(start + self._timeout_s + body.bytes / BODY_BYTES_PER_S):
                    message = await receive()
            except TimeoutError as error:
                # Without the rest of the body, the start of the next request cannot be found.
                raise HTTPException(408, self._slow, {"Connection": "close"}) from error
            size = len(message.get("body", b""))
            body.bytes += size
            self._add(tenant, size)
            if body.bytes > self._bytes_max:
                raise HTTPException(413, self._detail)
            if not self._has_room(tenant):
                raise HTTPException(503, self._full, {"Connection": "close"})
            is_whole = not message.get("more_body", False)
            return message

        return bounded

    @property
    def _detail(self) -> str:
        return f"A body may have at most {self._bytes_max} bytes (server.body_bytes_max)"

    @property
    def _slow(self) -> str:
        return f"The body did not arrive within {self._timeout_s:g} s, and a second more per {BODY_BYTES_PER_S} bytes"

    @property
    def _full(self) -> str:
        return (
            f"All bodies together may have at most {self._all_bytes_max} bytes, and those of one key at most "
            f"{self._tenant_bytes_max} (server.bodies_bytes_max)"
        )


class _Count:
    bytes = 0


class LargeBodies:
    """Parses a large body of a submission in another process; the route gets it without its input. Other routes take no
    large body.
    """

    def __init__(self, app: ASGIApp, pool: CheckPool) -> None:
        self._app = app
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or is_upload(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await _whole(receive)
            if body is None:
                return  # its client has left
            if len(body) > SMALL_BYTES_MAX:
                if scope["path"] in (SUBMISSION_PATH, MCP_PATH):
                    body, scope = await self._parsed(body, scope)
                elif scope["path"] not in OPENAI_SUBMISSIONS:  # whose routes parse their bodies themselves
                    raise HTTPException(413, f"Here a body may have at most {SMALL_BYTES_MAX} bytes")
        except HTTPException as error:
            await refusal(error)(scope, receive, send)
        except Refused as error:
            await (await refused(Request(scope), error))(scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _parsed(self, body: bytes, scope: Scope) -> tuple[bytes, Scope]:
        """Return the body without its input, and the scope with the rest. Raise Refused."""
        members = None if scope["path"] == MCP_PATH else _MEMBERS
        head, input = await self._pool.split(body, members, tenant_of_scope(scope))
        if "malformed" in head:
            raise Refused(head["malformed"], code="malformed")
        if "faults" in head:
            raise invalid(head["faults"])
        return head["envelope"].encode(), {**scope, LARGE_BODY: LargeBody(input, head["digest"])}


async def _whole(receive: Receive) -> bytes | None:
    """Return the body of a request; None if the client leaves before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first gives this body."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
