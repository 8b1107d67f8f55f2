"""Who may what where there are API keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import Server, StartServer, problem_of, refusal_of
from httpx_sse import aconnect_sse
from routes import routes
from support.looped_cases import cases

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.failed_keys import FREE
from killable.supervisor.settings import PoolSpec

SUBMIT, OPERATE = ApiKey("dashboard", "submit", "submit-0123456789"), ApiKey("oncall", "operate", "operate-0123456789")
ORIGIN = {"origin": "https://app.example"}
HTTP = HttpSettings(keys=(SUBMIT, OPERATE), cors_origins=("https://app.example",))
OPEN = {"/livez", "/health", "/readyz"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
async def locked(start_server: StartServer) -> AsyncIterator[Server]:
    async with start_server(http=HTTP, workers=1) as server:
        yield server


@pytest.fixture
async def as_submitter(locked: Server) -> Server:
    locked.client.headers.update(bearer(SUBMIT.key))
    return locked


@pytest.mark.row("A25")
async def test_every_route_but_the_probes_needs_a_key(locked: Server) -> None:
    for route in routes():
        answer = await locked.client.request(route.method, route.address)
        if route.path in OPEN:
            assert answer.status_code == 200, route
        else:
            refusal_of(answer, route.path, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer", route
    for method, path in (("GET", "/openapi.json"), ("GET", "/nothing"), ("PUT", "/v1/jobs"), ("OPTIONS", "/v1/jobs")):
        problem_of(await locked.client.request(method, path), 401, "unauthorized")
    assert (await locked.client.head("/v1/jobs")).status_code == 401


@pytest.mark.row("A25")
@cases(
    "value",
    [
        *("", "Bearer", f"Basic {SUBMIT.key}", SUBMIT.key, f"Bearer {SUBMIT.key}x", f"Bearer {SUBMIT.name}"),
        *(f"Bearer {SUBMIT.key} {OPERATE.key}", "Bearer \xff", f"Bearer{SUBMIT.key}"),
    ],
)
async def test_what_is_no_key(locked: Server, value: str) -> None:
    headers: Any = {"authorization": value.encode("latin-1")}
    answer = await locked.client.get("/v1/info", headers=headers)
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "0123456789" not in answer.text


@cases("second", [("authorization", f"Bearer {OPERATE.key}"), ("x-api-key", SUBMIT.key)])
async def test_two_keys_are_none(locked: Server, second: tuple[str, str]) -> None:
    headers = [("authorization", f"Bearer {SUBMIT.key}"), second]
    problem_of(await locked.client.get("/v1/info", headers=headers), 401, "unauthorized")


async def test_a_key_comes_as_clients_of_anthropic_send_it_too(locked: Server) -> None:
    answer = await locked.client.get("/v1/info", headers={"x-api-key": SUBMIT.key})
    assert answer.json()["caller"]["name"] == SUBMIT.name
    answer = await locked.client.get("/v1/info", headers={"x-api-key": f"{SUBMIT.key}x"})
    assert "X-Api-Key" in problem_of(answer, 401, "unauthorized")["detail"]


@pytest.mark.row("A25")
async def test_a_job_belongs_to_the_name_of_the_key(as_submitter: Server) -> None:
    assert (await as_submitter.record(await as_submitter.submit("echo")))["tenant"] == "dashboard"


async def test_without_keys_everyone_may_everything(server: Server) -> None:
    assert (await server.record(await server.submit("echo")))["tenant"] == "default"
    answer = await server.client.post("/v1/jobs/cancel", json={"state": "active"}, headers=bearer("whatever"))
    assert answer.status_code == 200
    answer = await server.client.post("/v1/jobs", json={"type": "echo"})
    assert answer.json()["stream_url"] == f"{answer.headers['location']}/stream"


@pytest.mark.row("A25")
async def test_a_stream_can_be_read_with_the_ticket_in_its_address(locked: Server) -> None:
    answer = await locked.client.post("/v1/jobs", json={"type": "count", "input": {"n": 2}}, headers=bearer(SUBMIT.key))
    url, job_id = answer.json()["stream_url"], answer.json()["job_id"]
    assert url.startswith(f"/v1/jobs/{job_id}/stream?ticket=") and answer.json()["sse_url"] == url
    async with aconnect_sse(locked.client, "GET", url) as source:
        assert [event.event async for event in source.aiter_sse()] == ["started", "token", "token", "completed"]
    assert (await locked.client.head(url)).status_code == 200
    ticket = url.partition("?")[2]
    other = (await locked.client.post("/v1/jobs", json={"type": "echo"}, headers=bearer(SUBMIT.key))).json()["job_id"]
    for method, address in (
        ("GET", f"/v1/jobs/{other}/stream?{ticket}"),
        ("GET", f"/v1/jobs/{job_id}/stream?{ticket}0"),
        ("GET", f"/v1/jobs/{job_id}/stream?{ticket}&{ticket}"),
        ("GET", f"/v1/jobs/{job_id}/stream?ticket="),
        ("GET", f"/v1/jobs/{job_id}/stream"),
        ("GET", f"/v1/jobs/{job_id}?{ticket}"),
        ("GET", f"/v1/jobs/{job_id}/result?{ticket}"),
        ("GET", f"/v1/jobs?{ticket}"),
        ("POST", f"/v1/jobs/{job_id}/stream?{ticket}"),
        ("DELETE", f"/v1/jobs/{job_id}?{ticket}"),
        ("POST", f"/v1/jobs/{job_id}/cancel?{ticket}"),
    ):
        problem_of(await locked.client.request(method, address), 401, "unauthorized")


async def test_pages_may_send_what_the_contract_has(locked: Server) -> None:
    wanted = "authorization, idempotency-key, x-correlation-id, prefer, last-event-id, content-type"
    preflight = ORIGIN | {"access-control-request-method": "POST", "access-control-request-headers": wanted}
    answer = await locked.client.options("/v1/jobs", headers=preflight)  # without a key, as browsers ask
    assert answer.status_code == 200
    assert set(wanted.split(", ")) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
    for wrong in ({"access-control-request-method": "PUT"}, {"access-control-request-headers": "x-other"}):
        problem_of(await locked.client.options("/v1/jobs", headers=preflight | wrong), 403, "forbidden")
    answer = await locked.client.post("/v1/jobs", json={"type": "echo"}, headers=ORIGIN | bearer(SUBMIT.key))
    exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
    assert exposed >= {"location", "link", "retry-after", "x-correlation-id", "idempotent-replayed"}
    answer = await locked.client.get("/v1/jobs", headers=ORIGIN)
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]  # so that the page can read why


async def test_the_description_says_who_may(as_submitter: Server) -> None:
    description = (await as_submitter.client.get("/openapi.json")).json()
    assert description["security"] == [{"key": []}]
    assert description["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for route in routes():
        operation = description["paths"][route.path][route.method.lower()]
        assert (operation.get("security") == []) == (route.path in OPEN), route
        assert ("401" in operation["responses"]) == (route.path not in OPEN), route


@pytest.mark.row("A25")
async def test_a_probe_without_a_key_sees_no_traceback(start_server: StartServer, tmp_path: Path) -> None:
    module = tmp_path / "broken.py"
    module.write_text('raise RuntimeError("postgres://user:PASSWORD1@db/ failed")\n')
    broken = PoolSpec(name="broken", modules=(str(module),), workers=1)
    async with start_server(http=HTTP, more=(broken,)) as server:
        plain = await server.client.get("/readyz")
        assert plain.status_code == 200 and plain.json()["status"] == "degraded"
        assert "broken" in plain.text and "PASSWORD1" not in plain.text
        known = await server.client.get("/readyz", headers=bearer(SUBMIT.key))
        assert "PASSWORD1" in known.text


@pytest.mark.row("A25")
async def test_wrong_keys_wait_and_right_ones_from_the_same_address_do_not(start_server: StartServer) -> None:
    """The answer to a wrong one would come after the test: a right one overtakes it."""
    http = HttpSettings(keys=(SUBMIT, OPERATE), failed_key_delay_s=3600)
    async with start_server(http=http, workers=1) as server:
        for _ in range(FREE):
            problem_of(await server.client.get("/v1/info", headers=bearer("wrong-0123456789")), 401, "unauthorized")
        waiting = [asyncio.create_task(server.client.get("/v1/info", headers=bearer("wrong-0123456789")))]
        waiting += [asyncio.create_task(server.client.get("/v1/info"))]
        for _ in range(30):  # round trips, in each of which a refusal that does not wait would have come
            assert (await server.client.get("/v1/info", headers=bearer(SUBMIT.key))).status_code == 200
        assert (await server.client.get("/livez")).status_code == 200
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


@pytest.mark.row("A25")
async def test_a_key_that_has_expired_is_told_so(start_server: StartServer) -> None:
    over = replace(SUBMIT, expires="2026-01-31T08:00:00Z")
    later = replace(OPERATE, expires="2999-01-31T08:00:00+01:00")
    async with start_server(http=HttpSettings(keys=(over, later)), workers=1) as server:
        answer = await server.client.get("/v1/info", headers=bearer(SUBMIT.key))
        told = problem_of(answer, 401, "unauthorized")["detail"]
        assert told == "The key dashboard expired at 2026-01-31T08:00:00Z"
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert (await server.client.get("/v1/info", headers=bearer(OPERATE.key))).status_code == 200
