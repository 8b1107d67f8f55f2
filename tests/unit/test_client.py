"""The client against a real HTTP server that says exactly what a test wants: split bytes, cut streams, problems."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import httpx
import pytest

from killable.api.client import Client, NotEnded, Unreachable
from killable.workers.errors import JobCancelled, JobError, JobFailed, JobTimedOut, Refused, WorkerCrashed

ID = "job-00000000-0000-4000-8000-000000000001"
PATH = f"/v1/jobs/{ID}"


@dataclass
class Answer:
    status: int = 200
    body: bytes | Sequence[bytes] = b""
    """Several pieces travel as so many chunks."""
    kind: str = "application/json"
    cut: bool = False
    """The connection closes before the answer is over."""
    headers: dict[str, str] = field(default_factory=dict)


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

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self.asked: list[Asked] = []

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may leave
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def asked_for(self, method: str, path: str) -> list[Asked]:
        return [request for request in self.asked if (request.method, request.path) == (method, path)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        script = cast(Script, self.server)
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.asked.append(Asked(self.command, path, query, headers, json.loads(body) if body else None))
        answers = script.answers[self.command, path] or [problem(404, "not_found")]
        self.answer(answers.pop(0) if len(answers) > 1 else answers[0])

    do_GET = do_POST = do_DELETE = do

    def answer(self, answer: Answer) -> None:
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

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url) as client:
        yield client


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


# ── submitting ──


@pytest.mark.row("E1")
@pytest.mark.row("E2")
def test_submit_sends_the_request_and_knows_the_id_at_once(script: Script, client: Client) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID, "state": "queued"}, 202))
    job = client.submit("split", {"text": "x"}, limits={"run_s": 60}, tags={"team": "search"}, priority=2)
    assert (job.id, repr(job)) == (ID, f"<Job {ID}>")
    assert job.accepted == {"job_id": ID, "state": "queued"}
    assert script.asked[0].body == {
        "type": "split",
        "input": {"text": "x"},
        "limits": {"run_s": 60},
        "tags": {"team": "search"},
        "priority": 2,
        "stop_when_client_leaves": False,
    }


@pytest.mark.row("E9")
def test_a_problem_becomes_its_typed_error_with_every_fact(script: Script, client: Client) -> None:
    faults = [{"in": "body", "pointer": "/input/n", "message": "is required"}]
    script.on("POST", "/v1/jobs", problem(422, "invalid", "body /input/n: is required", faults=faults))
    with pytest.raises(Refused) as caught:
        client.submit("split")
    assert (caught.value.code, caught.value.message) == ("invalid", "body /input/n: is required")
    assert caught.value.facts == {"faults": faults, "status": 422}


def test_a_code_of_a_newer_server_is_an_error_too(script: Script, client: Client) -> None:
    script.on("GET", PATH, problem(418, "teapot", "I am one", message="a fact of that name"))
    with pytest.raises(JobFailed, match="I am one") as caught:
        client.job(ID).record()
    assert caught.value.code == "teapot"


@pytest.mark.parametrize(
    "answer",
    [Answer(502, b"<html>Bad Gateway</html>", "text/html"), Answer(200, b"[]"), Answer(404, b'{"detail":"Not Found"}')],
)
def test_an_answer_that_is_no_killable_servers_says_so(script: Script, client: Client, answer: Answer) -> None:
    script.on("GET", PATH, answer)
    with pytest.raises(Unreachable, match=f"answered {answer.status}"):
        client.job(ID).record()


@pytest.mark.row("E10")
def test_an_unreachable_server_is_named_with_the_reason() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match="connection refused; is `killable serve` running there") as caught:
            client.workers()
        with pytest.raises(Unreachable):
            list(client.job(ID))
    assert caught.value.exit_code == 69
    assert caught.value.retryable


@pytest.mark.row("E11")
def test_a_client_of_ones_own_stays_ones_own(script: Script) -> None:
    script.on("GET", "/v1/workers", as_json({"workers": []}))
    with httpx.Client(headers={"X-Mine": "1"}) as http:
        with Client(script.url, http=http, api_key="k") as client:
            assert client.workers() == []
        assert not http.is_closed
    assert (script.asked[0].headers["x-mine"], script.asked[0].headers["authorization"]) == ("1", "Bearer k")


def test_the_environment_names_server_and_key(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.on("GET", "/v1/workers", as_json({"workers": []}))
    monkeypatch.setenv("KILLABLE_URL", script.url + "/")
    monkeypatch.setenv("KILLABLE_API_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # not for loopback
    with Client() as client:
        client.workers()
    assert script.asked[0].headers["authorization"] == "Bearer secret"


def test_listing_follows_the_cursor(script: Script, client: Client) -> None:
    pages = ({"jobs": [{"job_id": "a"}], "next_cursor": "7"}, {"jobs": [{"job_id": "b"}], "next_cursor": None})
    script.on("GET", "/v1/jobs", *map(as_json, pages))
    assert [record["job_id"] for record in client.jobs(state="active", tag="team:search")] == ["a", "b"]
    assert [request.query for request in script.asked] == [
        "state=active&tag=team%3Asearch&limit=200",
        "state=active&tag=team%3Asearch&limit=200&cursor=7",
    ]


# ── streaming ──

TEXTS = ["[DONE]", "data: [CANCELLED]\n\n", "çä🦀 \u2028\u0085", "\r\n", ""]
STREAM = (
    b"retry: 1000\n\n"
    + b": ping\n\n"
    + event(0, "started", {"pid": 1})
    + b"".join(
        f"id: {number}\nevent: token\ndata: {json.dumps({'text': text}, ensure_ascii=False)}\n\n".encode()
        for number, text in enumerate(TEXTS, 1)
    )
    + b'id: 6\nevent: token\ndata:{"value":\ndata: [1,\ndata:2]}\n\n'
    + b'unknown: field\nid: 7\nevent: token\ndata: {"base64": "AP8="}\n\n'
    + terminal(8, "completed")
    + b"data: [DONE]\n\n"
)
TOKENS = [*TEXTS, [1, 2], b"\x00\xff"]


@pytest.mark.row("E6")
@pytest.mark.row("E7")
@pytest.mark.row("E12")
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_tokens_are_the_same_wherever_the_bytes_are_split(script: Script, client: Client, line_end: bytes) -> None:
    wire = STREAM.replace(b"\n", line_end)
    for at in range(len(wire) + 1):
        script.on("GET", f"{PATH}/stream", events(wire[:at], wire[at:]))
        assert list(client.job(ID)) == TOKENS, f"split at byte {at}"


@pytest.mark.row("E6")
def test_the_tokens_are_the_same_byte_by_byte(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/stream", events(*(bytes([byte]) for byte in STREAM)))
    assert list(client.job(ID)) == TOKENS


def test_events_have_ids_names_and_data(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/stream", events(event(4, "log", {"text": "x"}), terminal(5, "completed")))
    seen = list(client.job(ID).events(after=3))
    assert [(e.id, e.name, e.is_terminal) for e in seen] == [(4, "log", False), (5, "completed", True)]
    assert script.asked[0].headers["last-event-id"] == "3"


@pytest.mark.row("E3")
@pytest.mark.row("B3")
@pytest.mark.parametrize(
    ("state", "code", "kind"),
    [
        ("cancelled", "cancelled", JobCancelled),
        ("timed_out", "timeout.run", JobTimedOut),
        ("failed", "exception", JobFailed),
        ("failed", "crash", WorkerCrashed),
        ("failed", "limit.of.tomorrow", JobFailed),
    ],
)
def test_the_tokens_come_first_and_then_the_typed_error(
    script: Script, client: Client, state: str, code: str, kind: type[JobError]
) -> None:
    ending = failed(1, state, code, exit_code=3, type="ValueError")
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), ending))
    seen = []
    with pytest.raises(kind, match="because") as caught:
        for token in client.job(ID):
            seen.append(token)
    assert seen == ["a"]
    error = caught.value
    assert (error.code, error.job_id, error.exit_code, error.type) == (code, ID, 3, "ValueError")
    assert error.certificate == {"requested": 0.0}


@pytest.mark.row("E8")
@pytest.mark.parametrize("cut", [False, True])
def test_an_end_without_terminal_event_is_an_error(script: Script, client: Client, cut: bool) -> None:
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), cut=cut), events(cut=cut))
    seen = []
    with pytest.raises(WorkerCrashed, match="without its terminal event") as caught:
        for token in client.job(ID):
            seen.append(token)
    assert (seen, caught.value.code, caught.value.last_sequence) == (["a"], "supervisor_lost", 0)


@pytest.mark.row("E8")
def test_a_server_that_has_forgotten_the_job_meanwhile_is_a_lost_one(script: Script, client: Client) -> None:
    again = problem(404, "unknown_job")
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), cut=True), again)
    with pytest.raises(WorkerCrashed) as caught:
        list(client.job(ID))
    assert caught.value.code == "supervisor_lost"
    assert isinstance(caught.value.__cause__, Refused)


@pytest.mark.row("E13")
def test_a_broken_stream_is_taken_up_where_it_broke(script: Script, client: Client) -> None:
    one, two = event(0, "token", {"text": "a"}), event(1, "token", {"text": "b"})
    script.on(
        "GET", f"{PATH}/stream", events(one, two[:9], cut=True), events(two, cut=True), events(terminal(2, "completed"))
    )
    assert list(client.job(ID)) == ["a", "b"]
    assert [request.headers.get("last-event-id") for request in script.asked] == [None, "0", "1"]


def test_after_the_terminal_event_there_is_nothing(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/stream", Answer(204))
    assert list(client.job(ID).events(after=9)) == []


def test_an_unknown_job_has_no_stream(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/stream", problem(404, "unknown_job"))
    with pytest.raises(Refused) as caught:
        list(client.job(ID))
    assert caught.value.code == "unknown_job"


def test_an_id_cannot_leave_its_place_in_the_address(script: Script, client: Client) -> None:
    with pytest.raises(Refused):
        client.job("../workers?x").record()
    assert script.asked[0].path == "/v1/jobs/..%2Fworkers%3Fx"


# ── result ──


def test_a_result_is_waited_for(script: Script, client: Client) -> None:
    still = as_json({"job_id": ID, "state": "running"}, 202)
    script.on("GET", f"{PATH}/result", still, still, as_json({"tokens": 3}))
    assert client.job(ID).result() == {"tokens": 3}
    assert {request.query for request in script.asked} == {"wait_s=60.0"}


def test_a_result_of_bytes_is_bytes_and_none_is_none(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/result", Answer(200, b"\x00\x01", "application/octet-stream"), as_json(None))
    assert client.job(ID).result() == b"\x00\x01"
    assert client.job(ID).result() is None


def test_a_wait_that_is_over_leaves_the_job_alone(script: Script, client: Client) -> None:
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202))
    with pytest.raises(NotEnded, match="is running") as caught:
        client.job(ID).result(wait_s=0)
    assert (caught.value.exit_code, caught.value.record["state"]) == (75, "running")
    assert isinstance(caught.value, TimeoutError)
    assert not script.asked_for("DELETE", PATH)


@pytest.mark.row("E3")
def test_a_job_without_result_raises_how_it_ended(script: Script, client: Client) -> None:
    record = {"job_id": ID, "state": "failed", "error": {"code": "exit", "message": "it left", "exit_code": 3}}
    script.on("GET", f"{PATH}/result", problem(409, "no_result", job=record | {"certificate": None, "partial": 1}))
    with pytest.raises(WorkerCrashed, match="it left") as caught:
        client.job(ID).result()
    assert (caught.value.exit_code, caught.value.partial) == (3, 1)


# ── cancelling ──


@pytest.mark.row("E4")
def test_cancel_returns_the_ending_when_the_job_is_dead(script: Script, client: Client) -> None:
    so_far = as_json({"job_id": ID, "status": "stopping", "certificate": {"requested": 0.0}}, 202)
    dead = as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.5}})
    script.on("DELETE", PATH, so_far, dead)
    ending = client.job(ID).cancel(grace_s=0, reason="too slow")
    assert (ending.state, ending.certificate, ending.had_ended) == ("cancelled", {"tree_empty": 1.5}, False)
    assert script.asked[0].query == "grace_s=0&reason=too+slow"
    assert script.asked[0].headers["prefer"] == "wait=60"


def test_cancel_may_leave_before_the_job_is_dead(script: Script, client: Client) -> None:
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "stopping", "certificate": {}}, 202))
    ending = client.job(ID).cancel(wait_s=0)
    assert (ending.state, ending.is_over) == ("stopping", False)
    assert script.asked[0].headers["prefer"] == "wait=0"


@pytest.mark.row("E4")
def test_cancel_of_an_ended_job_is_no_error(script: Script, client: Client) -> None:
    record = {"job_id": ID, "state": "completed", "certificate": {"exited": 0.0}, "error": None}
    script.on("DELETE", PATH, problem(409, "already_ended", job=record))
    ending = client.job(ID).cancel()
    assert (ending.state, ending.had_ended, ending.certificate) == ("completed", True, {"exited": 0.0})
    with pytest.raises(Refused):
        client.job("job-other").cancel()


def test_leaving_the_block_cancels_what_still_runs(script: Script, client: Client) -> None:
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "cancelled", "certificate": {}}))
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), terminal(1, "completed")))
    with client.job(ID) as job:
        assert list(job) == ["a"]
    assert not script.asked_for("DELETE", PATH)
    with client.job(ID) as job:
        next(iter(job))
    assert len(script.asked_for("DELETE", PATH)) == 1


def test_an_error_in_the_block_is_not_hidden_by_a_server_that_is_gone(client: Client, script: Script) -> None:
    script.on("DELETE", PATH, Answer(500, b"", "text/plain"))
    with pytest.raises(ZeroDivisionError), client.job(ID):
        raise ZeroDivisionError
    with pytest.raises(Unreachable), client.job(ID):
        pass


# ── run ──


def test_run_returns_the_result(script: Script, client: Client) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json(42))
    assert client.run("add", {"a": 40}) == 42
    assert not script.asked_for("DELETE", PATH)


@pytest.mark.row("C7")
def test_the_timeout_of_run_cancels_the_remote_job(script: Script, client: Client) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202))
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.0}}))
    with pytest.raises(JobTimedOut, match="is dead") as caught:
        client.run("spin", timeout_s=0)
    assert (caught.value.code, caught.value.certificate) == ("timeout.run", {"tree_empty": 1.0})
    assert len(script.asked_for("DELETE", PATH)) == 1


def test_a_job_that_wins_the_race_against_runs_timeout_has_its_result(script: Script, client: Client) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202), as_json(42))
    script.on("DELETE", PATH, problem(409, "already_ended", job={"job_id": ID, "state": "completed"}))
    assert client.run("add", timeout_s=0) == 42


# ── where it runs ──


def test_client_and_command_need_no_linux_and_no_supervisor() -> None:
    """What Windows and macOS lack, and the supervisor, cannot be imported here."""
    program = (
        "import sys, types\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'killable.supervisor'): sys.modules[name] = None\n"
        "import killable.api.client, killable.api.cli\n"
        "sys.modules['killable.api.cli.serve'].sys = types.SimpleNamespace(platform='darwin')\n"
        "sys.argv = ['killable', 'serve']\n"
        "killable.api.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (71, "")
    assert "serve needs Linux" in done.stderr
    assert len(done.stderr.splitlines()) == 1
