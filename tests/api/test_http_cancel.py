"""Cancelling over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_server import Server, StartServer, problem_of
from support.looped_cases import cases

NOT_WAITING = {"prefer": "respond-async"}


def proof(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return what is certified at the end; the slot may be ready only later."""
    return {name: value for name, value in certificate.items() if name != "slot_ready"}


@pytest.mark.row("H4")
@pytest.mark.row("A10")
@pytest.mark.row("A12")
@pytest.mark.parametrize("type", ["spin", "sleep_native", "napper"])
async def test_delete_answers_when_the_job_is_dead_and_again_the_same(server: Server, type: str) -> None:
    job_id = await server.submit(type, **({"seconds": 1e6} if type == "napper" else {}))
    await server.read(job_id, until="started")
    answer = await server.client.delete(f"/v1/jobs/{job_id}", params={"grace_s": 0, "reason": "enough"})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"job_id", "status", "certificate", "durable"}
    assert (body["job_id"], body["status"]) == (job_id, "cancelled")
    assert body["certificate"]["tree_empty"] > 0 and body["certificate"]["reason"] == "enough"
    record = await server.record(job_id)
    assert record["state"] == "cancelled" and record["error"]["by"] == "user"
    for again in (
        await server.client.delete(f"/v1/jobs/{job_id}"),
        await server.client.post(f"/v1/jobs/{job_id}/cancel"),
        await server.client.delete(f"/v1/jobs/{job_id}", headers=NOT_WAITING),
    ):
        assert again.status_code == 200 and again.json()["status"] == "cancelled"
        assert proof(again.json()["certificate"]) == proof(record["certificate"])


@pytest.mark.row("A11")
async def test_delete_tells_unknown_from_ended(server: Server) -> None:
    problem_of(await server.client.delete("/v1/jobs/job-0"), 404, "unknown_job")
    for type, state in (("echo", "completed"), ("fails", "failed")):
        job_id = await server.submit(type)
        record = await server.record(job_id, wait_s=60)
        problem = problem_of(await server.client.delete(f"/v1/jobs/{job_id}"), 409, "already_ended")
        assert proof(problem["job"].pop("certificate")) == proof(record.pop("certificate"))
        assert problem["job"] == record and record["state"] == state


@pytest.mark.row("A13")
async def test_delete_says_stopping_until_the_tree_is_gone(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("slow_clean", gate=str(gate))
    await server.read(job_id, until="token")
    answer = await server.client.delete(f"/v1/jobs/{job_id}", headers=NOT_WAITING)
    assert answer.status_code == 202 and answer.json()["status"] == "stopping"
    assert (await server.record(job_id))["state"] == "stopping"
    answer = await server.client.post(f"/v1/jobs/{job_id}/cancel", headers={"prefer": "handling=strict, wait=0"})
    assert answer.status_code == 202 and "tree_empty" not in answer.json()["certificate"]
    gate.touch()
    answer = await server.client.delete(f"/v1/jobs/{job_id}", headers={"prefer": "wait=30"})
    assert answer.status_code == 200 and answer.json()["status"] == "cancelled"
    record = await server.record(job_id)
    assert record["partial"] == "cleaned" and record["result"] is None
    problem = problem_of(await server.client.get(f"/v1/jobs/{job_id}/result"), 409, "no_result")
    assert problem["job"]["job_id"] == job_id
    partial = await server.client.get(f"/v1/jobs/{job_id}/partial")
    assert (partial.status_code, partial.json()) == (200, "cleaned")


@pytest.mark.row("A13")
async def test_a_smaller_grace_shortens_what_is_running(server: Server, tmp_path: Path) -> None:
    job_id = await server.submit("slow_clean", gate=str(tmp_path / "never"))
    await server.read(job_id, until="token")
    answer = await server.client.delete(f"/v1/jobs/{job_id}?grace_s=60", headers=NOT_WAITING)
    assert answer.status_code == 202 and answer.json()["certificate"]["grace_s"] == 30
    answer = await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")
    assert answer.status_code == 200 and answer.json()["certificate"]["grace_s"] == 0
    assert answer.json()["certificate"]["last_signal"] == "SIGKILL"


@pytest.mark.row("D9")
async def test_a_queued_job_is_cancelled_without_ever_starting(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        queued = await server.submit("echo")
        assert (await server.record(queued))["queue"]["position"] >= 0
        answer = await server.client.delete(f"/v1/jobs/{queued}")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        seen = await server.read(queued, markers="true")
        assert seen.names == ["cancelled", "message"] and seen.markers == ["[CANCELLED]"]
        assert (await server.record(queued))["started_at"] is None
        assert (await server.client.delete(f"/v1/jobs/{running}?grace_s=0")).status_code == 200


@pytest.mark.row("D6")
async def test_an_accepted_cancel_goes_on_when_its_caller_leaves(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("slow_clean", gate=str(gate))
    await server.read(job_id, until="token")
    _, writer = await server.raw(f"DELETE /v1/jobs/{job_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    seen = await server.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": 0})
    while seen.json()["state"] != "stopping":
        seen = await server.client.get(f"/v1/jobs/{job_id}")
    writer.transport.abort()
    gate.touch()
    assert (await server.record(job_id, wait_s=60))["state"] == "cancelled"


@cases("query", ["grace_s=-1", "grace_s=nan", "grace_s=inf", "grace_s=x", "grace=1", "reason=" + "r" * 1001])
async def test_a_cancel_that_cannot_be_meant_stops_nothing(server: Server, query: str) -> None:
    job_id = await server.submit("spin")
    for answer in (
        await server.client.delete(f"/v1/jobs/{job_id}?{query}"),
        await server.client.post(f"/v1/jobs/{job_id}/cancel?{query}"),
        await server.client.post(f"/v1/jobs/{job_id}/cancel", json={"grace_s": 0}),
    ):
        assert problem_of(answer, 422, "invalid")["faults"][0]["in"] in ("query", "body")
    assert (await server.record(job_id))["state"] in ("queued", "running")


@cases("prefer", ["wait", "wait=x", "wait=-1", "wait=99999999999999999999", "", ";,=", "wait=\xb2"])
async def test_preferences_that_cannot_be_read_are_ignored(server: Server, prefer: str) -> None:
    job_id = await server.submit("spin")
    headers = {"prefer": prefer.encode("latin-1")}
    answer = await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0", headers=headers)
    assert answer.status_code == 200
