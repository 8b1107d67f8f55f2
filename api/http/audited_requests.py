"""Who did what to whose job: a record in the audit log of each request that changes something or is refused.

Runs in: api. Plain ASGI, outside of all other checks, whose refusals it sees.

Of requests that only read, those are recorded that were refused (401, 403, 421), and streams whose end cancelled a job.
Of many refusals of one address, without a valid key, only their number is. No record has a key, or any part of a body
or a query.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.api_keys import ApiKey
from killable.api.http.audit_log import AuditLog
from killable.api.http.failed_keys import FailedKeys
from killable.api.http.problems import FILE, ID
from killable.api.http.route_roles import CALLER, VIA, access_to
from killable.supervisor.engine import Engine
from killable.workers.errors import Refused

ACT = "killable.act"
"""Member of the scope with the Act of the request, if there is an audit log."""
REFUSED = (401, 403, 421)
JOBS_MAX = 100
"""Jobs that one record names; it has the number of all."""
TEXT_CHARS_MAX = 200
"""Of an address or a path: what a client can make of them has a bound."""
_JOB_PATH = re.compile(r"/v1/jobs/([^/]+)(?:/cancel|/stream)?")
_WORKER_PATH = re.compile(r"/v1/workers/([^/]+)")
_PROBLEM = re.compile(rb'\{"type": ?"urn:killable:problem:([a-z_.]+)"')


@dataclass(slots=True)
class Act:
    """What the checks and routes know of a request, for its record."""

    caller: ApiKey | None = None
    via: str = ""
    """key · ticket · socket; empty: nothing of these."""
    event: str = ""
    """What it did, where its method and path do not say."""
    jobs: list[str] = field(default_factory=list)
    status: int = 0
    code: str = ""
    location: str = ""
    is_replayed: bool = False
    write: Callable[[], Awaitable[None]] | None = None
    """Writes the record of what is noted here. None: there is no audit log."""
    file_id: str = ""


def act_of(scope: Scope) -> Act:
    """Return the Act of a request; without an audit log, one that nobody reads."""
    act: Act | None = scope.get(ACT)
    return Act() if act is None else act


def note_jobs(request: Request, jobs: Sequence[str]) -> None:
    """Note the jobs that a request is about, where its path does not say."""
    act_of(request.scope).jobs.extend(jobs)


async def note_now(request: Request, event: str, jobs: Sequence[str] = (), code: str = "") -> None:
    """Have what a request has done so far recorded, and not at its end, which may be hours away."""
    act = act_of(request.scope)
    if act.write is not None:
        act.event, act.jobs, act.code = event, list(jobs), code
        await act.write()
        act.event, act.jobs, act.code = "", [], ""


def note_file(request: Request, file_id: str) -> None:
    """Note the file that a request is about."""
    act_of(request.scope).file_id = file_id


class Audit:
    """Writes the records of one application."""

    def __init__(self, app: ASGIApp, log: AuditLog, engine: Engine) -> None:
        self._app = app
        self._log = log
        self._engine = engine
        self._refusals = FailedKeys()
        self._unrecorded = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        act = Act(scope.get(CALLER), scope.get(VIA, ""))
        act.write = partial(self._write, scope, act)

        async def noting(message: Message) -> None:
            _note_answer(act, message)
            await send(message)

        try:
            await self._app({**scope, ACT: act}, receive, noting)
        finally:
            if act.status in REFUSED and not act.via and self._are_many(scope):
                self._unrecorded += 1
            elif act.event or act.status in REFUSED or _may_change(scope):
                await self._write(scope, act)

    def _are_many(self, scope: Scope) -> bool:
        """Count a refusal of someone unknown; return whether there are so many from there that they fill the disk."""
        return self._refusals.note(_address(scope), asyncio.get_running_loop().time()) > 0

    async def _write(self, scope: Scope, act: Act) -> None:
        method, path = scope["method"], scope["path"]
        jobs = _jobs_of(act, path)
        worker = _WORKER_PATH.fullmatch(path)
        caller = act.caller
        members: dict[str, Any] = {
            "tenant": caller and caller.name,
            "role": caller and caller.role,
            "key_id": caller and caller.id,
            "via": act.via,
            "from": _cut(_address(scope)),
            "method": _cut(method),
            "path": _cut(path),
            "status": act.status,
            "code": act.code,
            "replayed": act.is_replayed,
            "worker_id": worker[1] if worker is not None and ID.fullmatch(worker[1]) else "",
            "file_id": act.file_id if FILE.fullmatch(act.file_id) else "",
            "job_id": jobs[0] if len(jobs) == 1 else "",
            "jobs": jobs[:JOBS_MAX] if len(jobs) > 1 else [],
            "matched": len(jobs) if len(jobs) > 1 else 0,
            "owners": sorted(await self._owners(jobs[:JOBS_MAX])),
            "unrecorded": self._unrecorded,
        }
        self._unrecorded = 0
        verb = act.event or access_to(method, path).verb or "other"
        self._log.write(verb, **{name: value for name, value in members.items() if value})

    async def _owners(self, jobs: Sequence[str]) -> set[str]:
        found = set()
        for job_id in jobs:
            try:
                found.add((await self._engine.get(job_id)).tenant)
            except Refused:
                pass
        return found


def _may_change(scope: Scope) -> bool:
    method = scope["method"]
    return method not in ("GET", "HEAD", "OPTIONS") and not access_to(method, scope["path"]).notes_itself


def _note_answer(act: Act, message: Message) -> None:
    if message["type"] == "http.response.start":
        act.status = message["status"]
        headers = Headers(raw=message.get("headers", []))
        act.location, act.is_replayed = headers.get("location", ""), "idempotent-replayed" in headers
    elif act.status >= 400 and not act.code:
        problem = _PROBLEM.match(message.get("body", b"")[:200])
        act.code = problem[1].decode() if problem else ""


def _jobs_of(act: Act, path: str) -> list[str]:
    match = _JOB_PATH.fullmatch(act.location or path)
    named = [match[1]] if match is not None and ID.fullmatch(match[1]) else []
    return named + act.jobs


def _address(scope: Scope) -> str:
    address: str = (scope.get("client") or ("",))[0]
    return address


def _cut(text: str) -> str:
    return text[:TEXT_CHARS_MAX]
