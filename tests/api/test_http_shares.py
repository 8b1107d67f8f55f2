"""Shares of tenants over HTTP: what is refused, with which headers, and what a tenant sees of itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from api_server import OwnServer, Server, StartServer, problem_of

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.supervisor.jobs import submission_rate

ANN, BOB = ApiKey("ann", "submit", "ann-0123456789abcdef"), ApiKey("bob", "submit", "bob-0123456789abcdef")
ONCALL = ApiKey("oncall", "operate", "oncall-0123456789abcdef")
HTTP = HttpSettings(keys=(ANN, BOB, ONCALL))
TENANTS = {
    "default": {"streams_max": 2},
    "ann": {"queue_jobs_max": 2, "priority_max": 5, "caps": {"run_s": 60.0}},
    "bob": {"submissions_per_s": 0.005},
    "nobody": {"running_max": 1},
}


@pytest.fixture
async def shared_out(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnServer]:
    """Bob may submit five jobs at once, and one more after minutes: a busy machine takes seconds for what is sent."""
    monkeypatch.setattr(submission_rate, "WINDOW_S", 1000)
    async with start_server(http=HTTP, workers=1, tenants=TENANTS, queue_jobs_max=10) as server:
        yield server
        await server.client.post("/v1/jobs/cancel", json={"state": "active", "grace_s": 0}, headers=of(ONCALL))


def of(key: ApiKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.key}"}


async def post(server: Server, key: ApiKey, type: str = "spin", **members: Any) -> httpx.Response:
    return await server.client.post("/v1/jobs", json={"type": type, "input": {}} | members, headers=of(key))


async def runs(server: Server, key: ApiKey) -> str:
    """Submit a job that runs until it is stopped, and wait until it has begun."""
    job_id: str = (await post(server, key)).json()["job_id"]
    server.client.headers.update(of(key))
    await server.read(job_id, until="started")
    del server.client.headers["authorization"]
    return job_id


async def test_a_full_share_of_the_queue_is_429_with_what_is_left_and_others_get_in(shared_out: OwnServer) -> None:
    running = await runs(shared_out, ANN)
    for _ in range(2):
        assert (await post(shared_out, ANN, priority=5)).status_code == 202
    full = await post(shared_out, ANN)
    told = problem_of(full, 429, "tenant_queue_full")
    assert told["retryable"] and (told["bound"], told["limit"], told["tenant"]) == ("queue_jobs_max", 2, "ann")
    assert full.headers["ratelimit-policy"] == '"queue_jobs_max";q=2'
    assert full.headers["ratelimit"] == f'"queue_jobs_max";r=0;t={full.headers["retry-after"]}'
    new = (await post(shared_out, BOB, priority=-1000)).json()
    assert new["queue"]["position"] == 0
    await shared_out.client.delete(f"/v1/jobs/{running}?grace_s=0", headers=of(ANN))
    shared_out.client.headers.update(of(BOB))
    assert (await shared_out.read(new["job_id"], until="started")).names == ["started"]


async def test_what_a_tenant_may_not_ask_for(shared_out: OwnServer) -> None:
    told = problem_of(await post(shared_out, ANN, priority=6), 422, "priority_over_max")
    assert (told["priority_max"], told["asked"]) == (5, 6)
    told = problem_of(await post(shared_out, ANN, limits={"run_s": 61}), 422, "limit_over_cap")
    assert told["cap"] == 60
    assert (await post(shared_out, ONCALL, priority=1000, limits={"run_s": 61})).status_code == 202


async def test_submissions_are_counted_before_their_bodies_are_read(shared_out: OwnServer) -> None:
    answers = [await post(shared_out, BOB, "echo") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [202] * 5
    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"submissions_per_s";q=5;w=1000'] * 5
    assert [answer.headers["ratelimit"].partition(";t")[0] for answer in answers] == [
        f'"submissions_per_s";r={left}' for left in (4, 3, 2, 1, 0)
    ]
    reader, writer = await shared_out.raw(
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
        b"Authorization: Bearer %b\r\n\r\n{" % BOB.key.encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    again = re.search(rb"retry-after: (\d+)\r\n", head.lower())
    assert head.startswith(b"HTTP/1.1 429") and again is not None and 100 < int(again[1]) <= 200
    writer.close()
    many = await post(shared_out, BOB, "echo")
    assert 100 < problem_of(many, 429, "too_many_submissions")["retry_after_s"] <= int(again[1])
    assert many.headers["ratelimit"].startswith('"submissions_per_s";r=0;t=')
    assert (await post(shared_out, ANN, "echo")).status_code == 202
    counted = (await shared_out.client.get("/v1/metrics", headers=of(ONCALL))).json()
    assert counted["refused"]["too_many_submissions"] == 2


async def test_a_submission_that_is_repeated_is_answered_also_at_its_tenants_rate(shared_out: OwnServer) -> None:
    """Its client has lost the first answer; a refusal would be taken for that one."""
    echo, key = {"type": "echo", "input": {}}, {"idempotency-key": "mine"}
    first, again = [await shared_out.client.post("/v1/jobs", json=echo, headers=of(BOB) | key) for _ in range(2)]
    assert again.headers["idempotent-replayed"] == "true" and "ratelimit" not in again.headers
    others = [await post(shared_out, BOB, "echo") for _ in range(5)]
    assert [other.status_code for other in others] == [202] * 4 + [429], "what starts nothing has not counted"
    again = await shared_out.client.post("/v1/jobs", json=echo, headers=of(BOB) | key)
    assert again.json()["job_id"] == first.json()["job_id"]
    theirs = await shared_out.client.post("/v1/jobs", json=echo, headers=of(BOB) | {"idempotency-key": "another"})
    assert theirs.status_code == 429


async def test_repeats_of_known_keys_have_the_same_rate_for_themselves(shared_out: OwnServer) -> None:
    echo, key = {"type": "echo", "input": {}}, {"idempotency-key": "mine"}
    first = await shared_out.client.post("/v1/jobs", json=echo, headers=of(BOB) | key)
    again = [await shared_out.client.post("/v1/jobs", json=echo, headers=of(BOB) | key) for _ in range(6)]
    assert [answer.status_code for answer in (first, *again)] == [202] * 6 + [429]
    told = problem_of(again[-1], 429, "too_many_submissions")
    assert told["retryable"] and "repeats" in told["detail"] and 100 < told["retry_after_s"] <= 200
    others = [await post(shared_out, BOB, "echo") for _ in range(4)]
    assert [other.status_code for other in others] == [202] * 4, "what is new has its own"


async def test_streams_are_bounded_by_tenant_and_a_ticket_counts_for_its_jobs(shared_out: OwnServer) -> None:
    job = (await post(shared_out, ANN)).json()
    urls = (job["stream_url"], job["stream_url"].partition("?")[0])
    readers = [
        await shared_out.raw(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (url.encode(), key))
        for url, key in zip(urls, (b"", b"Authorization: Bearer %b\r\n" % ANN.key.encode()), strict=True)
    ]
    for reader, _ in readers:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    refused = await shared_out.client.get(urls[1], headers=of(ANN))
    told = problem_of(refused, 429, "too_many_streams")
    assert (told["bound"], told["limit"], told["tenant"]) == ("streams_max", 2, "ann")
    assert refused.headers["ratelimit"] == '"streams_max";r=0' and refused.headers["retry-after"] == "1"
    async with shared_out.client.stream("GET", urls[1], headers=of(ONCALL)) as answer:
        assert answer.status_code == 200
    for _, writer in readers:
        writer.close()
    while shared_out.supervisor._tenants.streams["ann"]:
        await asyncio.sleep(0)
    async with shared_out.client.stream("GET", urls[1], headers=of(ANN)) as answer:
        assert answer.status_code == 200


async def test_a_tenant_sees_its_own_use_and_an_operator_everybodys(shared_out: OwnServer) -> None:
    await runs(shared_out, ANN)
    await post(shared_out, ANN)
    (own,) = (await shared_out.client.get("/v1/tenants", headers=of(ANN))).json()["tenants"]
    assert (own["tenant"], own["running"], own["queued"], own["streams"]) == ("ann", 1, 1, 0)
    assert own["queued_bytes"] == len(json.dumps({}))
    assert own["bounds"]["queue_jobs_max"] == 2 and own["bounds"]["streams_max"] == 2
    assert own["bounds"]["running_max"] is None and own["bounds"]["caps"] == {"run_s": 60.0}
    (own,) = (await shared_out.client.get("/v1/tenants", headers=of(BOB))).json()["tenants"]
    assert (own["tenant"], own["running"], own["bounds"]["queue_jobs_max"]) == ("bob", 0, 5)
    await post(shared_out, ONCALL, "echo")
    everybody = (await shared_out.client.get("/v1/tenants", headers=of(ONCALL))).json()["tenants"]
    assert [(tenant["tenant"], tenant["has_key"]) for tenant in everybody] == [
        ("ann", True),
        ("bob", True),
        ("nobody", False),
        ("oncall", True),
    ]
    assert not any(everybody[-1]["bounds"].values()), "an operator without a table has none"
    scrape = (await shared_out.client.get("/metrics", headers=of(ONCALL))).text
    assert 'killable_tenant_jobs{state="running",tenant="ann"} 1.0' in scrape
    assert 'killable_tenant_jobs{state="queued",tenant="ann"} 1.0' in scrape


async def test_a_key_whose_job_is_no_longer_kept_has_the_first_answer_again(start_server: StartServer) -> None:
    async with start_server(workers=1, keep_jobs=1) as server:
        body, key = {"type": "echo", "input": {}}, {"idempotency-key": "order-7"}
        first = (await server.client.post("/v1/jobs", json=body, headers=key)).json()
        await server.record(first["job_id"], wait_s=30)
        await server.record(await server.submit("echo"), wait_s=30)
        problem_of(await server.client.get(f"/v1/jobs/{first['job_id']}"), 404, "unknown_job")
        again = await server.client.post("/v1/jobs", json=body, headers=key | {"prefer": "wait=30"})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        assert (again.json()["job_id"], again.json()["state"]) == (first["job_id"], first["state"])
