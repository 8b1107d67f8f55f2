"""Twelve scenarios of timeouts and cancels, and seven of end markers (rows H1 and H2).

They run over HTTP and real processes. Each has exactly one accepted outcome, also where a cancel and an end race.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from api_server import ReadStream, Server, StartServer, problem_of

LATE_S = 60
"""A limit that no test reaches."""


async def followed(server: Server, job_id: str) -> ReadStream:
    return await server.read(job_id, markers="true")


async def state(server: Server, job_id: str) -> str:
    return str((await server.record(job_id))["state"])


# ── timeouts and cancels ──


@pytest.mark.row("H1")
async def test_job_timeout(server: Server, tmp_path: Path) -> None:
    limits = {"run_s": 8.0, "grace_s": 0}
    job_id = await server.submit("gated", gates=[str(tmp_path / "never")], members={"limits": limits})
    seen = await followed(server, job_id)
    assert seen.tokens == ["first"] and seen.markers == ["[ERROR] timeout.run: run_s of 8 s is over"]
    assert seen.end["error"]["limit"] == "run_s" and await state(server, job_id) == "timed_out"


@pytest.mark.row("H1")
async def test_job_completes_before_timeout(server: Server) -> None:
    job_id = await server.submit("say", values=["token1"], members={"limits": {"run_s": LATE_S}})
    seen = await followed(server, job_id)
    assert (seen.tokens, seen.markers) == (["token1"], ["[DONE]"]) and await state(server, job_id) == "completed"


@pytest.mark.row("H1", "H4")
async def test_job_cancellation(server: Server) -> None:
    job_id = await server.submit("gated", gates=["/no/such/gate"])
    await server.read(job_id, until="token")
    assert (await server.client.delete(f"/v1/jobs/{job_id}")).json()["status"] == "cancelled"
    seen = await followed(server, job_id)
    assert (seen.tokens, seen.markers) == (["first"], ["[CANCELLED]"]) and await state(server, job_id) == "cancelled"


@pytest.mark.row("H1")
async def test_cancel_queued_job(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        job_id = await server.submit("echo")
        assert await state(server, job_id) == "queued"
        await server.client.delete(f"/v1/jobs/{job_id}")
        seen = await followed(server, job_id)
        assert (seen.names, seen.markers) == (["cancelled", "message"], ["[CANCELLED]"])
        assert (await server.record(job_id))["pid"] is None and await state(server, running) == "running"


@pytest.mark.row("H1")
async def test_cannot_cancel_completed_job(server: Server) -> None:
    job_id = await server.submit("echo")
    await server.record(job_id, wait_s=LATE_S)
    problem_of(await server.client.delete(f"/v1/jobs/{job_id}"), 409, "already_ended")
    assert await state(server, job_id) == "completed"


@pytest.mark.row("H1")
async def test_cannot_cancel_failed_job(server: Server) -> None:
    job_id = await server.submit("fails")
    await server.record(job_id, wait_s=LATE_S)
    problem_of(await server.client.delete(f"/v1/jobs/{job_id}"), 409, "already_ended")
    assert await state(server, job_id) == "failed"


@pytest.mark.row("H1")
async def test_cancel_nonexistent_job(server: Server) -> None:
    problem_of(await server.client.delete("/v1/jobs/job-nonexistent"), 404, "unknown_job")


@pytest.mark.row("H1", "C10")
async def test_timeout_with_no_receiver(server: Server) -> None:
    job_id = await server.submit("spin", members={"limits": {"run_s": 0.1, "grace_s": 0}})
    record = await server.record(job_id, wait_s=LATE_S)
    assert (record["state"], record["error"]["code"]) == ("timed_out", "timeout.run")
    assert [marker[:7] for marker in (await followed(server, job_id)).markers] == ["[ERROR]"]


@pytest.mark.row("H1")
async def test_cancellation_with_no_receiver(server: Server) -> None:
    job_id = await server.submit("spin")
    await server.client.delete(f"/v1/jobs/{job_id}", params={"grace_s": 0})
    seen = await followed(server, job_id)
    assert (seen.tokens, seen.markers) == ([], ["[CANCELLED]"])


@pytest.mark.row("H1")
async def test_multiple_tokens_then_timeout(server: Server) -> None:
    job_id = await server.submit(
        "flood", n=5, chars=3, gate="/no/such/gate", members={"limits": {"run_s": 8.0, "grace_s": 0}}
    )
    seen = await followed(server, job_id)
    assert seen.names == ["started", *["token"] * 5, "timed_out", "message"] and seen.markers[0].startswith("[ERROR]")


@pytest.mark.row("H1")
async def test_get_cancellation_token(server: Server, tmp_path: Path) -> None:
    """What is a token there is raised here, in the job itself: it cleans up, and its value is kept."""
    gate = tmp_path / "gate"
    job_id = await server.submit("slow_clean", gate=str(gate))
    await server.read(job_id, until="token")
    answer = await server.client.delete(f"/v1/jobs/{job_id}", headers={"prefer": "respond-async"})
    assert answer.status_code == 202 and await state(server, job_id) == "stopping"
    gate.touch()
    record = await server.record(job_id, wait_s=LATE_S)
    assert (record["state"], record["partial"]) == ("cancelled", "cleaned")


@pytest.mark.row("H1")
async def test_get_cancellation_token_nonexistent(server: Server) -> None:
    problem_of(await server.client.get("/v1/jobs/job-nonexistent"), 404, "unknown_job")
    problem_of(await server.client.post("/v1/jobs/job-nonexistent/cancel"), 404, "unknown_job")


# ── end markers ──


@pytest.mark.row("H2")
async def test_execute_and_stream_sends_done_on_success(server: Server) -> None:
    seen = await followed(server, await server.submit("say", values=["token1", "token2"]))
    assert (seen.tokens, seen.markers) == (["token1", "token2"], ["[DONE]"])
    assert seen.names == ["started", "token", "token", "completed", "message"]


@pytest.mark.row("H2")
async def test_execute_and_stream_sends_error_on_failure(server: Server) -> None:
    job_id = await server.submit("forges", secret="token1")
    seen = await followed(server, job_id)
    assert seen.tokens == ["token1"] and seen.markers == ["[ERROR] RuntimeError: token1"]
    assert seen.names[-2:] == ["failed", "message"]


@pytest.mark.row("H2")
async def test_done_sent_only_once(server: Server) -> None:
    job_id = await server.submit("echo")
    for _ in range(2):  # while it runs, or when it has ended: each reader gets one
        assert (await followed(server, job_id)).markers == ["[DONE]"]


@pytest.mark.row("H2")
async def test_no_receiver_sends_done_immediately(server: Server) -> None:
    job_id = await server.submit("echo")
    assert (await server.record(job_id, wait_s=LATE_S))["state"] == "completed"
    assert (await followed(server, job_id)).names == ["started", "completed", "message"]


@pytest.mark.row("H2", "B6")
async def test_job_state_updated_on_success(server: Server) -> None:
    job_id = await server.submit("echo", text="kept")
    await server.read(job_id, until="completed")
    record = await server.record(job_id)  # at once: the state is stored before the event is told
    assert (record["state"], record["result"]["text"]) == ("completed", "kept")


@pytest.mark.row("H2", "B6")
async def test_job_state_updated_on_failure(server: Server) -> None:
    job_id = await server.submit("fails", message="Test failure")
    await server.read(job_id, until="failed")
    record = await server.record(job_id)
    assert record["state"] == "failed" and "Test failure" in record["error"]["message"]


@pytest.mark.row("H2")
async def test_multiple_tokens_then_done(server: Server) -> None:
    seen = await followed(server, await server.submit("count", n=10))
    assert seen.tokens == [f" {number}" for number in range(10)]
    assert seen.names == ["started", *["token"] * 10, "completed", "message"] and seen.markers == ["[DONE]"]
