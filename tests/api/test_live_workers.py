"""The stream of workers: the server as it is now, measured once a second for all who read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_server import OwnServer, StartServer
from live import reading
from support.engines import ENGINE
from support.waiting import until_async

from killable.api.client.async_client import AsyncClient
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.live_schemas import Now
from killable.supervisor.linux import tree_usage
from killable.supervisor.linux.cgroup import Cgroup
from killable.supervisor.linux.tree_usage import PROCESSES_MAX
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import Sample
from killable.supervisor.records import WorkerRecord

pytestmark = pytest.mark.own_server

WORKERS = "/v1/workers/stream"
EVENTS_MAX = 30
OPERATE = ApiKey("boss", "operate", "boss-01234567890")
MINE = ApiKey("mine", "submit", "mine-01234567890", visibility="own")


def as_(key: ApiKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.key}"}


@pytest.mark.row("A27")
async def test_it_tells_what_a_busy_worker_uses(server: OwnServer) -> None:
    async with reading(server.client, WORKERS) as reader:
        name, first = await reader.next()
        assert name == "now" and first["seq"] < (await reader.next())[1]["seq"]
        Now.model_validate(first, strict=True)
        job_id = await server.submit("spin")

        def is_busy(now: dict[str, Any]) -> bool:
            return any(each["job_id"] == job_id and (each["cpu_percent"] or 0) > 5 for each in now["workers"])

        now = await reader.until("now", is_busy)
        (worker,) = [each for each in now["workers"] if each["job_id"] == job_id]
        assert worker["state"] == "busy" and worker["memory_bytes"] > 1 << 20 and worker["rss_bytes"] > 1 << 20
        assert worker["processes"] >= 1 and worker["threads"] >= 1
        (listed,) = [
            each
            for each in (await server.client.get("/v1/workers")).json()["workers"]
            if each["worker_id"] == worker["worker_id"]
        ]
        assert listed.keys() <= worker.keys()
        assert now["jobs"]["running"] == 1 and now["pools"][0]["busy"] == 1
        assert now["server"]["cpu_percent"] >= 0 and now["server"]["memory_bytes"] > 1 << 20
        assert not now["server"]["draining"] and now["queue"]["depth"] == 0
    await server.supervisor.cancel(job_id, grace_s=0)


async def test_what_a_limit_has_measured_is_not_measured_again(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, int]] = []
    real = tree_usage.measure

    def measure(pid: int, cgroup: Cgroup | None, *, at_most: int, **asked: Any) -> Sample | None:
        measured.append((pid, at_most))
        return real(pid, cgroup, at_most=at_most, **asked)

    monkeypatch.setattr(tree_usage, "measure", measure)
    job_id = await server.submit("spin")
    async with reading(server.client, WORKERS) as reader:

        def worker_of(now: dict[str, Any]) -> dict[str, Any]:
            return next((each for each in now["workers"] if each["job_id"] == job_id), {})

        now = await reader.until("now", lambda now: (worker_of(now).get("cpu_percent") or 0) > 5)
        pid, proof = worker_of(now)["pid"], worker_of(now)["proof"]
        await until_async(lambda: any(each[0] == pid and each[1] > PROCESSES_MAX for each in measured), "a limit looks")
        measured.clear()
        now = await reader.until("now", lambda later: later["seq"] > now["seq"] + 2)
        assert worker_of(now)["cpu_percent"] > 5 and worker_of(now)["memory_bytes"] > 1 << 20
        assert worker_of(now)["processes"] == worker_of(now)["threads"] == 1
    assert any(each == pid for each, _ in measured), "the limit goes on"
    # Without a control group only the processes have their processor time.
    assert ((pid, PROCESSES_MAX) in measured) == ("cgroup" not in proof)
    await server.supervisor.cancel(job_id, grace_s=0)


@pytest.mark.row("A27")
async def test_it_tells_the_queue_and_how_jobs_have_ended(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        await server.record(await server.submit("fails"), wait_s=60)
        ids = [await server.submit("spin") for _ in range(3)]
        async with reading(server.client, WORKERS) as reader:
            now = await reader.until("now", lambda now: now["queue"]["depth"] == 2)
            assert now["queue"]["by_type"] == {"spin": 2} and now["queue"]["oldest_s"] >= 0 < now["queue"]["bytes"]
            assert now["jobs"] == {
                "running": 1,
                "stopping": 0,
                "queued": 2,
                "ended": {"exception": 1},
                "ended_last_minute": 1,
            }
            assert now["pools"][0]["queued"] == 2 and now["pools"][0]["workers"] == 1
            for job_id in ids:
                await server.supervisor.cancel(job_id, grace_s=0)
            now = await reader.until("now", lambda now: now["jobs"]["ended"] == {"exception": 1, "cancelled": 3})
            await server.supervisor.drain()
            await reader.until("now", lambda now: now["server"]["draining"])
            now = await reader.until("now", lambda now: now["pools"][0]["recovery_ms"]["last"] is not None)
            assert now["pools"][0]["recovery_ms"]["p50"] > 0


@pytest.mark.row("A27")
async def test_all_readers_have_one_measurement_and_nobody_none(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        async with reading(server.client, WORKERS) as one, reading(server.client, WORKERS) as other:
            await one.next()
            await other.next()
            for _ in range(2):
                assert await one.next() == await other.next()
        watch = server.supervisor._watches.workers

        async def is_quiet() -> bool:
            return watch._timer is None and watch._measuring is None

        await until_async(is_quiet, "nothing is measured any more")
        seen = one.seen[-1][1]["seq"]
        async with reading(server.client, WORKERS) as later:
            assert (await later.next())[1]["seq"] >= seen, "the last one is told again, unless it is old"


@pytest.mark.row("A27")
async def test_who_shows_no_worker_gets_what_those_of_each_pool_use(server: OwnServer) -> None:
    job_id = await server.submit("spin")
    async with reading(server.client, WORKERS) as each, reading(server.client, WORKERS, workers="false") as pools:
        await each.until("now", lambda now: any(used["cpu_percent"] for used in now["workers"]))
        each.seen.clear()
        while not (common := {now["seq"] for _, now in each.seen} & {now["seq"] for _, now in pools.seen}):
            await each.next()
            await pools.next()
        told, first = (next(now for _, now in reader.seen if now["seq"] in common) for reader in (each, pools))
        Now.model_validate(first, strict=True)
        assert first["workers"] is first["retired"] is None
        assert {name: first[name] for name in ("pools", "jobs", "queue", "server", "nodes")} == {
            name: told[name] for name in ("pools", "jobs", "queue", "server", "nodes")
        }
        for pool in first["pools"]:
            of_pool = [used for used in told["workers"] if used["pool"] == pool["name"]]
            assert pool["cpu_percent"] == pytest.approx(sum(used["cpu_percent"] or 0 for used in of_pool), abs=0.06)
            assert pool["memory_bytes"] == sum(used["memory_bytes"] or 0 for used in of_pool)
        assert sum(pool["busy"] for pool in first["pools"]) == 1
    await server.supervisor.cancel(job_id, grace_s=0)


async def test_a_worker_that_has_not_run_is_neither_measured_nor_recorded_again_and_grows_older(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[str | int] = []
    real_record, real_measure = Worker.record, tree_usage.measure

    def record(worker: Worker, now: float, sample: Sample | None, share: float | None) -> WorkerRecord:
        again.append(worker.id)
        return real_record(worker, now, sample, share)

    def measure(pid: int, cgroup: Cgroup | None, **asked: Any) -> Sample | None:
        again.append(pid)
        return real_measure(pid, cgroup, **asked)

    monkeypatch.setattr(Worker, "record", record)
    monkeypatch.setattr(tree_usage, "measure", measure)
    async with start_server(workers=1) as server, reading(server.client, WORKERS) as reader:
        await reader.until("now", lambda now: any(each["state"] == "idle" for each in now["workers"]))
        for _ in range(EVENTS_MAX):  # what it has used of a core over its life falls at first
            before = (await reader.next())[1]
            again.clear()
            after = (await reader.next())[1]
            if not again:
                break
        assert not again, "an idle worker is measured or recorded again and again"
        ages = [{each["worker_id"]: each["age_s"] for each in now["workers"]} for now in (before, after)]
        assert ages[0].keys() == ages[1].keys() and all(ages[1][each] > age for each, age in ages[0].items())


@pytest.mark.row("A27")
async def test_a_key_sees_no_job_of_others(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(keys=(OPERATE, MINE)), workers=2) as server:
        answer = await server.client.post("/v1/jobs", json={"type": "spin"}, headers=as_(OPERATE))
        theirs = answer.json()["job_id"]
        answer = await server.client.post("/v1/jobs", json={"type": "spin"}, headers=as_(MINE))
        own = answer.json()["job_id"]
        async with (
            reading(server.client, WORKERS, headers=as_(MINE)) as mine,
            reading(server.client, WORKERS, headers=as_(OPERATE)) as everyone,
        ):

            def has(job_id: str) -> Any:
                return lambda now: any(each["job_id"] == job_id for each in now["workers"])

            await everyone.until("now", lambda now: has(theirs)(now) and has(own)(now))
            now = await mine.until("now", has(own))
            assert theirs not in json.dumps(mine.seen)
            busy = [each for each in now["workers"] if each["state"] == "busy"]
            assert len(busy) == 2 and sorted(str(each["type"]) for each in busy) == ["None", "spin"]
            assert now["jobs"] == {"running": 1, "stopping": 0, "queued": 0, "ended": None, "ended_last_minute": None}
        for job_id in (theirs, own):
            await server.supervisor.cancel(job_id, grace_s=0)


@pytest.mark.row("A27")
async def test_the_client_reads_it_until_the_server_ends(start_server: StartServer) -> None:
    async with start_server(workers=1) as server, AsyncClient(f"http://127.0.0.1:{server.port}") as client:
        seen = 0
        async for now in client.watch_workers():
            seen += 1
            assert now["nodes"] if ENGINE == "cluster" else now["nodes"] == []
            if seen == 1:
                await client.shutdown()
                await server.supervisor.close()
        assert seen >= 1
