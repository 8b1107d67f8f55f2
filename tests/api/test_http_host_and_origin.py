"""Who is let in, and with what body."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from support.looped_cases import cases

from killable.api.http.app_settings import HttpSettings
from killable.api.http.host_and_origin import is_loopback

HTTP = HttpSettings(allowed_hosts=("killable.example",), cors_origins=("https://app.example",), body_bytes_max=10_000)


@pytest.fixture
async def guarded(start_server: StartServer) -> AsyncIterator[Server]:
    async with start_server(http=HTTP) as server:
        yield server


@cases("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:7833", "x.localhost"])
async def test_loopback_names_are_ours(server: Server, host: str) -> None:
    assert (await server.client.get("/health", headers={"host": host})).status_code == 200


@cases(
    "host", ["evil.example", "localhost.evil.example", "evil@localhost", "localhost:", "", "10.0.0.1", "127.0.0.1.evil"]
)
async def test_any_other_host_is_misdirected(server: Server, host: str) -> None:
    problem_of(await server.client.get("/health", headers={"host": host}), 421, "misdirected")


async def test_hosts_that_the_operator_allows(guarded: Server) -> None:
    assert (await guarded.client.get("/health", headers={"host": "Killable.Example:443"})).status_code == 200
    problem_of(await guarded.client.get("/health", headers={"host": "other.example"}), 421, "misdirected")


async def test_a_request_with_two_hosts_is_misdirected(server: Server) -> None:
    reader, writer = await server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert (await reader.readline()).split()[1] in (b"421", b"400")
    writer.close()
    await writer.wait_closed()


@cases("origin", ["https://evil.example", "null", "http://localhost:1"])
async def test_a_foreign_page_is_refused(server: Server, origin: str) -> None:
    headers = {"origin": origin, "content-type": "application/json"}
    answer = await server.client.post("/v1/jobs", content=b'{"type": "echo"}', headers=headers)
    problem_of(answer, 403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


async def test_our_own_page_is_let_in(server: Server) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    assert (await server.client.get("/health", headers={"origin": origin})).status_code == 200


async def test_pages_that_the_operator_allows(guarded: Server) -> None:
    origin = {"origin": "https://app.example"}
    answer = await guarded.client.get("/health", headers=origin)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
    preflight = origin | {"access-control-request-method": "DELETE", "access-control-request-headers": "prefer"}
    answer = await guarded.client.options("/v1/jobs/x", headers=preflight)
    assert answer.status_code == 200 and "DELETE" in answer.headers["access-control-allow-methods"]
    problem_of(await guarded.client.options("/v1/jobs", headers=preflight | {"origin": "https://b"}), 403, "forbidden")


@cases("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_that_a_form_could_send_is_refused(server: Server, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await server.client.post("/v1/jobs", content=b'{"type": "echo"}', headers=headers)
    problem_of(answer, 415, "unsupported_media_type")


async def test_the_content_type_may_have_parameters(server: Server) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = await server.client.post("/v1/jobs", content=b'{"type": "echo"}', headers=headers)
    assert answer.status_code == 202


async def test_a_body_over_the_bound_with_its_length_given(guarded: Server) -> None:
    answer = await guarded.client.post("/v1/jobs", json={"type": "echo", "input": {"text": "x" * 10_000}})
    problem_of(answer, 413, "too_large")


async def test_a_body_over_the_bound_in_chunks(guarded: Server) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"type": "echo", "input": {"text": "'
        for _ in range(20):
            yield b"x" * 1000
        yield b'"}}'

    headers = {"content-type": "application/json"}
    problem_of(await guarded.client.post("/v1/jobs", content=body(), headers=headers), 413, "too_large")


async def test_a_body_at_the_bound_is_taken(guarded: Server) -> None:
    start, end = b'{"type": "echo", "input": {"text": "', b'"}}'
    body = start + b"x" * (HTTP.body_bytes_max - len(start) - len(end)) + end
    answer = await guarded.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 202
    body = start + b"x" + body[len(start) :]
    answer = await guarded.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    problem_of(answer, 413, "too_large")


@cases(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/jobs/x", "GET, HEAD, DELETE"),
        ("POST", "/v1/jobs/x/stream", "GET, HEAD"),
        ("GET", "/v1/jobs/x/cancel", "POST"),
        ("HEAD", "/v1/jobs/x/cancel", "POST"),
        ("DELETE", "/health", "GET, HEAD"),
        ("PUT", "/mcp", "GET, HEAD, POST, DELETE"),
    ],
)
async def test_other_methods(server: Server, method: str, path: str, allow: str) -> None:
    answer = await server.client.request(method, path)
    assert answer.headers["allow"] == allow and answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == 405
    if method != "HEAD":
        problem_of(answer, 405, "method_not_allowed")


@cases("path", ["/pages", "/v1", "/v1/jobs/", "/v1/jobs/x/y", "/docs", "/../etc/passwd"])
async def test_other_addresses(server: Server, path: str) -> None:
    problem_of(await server.client.get(path), 404, "not_found")


async def test_several_requests_on_one_connection_after_a_refusal(guarded: Server) -> None:
    for _ in range(2):
        answer = await guarded.client.post("/v1/jobs", json={"type": "echo", "input": {"text": "x" * 10_000}})
        problem_of(answer, 413, "too_large")
        assert (await guarded.client.get("/health")).status_code == 200


def test_what_loopback_means() -> None:
    assert all(is_loopback(name) for name in ("localhost", "a.localhost", "127.0.0.1", "127.255.0.9", "::1"))
    assert not any(is_loopback(name) for name in ("", "localhost.", "127.1", "0.0.0.0", "::", "example", "xlocalhost"))


@pytest.mark.own_server
async def test_a_fault_of_the_server_is_told_without_its_traceback(server: OwnServer) -> None:
    from killable.api.app import create_app

    app = create_app(server.supervisor)

    async def broken() -> None:
        raise RuntimeError("s3cret")

    app.add_api_route("/broken", broken)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/broken")
    problem_of(answer, 500, "internal")
    assert "s3cret" not in answer.text
