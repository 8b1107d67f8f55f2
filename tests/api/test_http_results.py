"""Records, lists and results over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from api_server import Server, StartServer, problem_of
from support.looped_cases import cases

from killable.api.http.app_settings import HttpSettings
from killable.api.http.routes_outputs import encoded_bytes
from killable.api.http.writes import WRITE_BYTES
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX

RECORD = {
    *(
        "job_id",
        "first_id",
        "callback",
        "input",
        "type",
        "state",
        "created_at",
        "started_at",
        "ended_at",
        "limits",
        "tags",
        "tenant",
        "trace_id",
        "nodes",
        "queue",
        "attempt",
        "lost_attempts",
        "durable",
        "node",
    ),
    *(
        "correlation_id",
        "events",
        "attempts",
        "worker_id",
        "node",
        "pid",
        "tokens",
        "progress",
        "result",
        "partial",
        "error",
        "certificate",
        "files",
        "usage",
        "events",
        "instance_id",
    ),
}


async def test_a_checkpoint_can_be_fetched(server: Server) -> None:
    job_id = await server.submit("reports")
    record = await server.record(job_id, wait_s=60)
    assert record["partial"] == (await server.client.get(f"/v1/jobs/{job_id}/partial")).json() == {"step": 1}
    plain = await server.submit("echo")
    await server.record(plain, wait_s=60)
    problem_of(await server.client.get(f"/v1/jobs/{plain}/partial"), 409, "no_result")
    problem_of(await server.client.get("/v1/jobs/job-0/partial"), 404, "unknown_job")


@pytest.mark.row("B15")
@pytest.mark.row("A15")
@pytest.mark.row("B1")
async def test_the_record_from_running_to_the_end(server: Server) -> None:
    job_id = await server.submit("spin", members={"tags": {"team": "search"}, "limits": {"run_s": 50}})
    await server.read(job_id, until="started")
    record = await server.record(job_id)
    assert set(record) == RECORD
    assert record["state"] == "running" and record["worker_id"] and record["pid"] and record["started_at"].endswith("Z")
    assert record["tags"] == {"team": "search"} and record["limits"]["run_s"] == 50 and record["queue"] is None
    await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")
    record = await server.record(job_id)
    assert record["state"] == "cancelled" and record["ended_at"] >= record["started_at"] >= record["created_at"]
    assert record["certificate"]["exit_signal"] == "SIGKILL"
    problem_of(await server.client.get("/v1/jobs/job-0"), 404, "unknown_job")


async def test_a_result_is_the_returned_value(server: Server) -> None:
    for type, input, value in (
        ("echo", {"text": "ü"}, {"text": "ü", "number": 0, "mode": "plain"}),
        ("big", {"chars": 3}, "xxx"),
        ("say", {"values": []}, None),
    ):
        job_id = await server.submit(type, **input)
        answer = await server.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": 1000})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == value
        assert (await server.record(job_id))["result"] == value


async def test_bytes_come_as_bytes(server: Server) -> None:
    for size in (0, 1, 2, 1000, 200_000):
        job_id = await server.submit("raw", size=size)
        address = f"/v1/jobs/{job_id}/result?wait_s=60"
        answer = await server.client.get(address)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content == bytes(index % 256 for index in range(size))
        head = await server.client.head(address)
        assert head.headers["content-length"] == str(size)


async def test_whether_a_large_value_is_bytes_is_found_out_in_turns() -> None:
    """It may have 64 MiB, and what is asked for by HEAD must not hold up a kill."""
    encoded = b"QUJD" * 100_000
    for inner, is_bytes in (
        (encoded, True),
        (encoded[:-4] + b"QQ==", True),
        (encoded[:-4] + b"A===", False),
        (encoded[:-1] + b"-", False),
        (encoded[:-1], False),
    ):
        looking = asyncio.ensure_future(encoded_bytes("job-1", b'{"base64":"%b"}' % inner))
        turns = 0
        while not looking.done():
            await asyncio.sleep(0)
            turns += 1
        assert (looking.result() is not None) is is_bytes
        assert turns >= len(encoded) // WRITE_BYTES // WAKES_MAX or len(inner) % 4
    assert await encoded_bytes("job-1", b'{"base64":"QUJD","more":1}') is None
    assert await encoded_bytes("job-1", b'{"base64":"}') is None


async def test_a_long_result_stands_in_the_record_as_its_address(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(result_inline_bytes_max=100)) as server:
        short = await server.submit("big", chars=98)
        assert (await server.record(short, wait_s=60))["result"] == "x" * 98
        long = await server.submit("big", chars=99)
        record = await server.record(long, wait_s=60)
        assert record["result"] == {"$ref": f"/v1/jobs/{long}/result"}
        assert (await server.client.get(record["result"]["$ref"])).json() == "x" * 99
        partial = await server.submit("slow_clean", gate="/", value_chars=200)
        await server.read(partial, until="token")
        await server.client.delete(f"/v1/jobs/{partial}")
        address = (await server.record(partial))["partial"]["$ref"]
        assert address == f"/v1/jobs/{partial}/partial"
        assert (await server.client.get(address)).json() == "c" * 200


async def test_a_result_that_is_not_there_yet_or_never_comes(server: Server) -> None:
    running = await server.submit("spin")
    answer = await server.client.get(f"/v1/jobs/{running}/result", params={"wait_s": 0.01})
    assert answer.status_code == 202 and answer.json()["job_id"] == running and set(answer.json()) == RECORD
    failed = await server.submit("fails", message="why")
    problem = problem_of(await server.client.get(f"/v1/jobs/{failed}/result", params={"wait_s": 60}), 409, "no_result")
    assert problem["job"]["error"]["code"] == "exception" and "why" in problem["job"]["error"]["message"]
    problem_of(await server.client.get("/v1/jobs/job-0/result"), 404, "unknown_job")
    for query in ("wait_s=-1", "wait_s=nan", "wait_s=x", "wait=1"):
        problem_of(await server.client.get(f"/v1/jobs/{failed}/result?{query}"), 422, "invalid")


@pytest.mark.own_server
@pytest.mark.row("A15")
async def test_a_list_is_filtered(server: Server) -> None:
    done = await server.submit("echo", members={"tags": {"team": "search", "url": "a:b"}})
    await server.record(done, wait_s=60)
    failed = await server.submit("fails", members={"tags": {"team": "ads"}})
    await server.record(failed, wait_s=60)
    running = await server.submit("spin", members={"tags": {"team": "search"}})
    for query, expected in {
        "": [running, failed, done],
        "state=active": [running],
        "state=failed": [failed],
        "type=echo": [done],
        "type=nope": [],
        "tag=team:search": [running, done],
        "tag=url:a:b": [done],
        "tag=team:search&state=completed": [done],
        "search=x1+x2+x3+x4+x5+x6+x7+team:search": [],
        "search=team:SEARCH+echo": [done],
    }.items():
        page = (await server.client.get(f"/v1/jobs?{query}")).json()
        assert [job["job_id"] for job in page["jobs"]] == expected, query
        assert page["next_cursor"] is None
    assert set(page["jobs"][0]) < RECORD and "traceback" not in str(page)


@pytest.mark.own_server
@pytest.mark.row("A15")
async def test_pages_stay_true_while_jobs_come(server: Server) -> None:
    ids = [await server.submit("echo", number=number) for number in range(5)]
    seen: list[str] = []
    url = "/v1/jobs?limit=2&type=echo"
    while url:
        answer = await server.client.get(url)
        seen += [job["job_id"] for job in answer.json()["jobs"]]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
        assert bool(url) == (answer.json()["next_cursor"] is not None)
        await server.submit("echo", number=100)
    assert seen == ids[::-1]


@cases(
    "query",
    ["limit=0", "limit=201", "limit=x", "state=gone", "tag=team", "tag=:x", "sort=age", "search=1+2+3+4+5+6+7+8+9"],
)
async def test_a_list_that_cannot_be_meant(server: Server, query: str) -> None:
    problem = problem_of(await server.client.get(f"/v1/jobs?{query}"), 422, "invalid")
    assert problem["faults"] == [
        {"in": "query", "pointer": "/" + query.split("=")[0], "message": problem["faults"][0]["message"]}
    ]


@cases("cursor", ["nonsense", "", "²", "-1", "1" * 5000])
async def test_a_cursor_that_is_none_of_ours(server: Server, cursor: str) -> None:
    problem_of(await server.client.get("/v1/jobs", params={"cursor": cursor}), 422, "invalid")
