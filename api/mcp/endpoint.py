"""`/mcp`: the SDK's streamable HTTP over the application's own checks, without sessions that a server has to keep.

Runs in: api.

    POST ──initialize──► answered with a session id, which is kept nowhere
         ──notifications/cancelled──► the call of this key, session and id is cancelled
         ──anything else──► the SDK ──tools/list, tools/call, subscriptions/listen──► below
    GET  ──► told when the list of tools changes
    DELETE ──► the calls of the session are cancelled

Every request is whole in itself: what a client was told before survives a restart of the server, and no client can fill
the server with sessions. Who closes the connection of a call, or cancels it, cancels its job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.streamable_http import check_accept_headers
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import INTERNAL_ERROR, ListToolsResult, PaginatedRequestParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from killable.api.http.audited_requests import note_now
from killable.api.http.auth import is_operator, tenant_of
from killable.api.http.dependencies import Dependencies, parts_of
from killable.api.http.methods import IS_HEAD
from killable.api.http.problems import problem, refused
from killable.api.mcp.calls import SESSION, Calls, session_of
from killable.api.mcp.tool_list_watch import ToolListWatch
from killable.api.mcp.tool_results import readable
from killable.api.mcp.tools import tools_of
from killable.supervisor.engine import Engine
from killable.workers.errors import Refused

logger = logging.getLogger("killable.server")

INSTRUCTIONS = (
    "Each tool runs as a job in a process of its own. Cancel a call, or close its connection, and the process is ended "
    "with all that it started. A failed call says why, and what would help."
)
REASON_CHARS_MAX = 200
"""Of the reason that a client gives for a cancel."""
_LIST_CHANGED = json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})


class McpEndpoint:
    """The ASGI application of `/mcp`. It starts at its first request, and `close` ends it."""

    def __init__(self, engine: Engine, body_bytes_max: int) -> None:
        self._calls = Calls()
        self._watch = ToolListWatch(engine)
        self._listening = ListenHandler(self._watch)
        server = _Server(
            "killable",
            version=version("killable"),
            instructions=INSTRUCTIONS,
            on_list_tools=_list_tools,
            on_call_tool=self._calls.answer,
            on_subscriptions_listen=self._listening,
            get_tool_input_schema=lambda name: None,  # or each call would list all tools
        )
        server.middleware.append(_without_details)
        # The application has checked Host, Origin and the size of the body before.
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=body_bytes_max + 1)
        self._stop = asyncio.Event()
        self._streams: set[asyncio.Event] = set()
        """Of each GET, what wakes it."""
        self._is_ending = False
        self._running: asyncio.Task[None] | None = None
        self._is_running: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        parts = parts_of(request)
        try:
            parts.streams.check(operator=is_operator(scope))
        except Refused as error:
            await (await refused(request, error))(scope, receive, send)
            return
        parts.streams.open += 1
        try:
            async with _leaving(parts, receive, send) as (receive, send):
                await self._answer(request, scope, receive, send)
        finally:
            parts.streams.open -= 1

    def stop_listening(self) -> None:
        """End the streams that only tell of changes."""
        self._is_ending = True
        self._listening.close()
        for changed in self._streams:
            changed.set()

    async def close(self) -> None:
        """End what runs of it. May be called again."""
        self.stop_listening()
        self._watch.close()
        self._stop.set()
        if self._running is not None:
            await self._running

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        is_modern = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, HANDSHAKE_PROTOCOL_VERSIONS[0]) not in (
            HANDSHAKE_PROTOCOL_VERSIONS
        )
        if scope["method"] != "POST" and not is_modern:
            await self._without_body(request, scope, receive, send)
            return
        if scope["method"] == "POST" and not is_modern:
            receive, send = await self._handshake(request, receive, send)
        await self._started()
        await self._manager.handle_request(scope, receive, send)

    async def _handshake(self, request: Request, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Do what a client of the versions with a handshake expects of a session."""
        message = await receive()  # the whole body, as `LargeBodies` gives it
        # Read twice: here and by the SDK. Of a large one it is the envelope. Bytes do not tell whether it is a cancel:
        # JSON may write the name of its method with escapes, as PHP does ("notifications\/cancelled").
        match _read(message.get("body", b"")):
            case {"method": "initialize"}:
                send = _with_session(send)
            case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as request_id, **more}}:
                reason = readable(str(more.get("reason") or ""))[:REASON_CHARS_MAX]
                session = session_of(request)
                jobs = self._calls.cancel(tenant_of(request), session, request_id, reason) if session else []
                if jobs:
                    await note_now(request, "cancel", jobs)
        waiting = [message]

        async def replayed() -> Message:
            return waiting.pop() if waiting else await receive()

        return replayed, send

    async def _without_body(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        session = session_of(request)
        if scope["method"] == "DELETE":
            jobs = self._calls.cancel_session(tenant_of(request), session, "the session ended") if session else []
            if jobs:
                await note_now(request, "cancel", jobs)
            await Response(status_code=204)(scope, receive, send)
        elif scope.get(IS_HEAD) or not check_accept_headers(request)[1]:
            told = "A GET has to accept text/event-stream"
            await problem("method_not_allowed", told, headers={"Allow": "POST, DELETE"})(scope, receive, send)
        else:
            streams = parts_of(request).streams
            stream = EventSourceResponse(self._changes(), ping=int(streams.ping_s), send_timeout=streams.send_timeout_s)
            await stream(scope, receive, send)

    async def _changes(self) -> AsyncIterator[dict[str, str]]:
        """Yield a server-sent event each time the list of tools has changed."""
        changed = asyncio.Event()
        self._streams.add(changed)
        leave = self._watch.subscribe(lambda _: changed.set())
        try:
            while True:
                await changed.wait()
                if self._is_ending:
                    return
                changed.clear()
                yield {"event": "message", "data": _LIST_CHANGED}
        finally:
            leave()
            self._streams.discard(changed)

    async def _started(self) -> None:
        """Return when the SDK's tasks have a group to run in."""
        if self._running is None:
            self._is_running = asyncio.get_running_loop().create_future()
            self._running = asyncio.ensure_future(self._run())
        assert self._is_running is not None
        await self._is_running

    async def _run(self) -> None:
        """Hold the group open. It has to be left by the task that has entered it."""
        assert self._is_running is not None
        async with self._manager.run():
            self._is_running.set_result(None)
            await self._stop.wait()


class _Server(Server[Any]):
    """The SDK's server, which says that its list of tools may change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


async def _without_details(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Log an error that nobody expected: the SDK would tell the client its text."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):
        raise
    except Exception as error:
        logger.exception("mcp_failed", extra={"method": ctx.method})
        raise MCPError(INTERNAL_ERROR, "The server's log has the details") from error


async def _list_tools(
    context: ServerRequestContext[Any, Request], params: PaginatedRequestParams | None
) -> ListToolsResult:
    request = context.request
    assert request is not None
    engine = parts_of(request).engine
    return ListToolsResult(tools=tools_of(await engine.job_types(), await engine.pools()))


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {}  # the SDK says what is wrong with it


def _with_session(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            MutableHeaders(scope=message)[SESSION] = uuid.uuid4().hex
        await send(message)

    return sending


@asynccontextmanager
async def _leaving(parts: Dependencies, receive: Receive, send: Send) -> AsyncIterator[tuple[Receive, Send]]:
    """A client that reads nothing for the send timeout counts as one that has left."""
    has_left = asyncio.Event()
    timeout_s = parts.streams.send_timeout_s

    async def sending(message: Message) -> None:
        if has_left.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            has_left.set()

    async def receiving() -> Message:
        leaving = asyncio.ensure_future(has_left.wait())
        coming = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((leaving, coming), return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else {"type": "http.disconnect"}
        finally:
            leaving.cancel()
            coming.cancel()

    yield receiving, sending
