"""A real server over a real supervisor, on a loopback port, with a client and helpers to read from it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import uvicorn
from httpx_sse import ServerSentEvent, aconnect_sse
from support.engines import new_supervisor

from killable.api.app import Tools, close_app, create_app, end_listening
from killable.api.cli.server.bounded_protocol import protocol_of
from killable.api.http.api_keys import KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.api.http.openai_paths import is_anthropics, is_openais
from killable.supervisor.models import TERMINAL_STATES
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

JOBS = Path(__file__).parent.parent / "support" / "simple_jobs.py"
LONG_CHECKS = HttpSettings(input_check_s=60.0)
"""Of tests about something else: a busy machine takes seconds for the check of a large input."""


@dataclass
class ReadStream:
    """What one reader saw of a stream."""

    events: list[ServerSentEvent] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    @property
    def wire(self) -> list[tuple[str, str, str]]:
        return [(event.id, event.event, event.data) for event in self.events]

    @property
    def tokens(self) -> list[str]:
        return [event.json()["text"] for event in self.events if event.event == "token"]

    @property
    def ids(self) -> list[int]:
        return [int(event.id) for event in self.events if event.event != "message"]

    @property
    def end(self) -> dict[str, Any]:
        """The data of the terminal event; there has to be exactly one."""
        (end,) = [event for event in self.events if event.event in TERMINAL_STATES]
        data: dict[str, Any] = end.json()
        return data

    @property
    def markers(self) -> list[str]:
        return [event.data for event in self.events if event.event == "message"]


POOL = {"workers": 2, "spares": 1}


@dataclass
class Server:
    """A server that listens, in whichever process."""

    client: httpx.AsyncClient

    @property
    def port(self) -> int:
        assert self.client.base_url.port is not None
        return self.client.base_url.port

    async def submit(self, type: str, /, *, members: dict[str, Any] | None = None, **input: Any) -> str:
        """Submit a job that has to be accepted; `members` stand beside type and input."""
        body = json.dumps({"type": type, "input": input} | (members or {}))  # ASCII; httpx's own fails on surrogates
        answer = await self.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    async def read(
        self, job_id: str, *, until: str = "", headers: dict[str, str] | None = None, **params: Any
    ) -> ReadStream:
        """Read a stream to its end, or to the first event named `until`, then leave."""
        seen = ReadStream()
        url = f"/v1/jobs/{job_id}/stream"
        async with aconnect_sse(self.client, "GET", url, params=params, headers=dict(headers or {})) as source:
            async for event in source.aiter_sse():
                seen.events.append(event)
                if event.event == until:
                    break
        return seen

    async def record(self, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        """Return the record, once the job has ended or `wait_s` is over."""
        if wait_s:
            await self._wait(job_id, wait_s)
        answer = await self.client.get(f"/v1/jobs/{job_id}")
        record: dict[str, Any] = answer.json()
        return record

    async def _wait(self, job_id: str, wait_s: float) -> None:
        await self.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": wait_s})

    async def raw(self, request: bytes, receive_bytes: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of one's own, which takes little ahead of what is read, and send a request.

        `receive_bytes`: what the kernel takes of what is not read; 0 is its default. The request is there before the
        server, which runs in this loop, has taken the connection: no time of its own can be over by then.
        """
        own = socket.socket()
        if receive_bytes:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        own.connect(("127.0.0.1", self.port))
        own.setblocking(False)
        sent = own.send(request) if request else 0
        reader, writer = await asyncio.open_connection(sock=own, limit=4096)
        writer.write(request[sent:])
        await writer.drain()
        return reader, writer


@dataclass
class OwnServer(Server):
    """A server in this process."""

    supervisor: Supervisor
    connections: set[Any]
    """The server's side of each: uvicorn's protocols."""
    keys: KeyRing | None

    async def _wait(self, job_id: str, wait_s: float) -> None:
        await self.supervisor.wait(job_id, wait_s)


def client_of(url: str) -> httpx.AsyncClient:
    """Return a client that has no certificates to read: there is no TLS."""
    return httpx.AsyncClient(base_url=url, timeout=60, verify=False)


async def ask(client: httpx.AsyncClient, method: str, address: str, **request: Any) -> httpx.Response:
    """Send a request and return the answer; of an open stream, which may have no end, only the head."""
    async with client.stream(method, address, **request) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()
    return answer


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals alone: two at once would put each other's handlers back."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class StartServer(Protocol):
    def __call__(
        self, *, http: HttpSettings = ..., workers: int = ..., more: tuple[PoolSpec, ...] = ...,
        audit_log: AuditLog | None = ..., tools: Callable[[Supervisor], Tools] | None = ..., **settings: Any,
    ) -> AbstractAsyncContextManager[OwnServer]: ...  # fmt: skip


@asynccontextmanager
async def serve(
    *, http: HttpSettings | None = None, workers: int = 2, more: tuple[PoolSpec, ...] = (),
    audit_log: AuditLog | None = None, engine: Callable[[Settings], Supervisor] = new_supervisor,
    tools: Callable[[Supervisor], Tools] | None = None, **settings: Any,
) -> AsyncIterator[OwnServer]:  # fmt: skip
    """Run supervisor and HTTP server; end the jobs first, so that every stream ends with its terminal event."""
    pool = PoolSpec(name="tests", modules=(str(JOBS),), **POOL | {"workers": workers})
    http = http or LONG_CHECKS
    supervisor = engine(Settings(pools=(pool, *more), **settings))
    await supervisor.start()
    try:
        app = create_app(supervisor, http, audit_log, supervisor.files, None if tools is None else tools(supervisor))
        # The timeout is for a test that failed with a connection open: uvicorn would wait for its reader for ever.
        config = uvicorn.Config(
            app,
            http=protocol_of(http, precedence=app.state.parts.turns.precedence),
            port=0,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,  # a test may have more to send before the next request than uvicorn's five seconds
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(60):
                while not (server.started or serving.done()):
                    await asyncio.sleep(0)
            port = server.servers[0].sockets[0].getsockname()[1]
            async with client_of(f"http://127.0.0.1:{port}") as client:
                yield OwnServer(client, supervisor, server.server_state.connections, app.state.parts.keys)
                await supervisor.close()
        finally:
            server.should_exit = True
            end_listening(app)
            await serving
            await close_app(app)
    finally:
        await supervisor.close()


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is the problem of this code, whole and true, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(answer.content)
    assert problem["code"] == code and problem["status"] == status
    assert problem["type"] == f"urn:killable:problem:{code}"
    assert problem["title"] and problem["detail"] and isinstance(problem["retryable"], bool)
    ours = {name: value for name, value in problem.items() if name != "job"}  # a job's own traceback is in its record
    assert "Traceback" not in str(ours)
    return problem


def refusal_of(answer: httpx.Response, path: str, status: int, code: str) -> dict[str, Any]:
    """Check the same where an address of OpenAI's answers in its own way. Return the problem, or the error."""
    if not is_openais(path):
        return problem_of(answer, status, code)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json", answer.text
    members = ["type", "error"] if is_anthropics(path) else ["error"]
    assert answer.headers["x-should-retry"] in ("true", "false") and list(answer.json()) == members
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"] and error["type"] and error["code"] == {"unauthorized": "invalid_api_key"}.get(code, code)
    assert "Traceback" not in answer.text
    return error | {"detail": error["message"]}
