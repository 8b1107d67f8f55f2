"""Another attempt, and the time that a caller has, over HTTP."""

from __future__ import annotations

import time

import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from support.engines import until_warm

from killable.api.client.async_client import AsyncClient
from killable.workers.errors import Refused

TWICE = {"attempts_max": 2, "backoff_s": 0}


@pytest.mark.own_server
@pytest.mark.row("D23")
async def test_a_stream_tells_of_an_attempt_that_is_followed_by_another(server: Server) -> None:
    job_id = await server.submit("killed", times=1, members={"limits": TWICE})
    seen = await server.read(job_id)
    assert seen.names == ["started", "progress", "retrying", "started", "progress", "completed"]
    assert seen.end["result"] == [2, 0] and seen.ids == list(range(6))
    told = seen.events[2].json()
    assert told | {"error": 0, "certificate": 0} == {
        "job_id": job_id, "attempt": 1, "attempts_max": 2, "wait_s": 0.0, "error": 0, "certificate": 0,
        "first_id": 3,
    }  # fmt: skip
    assert (told["error"]["code"], told["error"]["retryable"]) == ("killed_externally", True)
    assert "tree_empty" in told["certificate"]
    record = await server.record(job_id)
    assert (record["attempt"], record["attempts"], record["error"]) == (2, 2, None)
    metrics = (await server.client.get("/v1/metrics")).json()
    assert metrics["retries"]["killed_externally"] == 1 and metrics["jobs_completed"] == 1
    again = await server.read(job_id, headers={"Last-Event-ID": "1"})
    assert again.wire == seen.wire[2:]


async def test_one_that_waits_to_be_run_again_is_queued_and_can_be_cancelled(server: Server) -> None:
    job_id = await server.submit("killed", times=9, members={"limits": {"attempts_max": 9, "backoff_s": 1000}})
    await server.read(job_id, until="retrying")
    record = await server.record(job_id)
    assert (record["state"], record["attempts"], record["pid"]) == ("queued", 1, None), record
    assert record["queue"]["position"] is None
    answer = await server.client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert (await server.read(job_id)).names == ["started", "progress", "retrying", "cancelled"]


@pytest.mark.own_server
@pytest.mark.row("C8")
async def test_the_time_that_a_caller_has_lowers_that_of_its_job(server: OwnServer) -> None:
    submission = {"type": "napper", "input": {"seconds": 1e6}, "limits": {"grace_s": 0}}
    await until_warm(server.supervisor)
    answer = await server.client.post("/v1/jobs", json=submission, headers={"X-Request-Timeout": "8"})
    assert answer.status_code == 202 and answer.json()["limits"]["total_s"] == 8
    ended = (await server.read(answer.json()["job_id"])).end
    assert (ended["state"], ended["error"]["code"]) == ("timed_out", "timeout.run")
    assert (ended["error"]["limit"], ended["error"]["limit_s"]) == ("total_s", 8)
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        answer = await server.client.post("/v1/jobs", json=submission, headers={"X-Request-Timeout": wrong})
        (fault,) = problem_of(answer, 422, "invalid")["faults"]
        assert (fault["in"], fault["pointer"]) == ("header", "/x-request-timeout"), fault


@pytest.mark.row("C8")
async def test_a_job_that_would_be_given_up_before_it_starts_is_refused(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        await server.read(await server.submit("napper", seconds=0.5))  # so long did the latest one run
        running = await server.submit("spin")
        await server.read(running, until="started")
        body = {"type": "echo"}
        answer = await server.client.post("/v1/jobs", json=body, headers={"X-Request-Timeout": "0.1"})
        problem = problem_of(answer, 429, "deadline_unmeetable")
        assert problem["retryable"] and problem["total_s"] == 0.1 < problem["estimated_wait_s"]
        assert answer.headers["Retry-After"] == str(max(1, round(problem["estimated_wait_s"] - 0.1)))
        assert (await server.client.get("/v1/metrics")).json()["refused"] == {"deadline_unmeetable": 1}
        async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
            with pytest.raises(Refused) as caught:
                await client.submit("echo", within_s=0.1)
            assert (caught.value.code, caught.value.retryable) == ("deadline_unmeetable", True)
            began = time.monotonic()
            job = await client.submit("echo", within_s=60)
            took_s = time.monotonic() - began
            assert 60 - took_s - 0.001 <= (await job.record())["limits"]["total_s"] <= 60, "what is left of it"


async def test_a_job_is_not_run_more_often_than_a_hundred_times(server: Server) -> None:
    body = {"type": "echo", "limits": {"attempts_max": 101}}
    (fault,) = problem_of(await server.client.post("/v1/jobs", json=body), 422, "invalid")["faults"]
    assert (fault["pointer"], fault["message"]) == ("/limits/attempts_max", "must be at most 100")
