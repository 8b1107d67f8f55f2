"""Every address with every method: what there is not is told, HEAD is GET without the body, nothing is echoed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from api_server import OwnServer, Server, StartServer, ask, problem_of, refusal_of
from routes import Route, routes
from support.engines import ENGINE
from support.looped_cases import cases
from support.waiting import until_async

from killable.api.http.app_settings import HttpSettings
from killable.api.http.openai_paths import is_openais

pytestmark = pytest.mark.own_server

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
JSON = {"content-type": "application/json"}
SHUTDOWN = Route("POST", "/v1/shutdown")
CHANGES = ("workers", "metrics", *(("nodes",) if ENGINE == "cluster" else ()))
"""Addresses with these change with every answer: usage, counts, how long ago a node was heard."""


def methods_at(address: str) -> set[str]:
    """Return what the routes that fit an address answer to: those of exactly this address, else those with a gap."""
    there_are = [*routes(), Route("GET", "/openapi.json")]
    exact = {route.method for route in there_are if route.path == address}
    found = exact or {route.method for route in there_are if route.address == address}
    return found | ({"HEAD"} if "GET" in found else set())


@pytest.mark.row("A19")
async def test_every_other_method_is_refused_with_those_that_there_are(server: Server) -> None:
    for address in sorted({route.address for route in routes()} | {"/openapi.json"}):
        there_are = methods_at(address)
        for method in set(METHODS) - there_are:
            answer = await server.client.request(method, address)
            assert set(answer.headers["allow"].split(", ")) == there_are, (method, address)
            if method == "HEAD":
                assert (answer.status_code, answer.content) == (405, b"")
            else:
                refusal_of(answer, address, 405, "method_not_allowed")


@pytest.mark.row("A19")
@cases("method", METHODS)
@cases(
    "path",
    [
        *("/pages", "/v1", "/v1/", "/v1/jobs/", "/v1/jobs/x/y", "/v1/jobs/x/stream/", "/v2/jobs", "/docs", "/redoc"),
        *("/../etc/passwd", "/v1/jobs/x/stream/s3cret", "/%00", "/v1/jobs/a%2Fb/c/d", "//v1/jobs", "/V1/JOBS"),
    ],
)
async def test_an_unknown_address(server: Server, method: str, path: str) -> None:
    answer = await server.client.request(method, path)
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (404, b"")
    else:
        problem_of(answer, 404, "not_found")
    assert "s3cret" not in answer.text


@pytest.mark.row("A19")
async def test_every_error_of_every_route_is_a_problem_that_repeats_nothing(server: Server) -> None:
    for route in routes():
        if route == SHUTDOWN:
            continue
        address = route.path.replace("{job_id}", "s3cret").replace("{worker_id}", "s3cret")
        for query, body in (("", b""), ("?s3cret=s3cret", b""), ("", b'{"s3cret": "s3cret"}'), ("", b"{s3cret")):
            headers = JSON if body else {}
            answer = await ask(server.client, route.method, address + query, content=body, headers=headers)
            assert answer.status_code < 500, (route, query, body)
            if answer.status_code >= 400:
                told = answer.json()
                code = told["error"]["code"] if is_openais(route.path) else told["code"]
                problem = refusal_of(answer, route.path, answer.status_code, code)
                if "param" in problem:  # the name of a member, at most
                    problem = {"detail": problem["detail"].replace("s3cret: is", ": is"), "code": problem["code"]}
                named = [item for item in problem.pop("faults", []) if item["pointer"] == "/s3cret"]
                assert all("s3cret" not in item["message"] for item in named), route
                assert "s3cret" not in re.sub("(query|body) /s3cret:", "", str(problem).lower()), route


async def _nothing_changes(server: Server) -> bool:
    jobs = (await server.client.get("/v1/jobs")).json()["jobs"]
    records = [await server.record(job["job_id"]) for job in jobs]
    return all("slot_ready" in (record["certificate"] or {}) for record in records)


@pytest.mark.row("A19")
async def test_head_is_get_without_the_body(server: Server) -> None:
    done = await server.submit("count", n=2)
    await server.record(done, wait_s=60)
    await server.client.post("/v1/jobs", json={"type": "echo"})
    await until_async(lambda: _nothing_changes(server), "every job has ended and its slot is warm again")
    for route in routes():
        if route.method != "GET":
            continue
        for address in {route.path.replace("{job_id}", done).replace("{worker_id}", "w-1"), route.address}:
            head, get = await server.client.head(address), await ask(server.client, "GET", address)
            assert head.content == b"" and head.status_code == get.status_code, address
            same = {"content-type", "cache-control", "x-accel-buffering", "link", "allow"}
            assert {name: head.headers.get(name) for name in same} == {name: get.headers.get(name) for name in same}
            changes = any(part in address for part in CHANGES)
            if "content-length" in head.headers and not changes:
                assert head.headers["content-length"] == get.headers["content-length"], address


@pytest.mark.row("D11")
async def test_head_of_a_stream_is_no_reader(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    members = {"input": {"gates": [str(gate)]}, "stop_when_client_leaves": True}
    job_id = await server.submit("gated", members=members)
    reader, writer = await server.raw(f"HEAD /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200") and b"\r\ncontent-type: text/event-stream" in head
    ours = server.connections.copy()
    writer.close()
    await until_async(lambda: server.connections < ours, "the server knows that it has left")
    gate.touch()
    assert (await server.record(job_id, wait_s=60))["state"] == "completed"


async def test_answers_are_never_compressed(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings()) as server:
        job_id = await server.submit("big", chars=50_000)
        await server.record(job_id, wait_s=60)
        for path in ("", "/stream", "/result", "/output"):
            answer = await server.client.get(f"/v1/jobs/{job_id}{path}", headers={"accept-encoding": "gzip, br, zstd"})
            assert answer.status_code == 200 and "content-encoding" not in answer.headers
