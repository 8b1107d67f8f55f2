"""The operator's routes: many cancels at once, drain, shutdown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from support.looped_cases import cases

from killable.api.cli.display.error_hints import hint_for
from killable.workers.errors import Refused

pytestmark = pytest.mark.own_server

NOT_WAITING = {"prefer": "respond-async"}


async def cancel(server: Server, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = await server.client.post("/v1/jobs/cancel", json=body, headers=headers or {})
    done: dict[str, Any] = answer.json()
    assert answer.status_code == (202 if done["stopping"] else 200), answer.text
    assert done["matched"] == len(done["jobs"])
    return done


async def test_all_jobs_that_fit_are_cancelled_and_no_other(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(workers=2) as server:
        gates = {"gates": [str(tmp_path / "gate")]}
        other = await server.submit("gated", members={"input": gates, "tags": {"team": "ads"}})
        running = await server.submit("spin", members={"tags": {"team": "search"}})
        queued = await server.submit("echo", members={"tags": {"team": "search"}})
        for job_id in (other, running):
            await server.read(job_id, until="started")
        done = await cancel(server, tag="team:search", grace_s=0, reason="enough")
        assert {job["job_id"]: job["status"] for job in done["jobs"]} == dict.fromkeys([running, queued], "cancelled")
        assert (done["cancelled"], done["stopping"], done["already_ended"], done["dry_run"]) == (2, 0, 0, False)
        record = await server.record(running)
        assert record["error"]["reason"] == "enough" and record["certificate"]["tree_empty"] > 0
        assert (await server.record(queued))["started_at"] is None
        assert (await server.record(other))["state"] == "running"
        assert (await cancel(server, tag="team:search"))["matched"] == 0
        (tmp_path / "gate").touch()
        assert (await server.record(other, wait_s=60))["state"] == "completed"


async def test_a_filter_has_to_fit_in_all_its_parts(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        spinning = await server.submit("spin", members={"tags": {"team": "search"}})
        await server.read(spinning, until="started")
        waiting = await server.submit("spin", members={"tags": {"team": "ads"}})
        for wrong in ({"type": "echo"}, {"type": "spin", "tag": "team:x"}, {"state": "queued", "tag": "team:search"}):
            assert (await cancel(server, **wrong))["matched"] == 0
        done = await cancel(server, type="spin", state="queued")
        assert [job["job_id"] for job in done["jobs"]] == [waiting]
        done = await cancel(server, state="active", grace_s=0)
        assert [job["job_id"] for job in done["jobs"]] == [spinning]


async def test_a_dry_run_only_says_which(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        queued = await server.submit("spin")
        done = await cancel(server, type="spin", dry_run=True)
        assert {job["job_id"]: job["status"] for job in done["jobs"]} == {running: "running", queued: "queued"}
        assert done["dry_run"] and (done["cancelled"], done["stopping"]) == (0, 0)
        assert (await server.record(running))["state"] == "running"


async def test_it_says_stopping_until_the_trees_are_gone(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("slow_clean", gate=str(gate))
    await server.read(job_id, until="token")
    answer = await server.client.post("/v1/jobs/cancel", json={"type": "slow_clean"}, headers=NOT_WAITING)
    assert answer.status_code == 202 and answer.headers["preference-applied"] == "respond-async"
    assert answer.json()["jobs"] == [{"job_id": job_id, "status": "stopping", "durable": None}]
    gate.touch()
    done = await cancel(server, {"prefer": "wait=30"}, type="slow_clean", state="stopping")
    assert done["jobs"] in ([], [{"job_id": job_id, "status": "cancelled", "durable": None}])


@cases(
    "body",
    [
        *(
            {},
            {"reason": "x"},
            {"state": "completed"},
            {"state": "nope"},
            {"tag": "team"},
            {"type": 5},
            {"job_id": "x"},
        ),
        *({"type": "spin", "grace_s": -1}, {"type": "spin", "dry_run": "yes"}, [], "spin"),
    ],
)
async def test_a_filter_that_cannot_be_meant_stops_nothing(server: Server, body: Any) -> None:
    job_id = await server.submit("spin")
    problem_of(await server.client.post("/v1/jobs/cancel", json=body), 422, "invalid")
    assert (await server.record(job_id))["state"] in ("queued", "running")


@pytest.mark.row("A17")
async def test_drained_is_what_takes_no_new_jobs_and_ends_the_old_ones(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    await server.read(job_id, until="token")
    standing = {"draining": False, "shutting_down": False, "deadline_s": None, "running": 1, "queued": 0}
    assert (await server.client.get("/v1/drain")).json() == standing
    answer = await server.client.post("/v1/drain")
    assert answer.status_code == 202 and answer.json() == standing | {"draining": True}
    answer = await server.client.post("/v1/jobs", json={"type": "echo"})
    assert problem_of(answer, 503, "draining")["retryable"] and int(answer.headers["retry-after"]) >= 1
    problem_of(await server.client.get("/readyz"), 503, "draining")
    assert (await server.client.get("/livez")).status_code == 200
    gate.touch()
    assert (await server.record(job_id, wait_s=60))["state"] == "completed"
    answer = await server.client.delete("/v1/drain")
    assert answer.status_code == 200 and answer.json() == standing | {"running": 0}
    assert (await server.record(await server.submit("echo"), wait_s=60))["state"] == "completed"


@pytest.mark.row("A17")
async def test_what_is_left_at_the_drains_deadline_is_cancelled(server: Server) -> None:
    job_id = await server.submit("spin", members={"limits": {"grace_s": 0}})
    await server.read(job_id, until="started")
    assert (await server.client.post("/v1/drain?deadline_s=600")).json()["deadline_s"] > 500
    assert (await server.client.post("/v1/drain?deadline_s=0")).status_code == 202
    record = await server.record(job_id, wait_s=60)
    assert record["state"] == "cancelled" and record["error"]["by"] == "shutdown"


@pytest.mark.row("A17")
async def test_a_shutdown_refuses_drains_and_ends(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    await server.read(job_id, until="token")
    ending = asyncio.create_task(server.supervisor.until_shutdown())
    answer = await server.client.post("/v1/shutdown?deadline_s=600&reason=upgrade")
    assert answer.status_code == 202 and answer.json()["shutting_down"] and answer.json()["draining"]
    problem = problem_of(await server.client.post("/v1/jobs", json={"type": "echo"}), 503, "draining")
    assert problem["shutting_down"], "the command's hint is then another one"
    assert "drain --off" not in hint_for(Refused(code="draining", shutting_down=True)) != ""
    problem_of(await server.client.delete("/v1/drain"), 503, "draining")
    assert not ending.done()
    gate.touch()
    assert (await server.record(job_id, wait_s=60))["state"] == "completed"
    await asyncio.wait_for(ending, 60)


@cases(
    ("method", "path"),
    [
        *(("POST", "/v1/drain?deadline_s=-1"), ("POST", "/v1/drain?deadline=1"), ("POST", "/v1/shutdown?grace_s=x")),
        *(("POST", "/v1/shutdown?deadline_s=inf"), ("POST", "/v1/shutdown?wait=1")),
    ],
)
async def test_a_drain_that_cannot_be_meant(server: Server, method: str, path: str) -> None:
    problem_of(await server.client.request(method, path), 422, "invalid")
    problem_of(await server.client.request(method, path.partition("?")[0], json={"deadline_s": 1}), 422, "invalid")
    assert not (await server.client.get("/v1/drain")).json()["draining"]
