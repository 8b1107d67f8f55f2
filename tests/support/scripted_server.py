"""A real HTTP server whose answers a test scripts: split bytes, cut streams, problems, silence."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import httpx

ID = "job-00000000-0000-4000-8000-000000000001"
PATH = f"/v1/jobs/{ID}"


@dataclass
class Answer:
    status: int = 200
    body: bytes | Iterable[bytes] = b""
    """Several pieces travel as so many chunks."""
    kind: str = "application/json"
    cut: bool = False
    """The connection closes before the answer is over."""
    headers: dict[str, str] = field(default_factory=dict)
    first: Callable[[], object] | None = None
    """Called when the request has been read."""
    gate: threading.Event | None = None
    """Nothing is said before it is set. The end of the test sets it."""
    reset: bool = False
    """Instead of an answer, or in the middle of one with pieces, a TCP reset."""
    drop: bool = False
    """The connection closes without an answer."""


@dataclass
class Asked:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


class Script(ThreadingHTTPServer):
    """Gives each route its answers in turn, the last one for ever; remembers what was asked."""

    daemon_threads = False  # server_close waits for them: nothing is left behind
    request_queue_size = 256  # with the usual 5 a crowd of clients would wait for their SYNs to be sent again

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self.asked: list[Asked] = []
        self.gates: list[threading.Event] = []

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may leave
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the FIN that the base class sends first: a reset stays one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)
        self.gates += [answer.gate for answer in answers if answer.gate is not None]

    def asked_for(self, method: str, path: str) -> list[Asked]:
        return [request for request in self.asked if (request.method, request.path) == (method, path)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        script = cast(Script, self.server)
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answers = script.answers[self.command, path] or [problem(404, "not_found")]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        script.asked.append(Asked(self.command, path, query, headers, json.loads(body) if body else None))
        self.answer(answer)

    do_GET = do_POST = do_DELETE = do

    def answer(self, answer: Answer) -> None:
        if answer.first is not None:
            answer.first()
        if answer.gate is not None:
            answer.gate.wait()
        if answer.reset or answer.drop:
            return self.leave(answer)
        self.start(answer)
        return None

    def start(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if isinstance(answer.body, bytes):
            self.send_header("Content-Length", str(len(answer.body) if answer.status != 204 else 0))
            self.end_headers()
            self.wfile.write(answer.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.body:
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if answer.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def leave(self, answer: Answer) -> None:
        if answer.body:
            self.start(replace(answer, cut=True))
            self.wfile.flush()
        self.close_connection = True
        if answer.reset:
            now = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)  # its close is a reset

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in exactly these pieces, and then, perhaps, breaks."""

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self.pieces = pieces
        self.breaks = breaks

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.breaks:
            raise httpx.ReadError("cut")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def streaming(*pieces: bytes, breaks: bool = False, kind: str = "text/event-stream") -> httpx.Response:
    return httpx.Response(200, headers={"content-type": kind}, stream=Pieces(*pieces, breaks=breaks))


@contextmanager
def scripted() -> Iterator[Script]:
    """Run a scripted server; it ends when its clients are gone."""
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        for gate in server.gates:
            gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def as_json(value: Any, status: int = 200, **options: Any) -> Answer:
    return Answer(status, json.dumps(value).encode(), **options)


def problem(status: int, code: str, detail: str = "why", **facts: Any) -> Answer:
    members = {"type": f"urn:killable:problem:{code}", "title": "t", "status": status, "detail": detail, "code": code}
    return as_json(members | {"retryable": False} | facts, status, kind="application/problem+json")


def events(*pieces: bytes, cut: bool = False) -> Answer:
    return Answer(200, pieces, "text/event-stream; charset=utf-8", cut)


def event(id: int, name: str, data: Any) -> bytes:
    return f"id: {id}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def terminal(id: int, state: str, **members: Any) -> bytes:
    data = {
        "job_id": ID,
        "state": state,
        "result": None,
        "partial": None,
        "error": None,
        "certificate": {"requested": 0.0},
    }
    return event(id, state, data | members)


def failed(id: int, state: str, code: str, **facts: Any) -> bytes:
    return terminal(id, state, error={"code": code, "message": "because", "retryable": False, **facts})
