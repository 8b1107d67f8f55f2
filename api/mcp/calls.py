"""One call of a tool is one job: submitted as the key of its request, followed to its end, and cancelled with it.

Runs in: api.

    tools/call ──► input checked ──► submitted ──► events ──► progress notifications
                                         │            └─terminal──► the answer
                                         └── the request is cancelled, or its connection closed ──► the job is cancelled

A call whose cancel came first (`early_cancels`) is not submitted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, RequestId
from starlette.requests import Request

from killable.api.http.audited_requests import note_now
from killable.api.http.auth import is_operator, key_name_of, tenant_of
from killable.api.http.bodies import large_body_of
from killable.api.http.cancel_wait import CANCEL_WAIT_S
from killable.api.http.dependencies import Dependencies, parts_of
from killable.api.http.input_files import input_files
from killable.api.http.request_faults import cut
from killable.api.http.responses import correlation_id_of, trace_of
from killable.api.mcp.early_cancels import EarlyCancels, Key
from killable.api.mcp.progress_pace import PacedProgress
from killable.api.mcp.tool_results import CallEnding, CallOutput, refused
from killable.api.mcp.tools import is_tool
from killable.supervisor.engine import Engine
from killable.supervisor.models import TERMINAL_STATES, JobType, Submission
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

REQUEST_CANCELLED = -32800
"""Answers a request that its client has cancelled, as the SDK does, and the Language Server Protocol."""
SESSION = "mcp-session-id"
_SESSION_ID = re.compile(r"[0-9a-f]{32}")


class Call:
    """A call that can be cancelled by its id."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.reason = ""
        self.job_id = ""

    def cancel(self, reason: str) -> None:
        self.reason = reason
        self.scope.cancel()


class Calls:
    """The calls that are being answered, in one application."""

    def __init__(self) -> None:
        self._running: dict[Call, Key] = {}
        """More than one may have a key: a client whose network broke sends its call again."""
        self._early = EarlyCancels()

    def cancel(self, tenant: str, session: str, request_id: RequestId, reason: str) -> list[str]:
        """Cancel a call of a session, also one that is still to come; return its jobs."""
        key = (tenant, session, str(request_id))
        found = [call for call, its in self._running.items() if its == key]
        if not found:
            self._early.add(*key)
        return _cancel(found, reason)

    def cancel_session(self, tenant: str, session: str, reason: str) -> list[str]:
        """Cancel the calls of a session, also those that are still to come; return their jobs."""
        self._early.add(tenant, session, None)
        return _cancel([call for call, key in self._running.items() if key[:2] == (tenant, session)], reason)

    async def answer(
        self, context: ServerRequestContext[Any, Request], params: CallToolRequestParams
    ) -> CallToolResult:
        """Run one call. Raise MCPError for an unknown tool, and for a request that was cancelled."""
        request = context.request
        assert request is not None
        call, key = Call(), (tenant_of(request), session_of(request), str(context.request_id))
        if key[1]:
            if self._early.meets(key):
                raise MCPError(REQUEST_CANCELLED, "The request was cancelled", {})
            self._running[call] = key
        try:
            with call.scope:
                return await _answered(context, request, params, call)
            cancelled = await _cancelled(call, parts_of(request).engine)
            raise MCPError(REQUEST_CANCELLED, "The request was cancelled", cancelled)
        except Refused as error:
            await note_now(request, "submit", code=error.code)
            return refused(error)
        finally:
            self._running.pop(call, None)


def _cancel(calls: list[Call], reason: str) -> list[str]:
    """Cancel calls; return those of their jobs that are known."""
    for call in calls:
        call.cancel(reason)
    return [call.job_id for call in calls if call.job_id]


def session_of(request: Request) -> str:
    """Return the id of a request's session, or ""."""
    found = request.headers.get(SESSION, "")
    return found if _SESSION_ID.fullmatch(found) else ""


