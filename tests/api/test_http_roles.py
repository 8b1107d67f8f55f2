"""Each route with each role and visibility, and what a key sees that sees its own jobs only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from api_server import OwnServer, StartServer, ask, problem_of, refusal_of
from routes import routes
from support.looped_cases import cases
from support.waiting import Pending, until_async

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.route_roles import ACCESS, access_to, includes

READ, SUBMIT, OPERATE = (ApiKey(role, role, f"{role}-0123456789") for role in ("read", "submit", "operate"))
MINE = ApiKey("mine", "submit", "mine-01234567890", visibility="own")
MINE_READ = ApiKey("looker", "read", "looker-0123456789", visibility="own")
MINE_OPERATE = ApiKey("boss", "operate", "boss-01234567890", visibility="own")
KEYS = (READ, SUBMIT, OPERATE, MINE, MINE_READ, MINE_OPERATE)
HTTP = HttpSettings(keys=KEYS, failed_key_delay_s=0)


def as_(key: ApiKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.key}"}


@pytest.fixture
async def server(start_server: StartServer) -> AsyncIterator[OwnServer]:
    async with start_server(http=HTTP, workers=1, keep_jobs=4) as running:
        yield running


async def submit(server: OwnServer, key: ApiKey, type: str = "echo", once: str = "", **members: Any) -> httpx.Response:
    headers = as_(key) | ({"idempotency-key": once} if once else {})
    answer = await server.client.post("/v1/jobs", json={"type": type} | members, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer


async def ended(server: OwnServer, key: ApiKey) -> str:
    job_id: str = (await submit(server, key)).json()["job_id"]
    await server.supervisor.wait(job_id)
    return job_id


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_every_route_with_every_role_and_visibility(server: OwnServer) -> None:
    for route in sorted(routes(), key=lambda route: route.path == "/v1/shutdown"):  # which ends all others
        access = access_to(route.method, route.address)
        for key in sorted(KEYS, key=lambda key: (includes(key.role, "operate"), key.visibility != "own")):
            answer = await ask(server.client, route.method, route.address, headers=as_(key))
            case = f"{route} {key}"
            if access.role is not None and not includes(key.role, access.role):
                refusal_of(answer, route.path, 403, "forbidden")
                assert f"the role {access.role}; the role of this key is {key.role}" in answer.text, case
            elif access.whole_server and key.visibility == "own":
                assert "sees its own only" in refusal_of(answer, route.path, 403, "forbidden")["detail"], case
            else:
                assert answer.status_code not in (401, 403), case


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_an_address_that_is_spelled_otherwise_is_no_way_around_the_roles(server: OwnServer) -> None:
    """A route's pattern also fits a path with a line end behind it, which is no path that a role is known of."""
    job_id = (await submit(server, SUBMIT, type="spin")).json()["job_id"]
    for route in routes():
        if access_to(route.method, route.address).role in ("submit", "operate"):
            for end in ("%0A", "%0D", "%00", "%7F", "%0A/"):
                answer = await ask(server.client, route.method, route.address + end, headers=as_(READ))
                refusal_of(answer, route.path, 404, "not_found")
    job = (await server.client.get(f"/v1/jobs/{job_id}", headers=as_(READ))).json()
    assert job["state"] in ("queued", "running"), "nothing was done"
    assert (await server.client.get("/readyz")).status_code == 200
    await server.supervisor.cancel(job_id, grace_s=0)


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_a_key_that_may_only_read_posts_no_body(server: OwnServer) -> None:
    """It is refused before its body is received, parsed or counted."""
    for body in (b"{", b'{"type": "echo", "input": "' + b"x" * 100_000 + b'"}', b"x" * (2 << 20)):
        headers = as_(READ) | {"content-type": "application/json"}
        problem_of(await server.client.post("/v1/jobs", content=body, headers=headers), 403, "forbidden")


