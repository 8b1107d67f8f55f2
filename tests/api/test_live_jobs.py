"""The stream of jobs: the list, then what changes of it, for any number of readers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from live import reading
from support.looped_cases import cases
from support.waiting import Pending, until_async

from killable.api.client.async_client import AsyncClient
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.live_schemas import JobsEvent
from killable.api.http.schemas import ShortJob
from killable.supervisor.telemetry import job_watch

pytestmark = pytest.mark.own_server

JOBS = "/v1/jobs/stream"
OPERATE = ApiKey("boss", "operate", "boss-01234567890")
MINE = ApiKey("mine", "submit", "mine-01234567890", visibility="own")
THEIRS = ApiKey("theirs", "submit", "theirs-0123456789", visibility="own")


def as_(key: ApiKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.key}"}


@pytest.mark.row("A27")
async def test_a_job_is_told_as_it_changes(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with reading(server.client, JOBS) as reader:
        headers = reader.response.headers
        assert headers["content-type"].startswith("text/event-stream") and headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no" and headers["x-content-type-options"] == "nosniff"
        name, first = await reader.next()
        assert name == "jobs" and first["jobs"] == [] and first["total"] == 0
        JobsEvent.model_validate(first, strict=True)
        job_id = await server.submit("gated", gates=[str(gate)], members={"tags": {"a": "b"}})
        job = await reader.until("job", lambda job: job["tokens"] == 1)
        ShortJob.model_validate(job)
        (listed,) = (await server.client.get("/v1/jobs")).json()["jobs"]
        assert job == listed and job["state"] == "running" and job["job_id"] == job_id
        gate.touch()
        ended = await reader.until_job(job_id, "completed")
        assert ended["tokens"] == 2
        counts = await reader.until("counts", lambda counts: counts["completed"] == 1)
        assert counts["total"] == 1 and counts["running"] == 0


@pytest.mark.row("A27")
async def test_the_end_is_told_however_many_changes_there_were(server: OwnServer) -> None:
    async with reading(server.client, JOBS) as reader:
        await reader.next()
        ids = [await server.submit("echo") for _ in range(40)]
        left = set(ids)
        while left:
            job = await reader.until("job", lambda job: job["state"] == "completed")
            assert job["job_id"] in left, "told twice"
            left.remove(job["job_id"])
        told = [data["job_id"] for name, data in reader.seen if name == "job"]
        assert set(told) == set(ids)


@pytest.mark.row("A27")
async def test_who_waits_is_told_its_place_as_others_leave_the_queue(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        async with reading(server.client, JOBS, state="running") as reader:
            await reader.next()
            await reader.until_job(await server.submit("spin"), "running")
        first, second, last = [await server.submit("spin") for _ in range(3)]

        async with reading(server.client, JOBS, state="queued") as reader:
            _, listed = await reader.next()
            assert [job["queue"]["position"] for job in listed["jobs"]] == [2, 1, 0]
            await server.supervisor.cancel(first, grace_s=0)
            left = {(second, 0), (last, 1)}
            while left:
                job = await reader.until("job")
                left.discard((job["job_id"], (job["queue"] or {}).get("position")))


@pytest.mark.row("A27")
async def test_a_filter_tells_what_fits_and_what_ceases_to(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with reading(server.client, JOBS, state="active", type="gated") as reader:
        await reader.next()
        other = await server.submit("echo")
        job_id = await server.submit("gated", gates=[str(gate)])
        await reader.until("job", lambda job: job["job_id"] == job_id)
        gate.touch()
        assert await reader.until("gone") == {"job_id": job_id}
        counts = await reader.until("counts", lambda counts: counts["completed"] == 1)
        assert counts["total"] == 0, "of all states, but for `total`"
        assert other not in json.dumps(reader.seen)


@pytest.mark.row("A27")
@cases(
    "query",
    [
        *({"state": "failed"}, {"type": "spin"}, {"tag": "a:b"}, {"tenant": "x"}, {"node": "x"}),
        *({"code": "timeout"}, {"search": "nothing of this"}),
    ],
)
async def test_a_filter_that_fits_nothing_tells_nothing(server: Server, query: dict[str, str]) -> None:
    async with reading(server.client, JOBS, **query) as reader, reading(server.client, JOBS) as all_jobs:
        assert (await reader.next())[1]["jobs"] == []
        await server.record(await server.submit("echo"), wait_s=60)
        await all_jobs.until("counts")
        assert [name for name, _ in reader.seen] == ["jobs"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while (await reader.next())[0] == "counts":  # by state they may change
                    pass


@pytest.mark.row("A27")
async def test_a_reader_goes_on_after_the_last_event_it_has(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with reading(server.client, JOBS, state="running") as reader:
        await reader.next()
        job_id = await server.submit("gated", gates=[str(gate)])
        await reader.until_job(job_id, "running")
    gate.touch()
    await server.record(job_id, wait_s=60)
    later = await server.submit("spin")
    async with reading(server.client, JOBS, after=reader.last_id, state="running") as again:
        assert await again.until("gone") == {"job_id": job_id}
        await again.until_job(later, "running")
        assert "jobs" not in [name for name, _ in again.seen]
    await server.supervisor.cancel(later, grace_s=0)


@pytest.mark.row("A27")
@cases("after", ["0", "7", "999999999999999999", "9" * 5000])
async def test_an_id_that_is_not_known_gets_the_list(server: OwnServer, after: str) -> None:
    job_id = await server.submit("echo")
    await server.record(job_id, wait_s=60)
    async with reading(server.client, JOBS, after=after) as reader:
        name, first = await reader.next()
        assert name == "jobs" and job_id in [job["job_id"] for job in first["jobs"]]


@cases("after", ["x", "-1", "1.5", "١", "0x10", "\xff"])
async def test_an_id_that_is_none_is_refused(server: Server, after: str) -> None:
    problem_of(await server.client.get(JOBS, headers=[(b"last-event-id", after.encode())]), 422, "invalid")


@pytest.mark.row("A27")
async def test_a_reader_that_is_too_far_behind_gets_the_list_anew(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watch, "CHANGES_MAX", 3)
    async with reading(server.client, JOBS) as reader:
        await reader.next()
        await server.record(await server.submit("echo"), wait_s=60)
        await reader.until("counts")
    for _ in range(5):
        await server.record(await server.submit("echo"), wait_s=60)
    async with reading(server.client, JOBS, after=reader.last_id) as again:
        name, first = await again.next()
        assert name == "jobs" and first["total"] == 6


@pytest.mark.row("A27")
async def test_a_job_that_is_no_longer_kept_is_gone(start_server: StartServer) -> None:
    async with start_server(workers=1, keep_jobs=2) as server, reading(server.client, JOBS) as reader:
        await reader.next()
        ids = [await server.submit("echo") for _ in range(4)]
        assert {(await reader.until("gone"))["job_id"] for _ in range(2)} <= set(ids)
        counts = await reader.until("counts", lambda counts: counts["total"] == 2)
        assert counts["completed"] == 2


@pytest.mark.row("A27")
async def test_nothing_runs_while_nobody_reads(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_watch, "LINGER_S", 0.0)
    async with start_server(workers=1) as server:
        observer = server.supervisor._observer
        assert observer.job_watch is None
        async with reading(server.client, JOBS) as reader:
            await reader.next()
            assert observer.job_watch is not None
        await until_async(lambda: _is_none(observer), "nobody is told of changes any more")
        async with reading(server.client, JOBS, after=reader.last_id) as again:
            assert (await again.next())[0] == "jobs"


async def _is_none(observer: Any) -> bool:
    return observer.job_watch is None


@pytest.mark.row("A27")
async def test_the_end_of_the_server_ends_the_stream_after_the_last_job(start_server: StartServer) -> None:
    async with start_server(workers=1) as server, reading(server.client, JOBS) as reader:
        await reader.next()
        job_id = await server.submit("spin")
        await reader.until_job(job_id, "running")
        closing = asyncio.ensure_future(server.supervisor.close(grace_s=0))
        rest = await reader.rest()
        await closing
        assert rest[-1] == ("end", {"reason": "shutdown"})
        assert "cancelled" in [data["state"] for name, data in rest if name == "job"]


@pytest.mark.row("A27")
async def test_a_key_sees_its_own_jobs_only(start_server: StartServer) -> None:
    http = HttpSettings(keys=(OPERATE, MINE, THEIRS))
    async with start_server(http=http, workers=1) as server:

        async def submit(key: ApiKey) -> str:
            answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=as_(key))
            job_id: str = answer.json()["job_id"]
            await server.supervisor.wait(job_id)
            return job_id

        before = await submit(THEIRS)
        async with (
            reading(server.client, JOBS, headers=as_(MINE)) as mine,
            reading(server.client, JOBS, headers=as_(MINE), tenant="theirs") as asked,
            reading(server.client, JOBS, headers=as_(OPERATE)) as everyone,
        ):
            assert (await mine.next())[1]["total"] == (await asked.next())[1]["total"] == 0
            assert [job["job_id"] for job in (await everyone.next())[1]["jobs"]] == [before]
            theirs, own = await submit(THEIRS), await submit(MINE)
            await mine.until_job(own, "completed")
            await everyone.until_job(own, "completed")
            assert theirs in json.dumps(everyone.seen)
            assert theirs not in json.dumps(mine.seen) and before not in json.dumps(mine.seen)
            assert [name for name, _ in asked.seen] == ["jobs"]


@pytest.mark.row("A27")
async def test_a_ticket_reads_what_its_key_reads_as_long_as_that_is_there(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(keys=(OPERATE, MINE, THEIRS)), workers=1) as server:
        urls = (await server.client.get("/v1/stream-tickets", headers=as_(MINE))).json()
        assert urls["expires_at"] and "ticket=" in urls["jobs_url"] and "ticket=" in urls["workers_url"]
        answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=as_(THEIRS))
        await server.supervisor.wait(answer.json()["job_id"])
        async with reading(server.client, urls["jobs_url"]) as reader:
            assert (await reader.next())[1]["total"] == 0
            assert server.keys is not None
            server.keys.replace([OPERATE, THEIRS])
            answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=as_(OPERATE))
            async with reading(server.client, JOBS, headers=as_(OPERATE)) as other:
                await other.next()
        problem_of(await server.client.get(urls["jobs_url"]), 401, "unauthorized")
        for wrong in ("x", "mine.9999999999.00", "..", "", urls["jobs_url"].partition("ticket=")[2][:-1]):
            problem_of(await server.client.get(JOBS, params={"ticket": wrong}), 401, "unauthorized")
        ticket = urls["jobs_url"].partition("ticket=")[2]
        problem_of(await server.client.get("/v1/jobs", params={"ticket": ticket}), 401, "unauthorized")


@pytest.mark.row("A27")
async def test_the_stream_of_a_key_that_is_gone_ends(start_server: StartServer) -> None:
    async with (
        start_server(http=HttpSettings(keys=(OPERATE, MINE)), workers=1) as server,
        reading(server.client, "/v1/workers/stream", headers=as_(MINE)) as reader,
    ):
        await reader.next()
        assert server.keys is not None
        server.keys.replace([OPERATE])
        assert (await reader.rest())[-1] == ("end", {"reason": "unauthorized"})


@pytest.mark.row("A27")
async def test_streams_count_for_their_tenant(start_server: StartServer) -> None:
    tenants = {"mine": {"streams_max": 1}}
    async with start_server(http=HttpSettings(keys=(OPERATE, MINE)), workers=1, tenants=tenants) as server:
        async with reading(server.client, JOBS, headers=as_(MINE)) as reader:
            await reader.next()
            problem_of(await server.client.get("/v1/workers/stream", headers=as_(MINE)), 429, "too_many_streams")
        await until_async(lambda: _may_read(server), "the stream of the reader that left is not counted")


async def _may_read(server: OwnServer) -> bool:
    async with server.client.stream("GET", JOBS, headers=as_(MINE)) as answer:
        return answer.status_code == 200


@pytest.mark.row("A27")
@pytest.mark.row("B19")
async def test_a_reader_that_does_not_read_is_closed_and_costs_no_memory(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(send_timeout_s=0.5, input_check_s=60), keep_jobs=400) as server:

        async def submit(numbers: range) -> None:
            for number in numbers:
                tags = {"long": "x" * 250, "longer": "y" * 250, "number": str(number)}
                await server.submit("echo", members={"tags": tags})

        await submit(range(150))
        request = f"GET {JOBS}?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        stuck = [await server.raw(request, receive_bytes=2048) for _ in range(3)]
        async with reading(server.client, JOBS) as reader, asyncio.TaskGroup() as tasks:
            await reader.next()
            tasks.create_task(submit(range(150, 250)))  # more than kernel and server take for one that does not read
            await reader.until("job", lambda job: job["tags"]["number"] == "249" and job["state"] == "completed")
            await until_async(lambda: _is_alone(server), "only the reader that reads is left")
        for _, writer in stuck:
            writer.close()


async def _is_alone(server: OwnServer) -> bool | Pending:
    readers = server.supervisor._observer.sse_clients
    return readers == 1 or Pending(f"{readers} readers")


@pytest.mark.row("A27")
@pytest.mark.row("B16")
async def test_an_end_is_told_once_it_is_on_disk(start_server: StartServer, tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    async with start_server(workers=1, journal=journal) as server, reading(server.client, JOBS) as reader:
        await reader.next()
        told = await reader.until_job(await server.submit("echo"), "completed")
        assert told["durable"] is True


@pytest.mark.row("A27")
async def test_the_client_reads_it(server: OwnServer) -> None:
    async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
        job = await client.submit("spin", tags={"who": "ada"})
        states = []
        async for event in client.watch_jobs(search="ADA", limit=3):
            if event.name == "jobs":
                assert event.data["total"] == 1
                await job.cancel(grace_s=0)
            elif event.name == "job":
                states.append(event.data["state"])
                if states[-1] == "cancelled":
                    break
        found = client.jobs(code="cancelled", tenant="default", search="ada")
        assert [each["job_id"] async for each in found] == [job.id]
        assert (await client.cancel_matching(search="ada", tenant="default", dry_run=True))["matched"] == 0


async def test_a_search_for_too_many_words_is_refused_in_words(server: OwnServer) -> None:
    answer = await server.client.get("/v1/jobs", params={"search": " ".join("abcdefghi")})
    problem = problem_of(answer, 422, "invalid")
    assert "has more than 8 words" in str(problem) and "Value error" not in str(problem), problem