async def _cancelled(call: Call, engine: Engine) -> dict[str, Any]:
    """Return what is told of a call that was cancelled, when its job is dead."""
    if not call.job_id:
        return {}
    try:
        record = await engine.wait(call.job_id, CANCEL_WAIT_S)
    except Refused:
        return {"job_id": call.job_id}
    return {"job_id": call.job_id, "state": record.state, "certificate": record.certificate}


async def _answered(
    context: ServerRequestContext[Any, Request], request: Request, params: CallToolRequestParams, call: Call
) -> CallToolResult:
    """Submit the job, and return how it ended. Raise Refused, MCPError."""
    parts = parts_of(request)
    job_type = await _type(parts.engine, params.name)
    job, output = _CalledJob(parts, request, call), CallOutput(parts.settings.result_inline_bytes_max)
    progress = PacedProgress(context.session.report_progress) if "progress_token" in (context.meta or {}) else None
    try:
        record = await job.submit(job_type, params.arguments or {})
        async with aclosing(parts.engine.events(record.job_id)) as batches:
            async for batch in batches:
                output.add(batch)
                if batch[-1].name in TERMINAL_STATES:
                    job.has_ended = True
                if progress is not None:
                    progress.add(batch)
                if job.has_ended:
                    if progress is not None:
                        await progress.finish()
                    return CallEnding(batch[-1].data, _of_record(record), _address(request, record)).answer(output)
        raise Refused("the record of the job was dropped before its end was told", code="unknown_job")
    finally:
        if progress is not None:
            progress.close()
        if not job.has_ended:
            with anyio.CancelScope(shield=True):
                await job.cancel()


class _CalledJob:
    """The job of a call."""

    def __init__(self, parts: Dependencies, request: Request, call: Call) -> None:
        self.has_ended = False
        self._parts = parts
        self._request = request
        self._call = call
        self._submitting: asyncio.Future[JobRecord] | None = None

    async def submit(self, job_type: JobType, arguments: Mapping[str, Any]) -> JobRecord:
        """Check the input, and submit. Raise Refused."""
        request, tenant = self._request, tenant_of(self._request)
        large = large_body_of(request)
        given = large.input if large else arguments
        payload = await self._parts.input_check.encode(job_type, given, ("arguments",), tenant)
        submission = Submission(
            type=job_type.name,
            input=payload,
            files=input_files(request, job_type, payload),
            tenant=tenant,
            operator=is_operator(request.scope),
            correlation_id=correlation_id_of(request),
            **trace_of(request),
        )
        # What a cancel interrupts must not be lost: the job may be in the journal already.
        self._submitting = asyncio.ensure_future(self._parts.engine.submit(submission))
        record = await asyncio.shield(self._submitting)
        self._call.job_id = record.job_id
        await note_now(request, "submit", [record.job_id])
        return record

    async def cancel(self) -> None:
        """Cancel the job, if there is one."""
        if self._submitting is None:
            return
        try:
            record = await self._submitting
            self._call.job_id = record.job_id
            asked = self._call.scope.cancel_called
            by, reason = ("user", self._call.reason) if asked else ("client_gone", "")
            key = key_name_of(self._request)
            await self._parts.engine.cancel(record.job_id, by=by, reason=reason, wait_s=0.0, key=key)
            if not asked:
                await note_now(self._request, "client_gone", [record.job_id])
        except Refused:
            pass  # it was not accepted, or has ended


async def _type(engine: Engine, name: str) -> JobType:
    """Return the job type that is a tool of this name. Raise MCPError."""
    types = [job_type for job_type in await engine.job_types() if is_tool(job_type)]
    for job_type in types:
        if job_type.name == name:
            return job_type
    known = sorted(job_type.name for job_type in types)
    raise MCPError(INVALID_PARAMS, f"Unknown tool: {cut(name)}. There are: {', '.join(known)}", {"known": known})


def _of_record(record: JobRecord) -> dict[str, Any]:
    """Return what a remedy needs of a job, beside its terminal event."""
    return {"type": record.type, "limits": record.limits, "nodes": record.nodes}


def _address(request: Request, record: JobRecord) -> str:
    return f"{request.base_url}v1/jobs/{record.job_id}"
