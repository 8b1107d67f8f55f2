"""What a client sends is parsed and checked where it holds up nobody: the event loop kills."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from api_server import Server, StartServer, problem_of
from test_http_bounds import accepted

from killable.api.http import check_pool
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.bodies import SMALL_BYTES_MAX
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

PATTERNS = """
from typing import Annotated, Any
from pydantic import BaseModel, ConfigDict, Field
from killable import job

@job
def mail(address: Annotated[str, Field(pattern=r"^([a-zA-Z0-9]+\\.?)+@x$")]) -> str:
    return address

class Looked(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")
    text: Annotated[str, Field(pattern=r"^(?=a)([a-z]+)+$")]

@job
def look(looked: Looked) -> str:
    return looked.text
"""
HOSTILE = "a" * 40 + "!"
"""Python's engine tries 2 ** 40 ways to read it."""
LARGE = "x" * (20 * SMALL_BYTES_MAX)
TEXT = LARGE.encode()
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 40000\r\n\r\n"


@pytest.fixture
def patterns(tmp_path: Path) -> PoolSpec:
    path = tmp_path / "pattern_jobs.py"
    path.write_text(PATTERNS)
    return PoolSpec(name="patterns", modules=(str(path),), workers=1, spares=0)


async def test_a_pattern_runs_in_an_engine_that_does_not_backtrack(
    start_server: StartServer, patterns: PoolSpec
) -> None:
    async with start_server(more=(patterns,)) as server:
        refused = await server.client.post("/v1/jobs", json={"type": "mail", "input": {"address": HOSTILE}})
        (fault,) = problem_of(refused, 422, "invalid")["faults"]
        assert fault["pointer"] == "/input/address" and "must match the pattern" in fault["message"]
        taken = await server.client.post("/v1/jobs", json={"type": "mail", "input": {"address": "a.b@x"}})
        assert (await server.read(taken.json()["job_id"])).end["result"] == "a.b@x"


async def test_a_check_that_takes_too_long_is_ended_and_delays_no_kill(
    start_server: StartServer, patterns: PoolSpec, tmp_path: Path
) -> None:
    http = HttpSettings(input_check_s=3.0)  # so long may a busy machine take for a kill, and for a check that is fine
    async with start_server(http=http, more=(patterns,)) as server:
        job_id = await accepted(server, tmp_path / "gate")
        while not (await server.record(job_id))["tokens"]:
            pass  # it has yet to begin
        body = {"type": "look", "input": {"looked": {"text": HOSTILE}}}
        checking = asyncio.ensure_future(server.client.post("/v1/jobs", json=body))
        killed = await server.client.delete(f"/v1/jobs/{job_id}", params={"grace_s": 0})
        assert killed.status_code == 200 and not checking.done()
        problem = problem_of(await checking, 422, "input.invalid")
        assert problem["check"] == "timeout.run" and "input_check_s of 3 s" in problem["detail"]
        fine = await server.client.post("/v1/jobs", json={"type": "look", "input": {"looked": {"text": "abc"}}})
        assert (await server.read(fine.json()["job_id"])).end["result"] == "abc"


async def test_a_large_body_is_a_job_as_a_small_one_is(server: Server) -> None:
    tags = {"team": "a"}
    await _is_accepted(server, {"type": "echo", "input": {"text": LARGE, "number": 3}, "tags": tags}, "first")
    await _is_accepted(server, {"operation": "echo", "text": LARGE, "number": 3, "tags": tags}, "second")


async def _is_accepted(server: Server, body: dict[str, Any], key: str) -> None:
    answer = await server.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["tags"] == {"team": "a"} and job["type"] == "echo"
    await server.read(job["job_id"])
    result = (await server.client.get(f"/v1/jobs/{job['job_id']}/result")).json()
    assert result == {"text": LARGE, "number": 3, "mode": "plain"}
    again = await server.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
    assert again.json()["job_id"] == job["job_id"] and again.headers["Idempotent-Replayed"] == "true"
    other = json.loads(json.dumps(body).replace("xxx", "yyy"))
    conflict = await server.client.post("/v1/jobs", json=other, headers={"Idempotency-Key": key})
    problem_of(conflict, 422, "idempotency_conflict")


FAULTS: dict[str, tuple[bytes, str, list[str]]] = {
    "number": (b'{"type": "echo", "input": {"text": "%s", "number": ""}}' % TEXT, "invalid", ["/input/number"]),
    "operation": (b'{"operation": "echo", "text": "%s", "number": "x"}' % TEXT, "invalid", ["/number"]),
    "nan": (b'{"type": "echo", "input": {"text": "%s", "number": NaN}}' % TEXT, "invalid", [""]),
    "list": (b'{"type": "echo", "input": [%s1]}' % (b"1," * SMALL_BYTES_MAX), "invalid", ["/input"]),
    "tags": (b'{"type": "echo", "tags": {"a": "%s"}}' % TEXT, "invalid", [""]),
    "no object": (b"[%s1]" % (b"1," * SMALL_BYTES_MAX), "invalid", [""]),
    "deep": (b"[" * SMALL_BYTES_MAX * 8, "malformed", []),
    "cut": (b'{"type": "echo", "input": {"text": "%s"}' % TEXT, "malformed", []),
    "no text": (b'"' + b"\xff" * (SMALL_BYTES_MAX + 1) + b'"', "malformed", []),
}


async def test_the_faults_of_a_large_body_are_told(server: Server) -> None:
    for name, (body, code, pointers) in FAULTS.items():
        headers = {"content-type": "application/json", "X-Correlation-Id": "mine"}
        answer = await server.client.post("/v1/jobs", content=body, headers=headers)
        assert answer.headers["X-Correlation-Id"] == "mine"
        problem = problem_of(answer, 400 if code == "malformed" else 422, code)
        assert [each["pointer"] for each in problem.get("faults", [])] == pointers, name


async def test_a_pool_that_cannot_check_is_said_to_be_busy(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_pool, "JOBS", "no_such_module_of_checks")
    async with start_server() as server:
        body = {"type": "echo", "input": {"text": LARGE}}
        problem = problem_of(await server.client.post("/v1/jobs", json=body), 503, "busy")
        assert problem["retryable"] and problem["detail"].startswith("The request cannot be checked now")


async def test_a_pool_that_did_not_start_is_started_by_the_next_check(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = check_pool._started

    async def without_descriptors(_: Sequence[str]) -> Supervisor:
        monkeypatch.setattr(check_pool, "_started", start)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(check_pool, "_started", without_descriptors)
    async with start_server() as server:
        body = {"type": "echo", "input": {"text": LARGE}}
        problem = problem_of(await server.client.post("/v1/jobs", json=body), 503, "busy")
        assert "Too many open files" in problem["detail"]
        assert (await server.client.post("/v1/jobs", json=body)).status_code == 202


async def test_only_a_submission_may_have_a_large_body(server: Server) -> None:
    answer = await server.client.post("/v1/jobs/cancel", json={"type": "echo", "reason": LARGE})
    problem_of(answer, 413, "too_large")


async def test_the_bodies_of_one_key_leave_room_for_those_of_others(start_server: StartServer) -> None:
    one, other = (ApiKey(name, "submit", f"{name}-0123456789") for name in ("one", "other"))
    http = HttpSettings(keys=(one, other), bodies_bytes_max=80_000, body_bytes_max=40_000)
    async with start_server(http=http) as server:
        head = HEAD.replace(b"Host:", b"Authorization: Bearer one-0123456789\r\nHost:")
        _, writer = await server.raw(head + b" " * 39_000)
        small = {"type": "echo", "input": {"text": "x" * 12_000}}

        async def status(key: ApiKey) -> int:
            headers = {"authorization": f"Bearer {key.key}"}
            return (await server.client.post("/v1/jobs", json=small, headers=headers)).status_code

        while await status(one) == 202:
            pass  # the first body is on its way
        assert (await status(one), await status(other)) == (503, 202)
        writer.close()


async def test_a_key_that_comes_later_has_its_share_of_the_bodies_and_operators_have_their_own(
    start_server: StartServer,
) -> None:
    one, other = (ApiKey(name, "submit", f"{name}-0123456789") for name in ("one", "other"))
    oncall = ApiKey("oncall", "operate", "oncall-0123456789")
    http = HttpSettings(keys=(one,), bodies_bytes_max=80_000, body_bytes_max=40_000)
    async with start_server(http=http) as server:
        head = HEAD.replace(b"Host:", b"Authorization: Bearer one-0123456789\r\nHost:")
        writers = [(await server.raw(head + b" " * 39_000))[1] for _ in range(2)]
        small = {"type": "echo", "input": {"text": "x" * 12_000}}

        async def status(key: ApiKey, path: str, body: dict[str, Any]) -> int:
            headers = {"authorization": f"Bearer {key.key}"}
            return (await server.client.post(path, json=body, headers=headers)).status_code

        while await status(one, "/v1/jobs", small) == 202:
            pass  # the first bodies are on their way
        assert server.keys is not None
        server.keys.replace((one, other, oncall))
        assert await status(other, "/v1/jobs", small) == 503, "all is taken"
        assert await status(oncall, "/v1/jobs/cancel", {"type": "echo", "reason": "maintenance"}) == 200
        writers.pop().close()
        while await status(other, "/v1/jobs", small) == 503:
            pass  # the server has yet to see that its client has left
        assert await status(one, "/v1/jobs", small) == 503, "half of it is another key's now"
        writers.pop().close()


async def test_all_bodies_together_are_bounded(start_server: StartServer) -> None:
    http = HttpSettings(bodies_bytes_max=50_000)
    async with start_server(http=http) as server:
        _, writer = await server.raw(HEAD + b" " * 39_000)
        small = {"type": "echo", "input": {"text": "x" * 12_000}}
        while (refused := await server.client.post("/v1/jobs", json=small)).status_code == 202:
            pass  # the first body is on its way
        problem = problem_of(refused, 503, "busy")
        assert problem["retryable"] and "server.bodies_bytes_max" in problem["detail"]
        assert refused.headers["retry-after"]
        writer.close()
        while (await server.client.post("/v1/jobs", json=small)).status_code == 503:
            pass  # the server has yet to see that its client has left