@pytest.mark.own_server
@pytest.mark.row("A25")
@cases("key", [MINE, MINE_READ, MINE_OPERATE])
async def test_a_job_of_another_key_is_as_one_that_never_was(server: OwnServer, key: ApiKey) -> None:
    theirs = (await submit(server, SUBMIT, type="spin")).json()["job_id"]
    never = theirs[:-12] + "0" * 12
    for route in [route for route in routes() if "{job_id}" in route.path]:
        if not includes(key.role, ACCESS[route.method, route.path].role or "read"):
            continue
        answers = [
            await server.client.request(route.method, route.path.replace("{job_id}", job_id), headers=as_(key))
            for job_id in (theirs, never)
        ]
        for answer in answers:
            problem_of(answer, 404, "unknown_job")
        assert answers[0].text.replace(theirs, "ID") == answers[1].text.replace(never, "ID"), route
        assert answers[0].headers.keys() == answers[1].headers.keys()
    assert (await server.supervisor.get(theirs)).state in ("queued", "running")  # untouched
    await server.supervisor.cancel(theirs, grace_s=0)


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_a_dropped_job_of_another_key_is_as_one_that_never_was(server: OwnServer) -> None:
    theirs, mine = await ended(server, SUBMIT), await ended(server, MINE)
    for _ in range(4):  # keep_jobs; the tenant that has the most loses its oldest one
        await ended(server, SUBMIT)
        await ended(server, MINE)
    answer = await server.client.get(f"/v1/jobs/{mine}", headers=as_(MINE))
    assert problem_of(answer, 404, "unknown_job")["dropped_by"] == "keep_jobs"
    problem = problem_of(await server.client.get(f"/v1/jobs/{theirs}", headers=as_(MINE)), 404, "unknown_job")
    assert "dropped_by" not in problem and "never existed" in problem["detail"]


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_lists_workers_and_bulk_cancels_have_own_jobs_only(server: OwnServer) -> None:
    theirs = (await submit(server, SUBMIT, type="spin")).json()["job_id"]
    running = f"the job {theirs} with a worker"
    await until_async(lambda: server.supervisor._registry.get(theirs).pid or Pending(theirs), running)
    own = (await submit(server, MINE_OPERATE, type="spin")).json()["job_id"]  # waits: there is one worker

    async def listed(key: ApiKey, **query: Any) -> set[str]:
        answer = await server.client.get("/v1/jobs", headers=as_(key), params=query)
        return {job["job_id"] for job in answer.json()["jobs"]}

    assert await listed(MINE_OPERATE) == await listed(MINE_OPERATE, state="active") == {own}
    assert await listed(MINE) == await listed(MINE_READ) == set()
    assert await listed(READ) == await listed(SUBMIT) == {theirs, own}
    for key, shown in ((MINE_OPERATE, None), (OPERATE, theirs)):
        workers = (await server.client.get("/v1/workers", headers=as_(key))).json()["workers"]
        (busy,) = [worker for worker in workers if worker["state"] == "busy"]
        assert (busy["job_id"], busy["type"]) == (shown, shown and "spin")
        alone = await server.client.get(f"/v1/workers/{busy['worker_id']}", headers=as_(key))
        assert alone.json()["job_id"] == shown
    for dry_run in (True, False):
        body = {"state": "active", "dry_run": dry_run}
        answer = await server.client.post("/v1/jobs/cancel", json=body, headers=as_(MINE_OPERATE))
        assert [job["job_id"] for job in answer.json()["jobs"]] == [own]
    assert (await server.supervisor.get(theirs)).state in ("queued", "running")  # untouched
    assert (await server.supervisor.get(own)).state == "cancelled"
    await server.supervisor.cancel(theirs, grace_s=0)


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_a_key_does_with_its_own_jobs_what_it_may(server: OwnServer) -> None:
    job_id = await ended(server, MINE)
    for part in ("", "/stream", "/output", "/result"):
        answer = await server.client.get(f"/v1/jobs/{job_id}{part}", headers=as_(MINE))
        assert answer.status_code == 200, part
    spinning = (await submit(server, MINE, type="spin")).json()["job_id"]
    answer = await server.client.delete(f"/v1/jobs/{spinning}?grace_s=0", headers=as_(MINE))
    assert answer.json()["status"] == "cancelled"
    first, again = [(await submit(server, MINE, once="k")).json()["job_id"] for _ in range(2)]
    assert first == again != (await submit(server, SUBMIT, once="k")).json()["job_id"]


@pytest.mark.row("A25")
async def test_the_server_says_what_a_key_sees_that_does_not_say(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(keys=KEYS, visibility="own"), workers=1) as server:
        theirs = await ended(server, MINE)
        for key, status in ((SUBMIT, 404), (READ, 404), (OPERATE, 200)):
            assert (await server.client.get(f"/v1/jobs/{theirs}", headers=as_(key))).status_code == status, key


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_only_the_leaving_of_its_own_client_ends_a_job(server: OwnServer) -> None:
    """Others who may read it, or who came by its idempotency key, leave before its own client has come."""
    members: dict[str, Any] = {"type": "spin", "stop_when_client_leaves": True, "once": "k"}
    job = (await submit(server, SUBMIT, **members)).json()
    joined = (await submit(server, SUBMIT, **members)).json()
    assert joined["job_id"] == job["job_id"] and joined["stream_url"] != job["stream_url"]
    found = server.supervisor._registry.get(job["job_id"])

    async def come_and_go(url: str, headers: dict[str, str], counted: int) -> None:
        before = server.supervisor._observer.sse_clients
        async with server.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            await until_async(
                lambda: server.supervisor._observer.sse_clients > before or Pending(before), "a reader that came"
            )
            assert found.readers == counted
        await until_async(
            lambda: server.supervisor._observer.sse_clients == before or Pending(before), "a reader that left"
        )

    plain = job["stream_url"].partition("?")[0]
    for url, headers in ((joined["stream_url"], {}), (plain, as_(READ)), (plain, as_(OPERATE))):
        await come_and_go(url, headers, 0)
        assert found.verdict is None, url
    await come_and_go(job["stream_url"], {}, 1)
    record = await server.supervisor.wait(job["job_id"])
    assert record.state == "cancelled" and (record.certificate or {})["by"] == "client_gone"


@pytest.mark.own_server
async def test_a_wait_that_is_left_ends_nothing(server: OwnServer) -> None:
    """Prefer: wait is no stream: neither of two that wait for one job ends it by leaving."""
    members = {"type": "spin", "stop_when_client_leaves": True}
    headers = as_(SUBMIT) | {"idempotency-key": "k", "content-type": "application/json"}
    job = (await server.client.post("/v1/jobs", json=members, headers=headers)).json()
    lines = [f"{name}: {value}" for name, value in (headers | {"prefer": "wait=60", "host": "localhost"}).items()]
    body = b'{"type":"spin","stop_when_client_leaves":true}'
    request = "\r\n".join(["POST /v1/jobs HTTP/1.1", *lines, f"content-length: {len(body)}", "", ""]).encode() + body
    connections = len(server.connections)
    _, writer = await server.raw(request)
    replayed = server.supervisor._observer.metrics.submissions
    await until_async(lambda: replayed["replayed"] == 1 or Pending(dict(replayed)), "a wait for the same job")
    writer.close()
    await writer.wait_closed()
    await until_async(
        lambda: len(server.connections) <= connections or Pending(len(server.connections)), "the client gone"
    )
    assert server.supervisor._registry.get(job["job_id"]).verdict is None
    await server.supervisor.cancel(job["job_id"], grace_s=0)
