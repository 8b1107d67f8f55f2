"""What the server's log tells of jobs, and what it must not tell."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer
from support import processes
from support.waiting import until_async

from killable.supervisor.telemetry import log_cuts_and_redaction, log_lines

pytestmark = pytest.mark.own_server

SECRET = "hunter2"
FORGED = f"{SECRET}\n2026-01-01T00:00:00.000Z info killable.jobs completed job_id=job-1 type=x"


@dataclass
class Written:
    stream: io.StringIO
    log: log_lines.Log

    def text(self) -> str:
        self.log.close()
        return self.stream.getvalue()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def of(self, job_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records() if record.get("job_id") == job_id]


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """The log of everything that the test does; a parameter changes how."""
    how = {"log_format": "json", "log_level": "info"} | getattr(request, "param", {})
    stream = io.StringIO()
    log = log_lines.configure(stream=stream, **how)
    yield Written(stream, log)
    log.close()


async def ended(server: Server, job_id: str) -> dict[str, Any]:
    return await server.record(job_id, wait_s=20)


def events(records: list[dict[str, Any]]) -> list[str]:
    return [record["event"] for record in records]


@pytest.mark.row("F5")
async def test_a_job_that_completes_is_submitted_started_and_completed(written: Written, server: Server) -> None:
    headers = {"content-type": "application/json"}
    body = json.dumps({"type": "count", "input": {"n": 3}, "tags": {"team": "ads"}})
    answer = await server.client.post("/v1/jobs", content=body, headers=headers)
    job_id = answer.json()["job_id"]
    record = await ended(server, job_id)
    submitted, started, completed = written.of(job_id)
    assert events([submitted, started, completed]) == ["submitted", "started", "completed"]
    assert submitted["tags"] == {"team": "ads"} and submitted["type"] == "count"
    assert (started["worker_id"], started["pid"]) == (record["worker_id"], record["pid"])
    assert started["queue_wait_ms"] >= 0 and started["start_ms"] > 0 and started["attempt"] == 1
    assert completed["tokens"] == 3 and completed["ran_s"] >= 0 and "code" not in completed
    assert {each["logger"] for each in (submitted, started, completed)} == {"killable.jobs"}


async def test_a_log_that_cannot_be_written_is_told(server: Server) -> None:
    with open("/dev/full", "w") as stream, contextlib.closing(log_lines.configure(stream=stream)):
        logging.getLogger("killable.jobs").info("to nobody")
        await until_async(log_lines.records_lost, "it is lost")
        ready = (await server.client.get("/readyz")).json()
        assert "the log cannot be written: no space left on device" in ready["degraded"]
        assert (await server.client.get("/v1/metrics")).json()["log_records_lost"] >= 1
        text = (await server.client.get("/metrics")).text
        lost = float(re.findall(r"^killable_log_records_lost_total (.+)$", text, re.M)[0])
        assert lost >= 1


async def computes(server: OwnServer, job_id: str) -> None:
    pid = (await server.supervisor.get(job_id)).pid
    assert pid is not None
    await until_async(processes.computes(pid), f"{pid} computes")


@pytest.mark.row("F5", "F8")
@pytest.mark.parametrize(
    ("job_type", "query", "signals"),
    [
        ("spin", "?reason=enough", ["term_sent"]),
        ("sleep_native", "?reason=enough", ["term_sent", "kill_sent"]),
        ("spin", "?reason=enough&grace_s=0", ["kill_sent"]),
    ],
)
async def test_a_cancel_and_its_escalation_are_told_step_by_step(
    written: Written, server: Server, job_type: str, query: str, signals: list[str]
) -> None:
    limits = {"grace_s": 60} if job_type == "spin" else {}
    job_id = await server.submit(job_type, members={"limits": limits})
    await server.read(job_id, until="started")
    await computes(server, job_id)  # it is in its loop, or in its native call, and stays there
    for prefer in ("respond-async", "wait=10"):  # the same once more is told once
        await server.client.delete(f"/v1/jobs/{job_id}{query}", headers={"Prefer": prefer})
    _, started, asked, *sent, cancelled = written.of(job_id)
    assert (asked["event"], asked["by"], asked["reason"]) == ("cancel_requested", "user", "enough")
    assert events(sent) == signals
    for record in sent:
        assert (record["pid"], record["code"], record["by"]) == (started["pid"], "cancelled", "user")
    assert (cancelled["event"], cancelled["code"], cancelled["by"]) == ("cancelled", "cancelled", "user")
    for name in (*signals, "exited", "reaped", "tree_empty"):
        assert cancelled[f"{name}_ms"] >= 0


@pytest.mark.row("F5", "A9")
async def test_other_endings_have_their_codes(written: Written, start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        job_ids = {
            "exception": await server.submit("fails", message="the model is gone"),
            "exit": await server.submit("leaves", exit_code=3),
            "timeout.run": await server.submit("spin", members={"limits": {"run_s": 0.1}}),
            "spawn": await server.submit("unavailable"),
        }
        for job_id in job_ids.values():
            await ended(server, job_id)
        await server.client.post("/v1/jobs", json={"type": "echo", "input": {}, "limits": {"run_s": 1e9}})
    records = written.records()
    last = {code: [each for each in records if each.get("job_id") == job_id][-1] for code, job_id in job_ids.items()}
    assert {code: record["code"] for code, record in last.items()} == {code: code for code in job_ids}
    assert last["exception"]["error"] == "ValueError: the model is gone" and "traceback" not in last["exception"]
    assert last["exit"]["exit_code"] == 3 and last["timeout.run"]["event"] == "timed_out"
    (refused,) = [record for record in records if record["event"] == "refused"]
    assert refused["code"] == "limit_over_cap"
    assert [record["pool"] for record in records if record["event"] == "pool_ready"] == ["tests"]


async def say_it_everywhere(server: Server) -> None:
    """Put the secret wherever a job or a client can say something."""
    said = {"reason": FORGED}
    for members in ({}, {"tags": {"key": SECRET}}):
        await ended(server, await server.submit("say", members=members, values=[FORGED]))
    await ended(server, await server.submit("talks", lines=[FORGED]))
    await ended(server, await server.submit("fails", message=FORGED))
    await ended(server, await server.submit("echo", text=FORGED))
    await ended(server, await server.submit("forges", secret=FORGED))
    job_id = await server.submit("spin")
    await server.read(job_id, until="started")
    await server.client.delete(f"/v1/jobs/{job_id}", params=said)
    job_id = await server.submit("spin")
    await server.read(job_id, until="started")
    worker_id = (await server.record(job_id))["worker_id"]
    await server.client.delete(f"/v1/workers/{worker_id}", params=said)
    await server.client.post("/v1/jobs", json={"type": SECRET, "input": {SECRET: SECRET}})
    await server.client.post("/v1/jobs", json={"type": "echo", "input": {}, "limits": {"run_s": 1e9}})
    await server.client.post("/v1/jobs", json={"type": "echo", "input": {SECRET: SECRET}})
    await server.client.get(f"/v1/jobs/{SECRET}")


REDACTED = [{"redact": True, "log_format": log_format, "log_level": "debug"} for log_format in ("text", "json")]


@pytest.mark.parametrize("written", REDACTED, indirect=True, ids=["text", "json"])
async def test_with_redact_nothing_that_was_said_is_in_the_log(written: Written, server: Server) -> None:
    await say_it_everywhere(server)
    text = written.text()
    assert SECRET not in text
    for event in (
        "submitted",
        "started",
        "completed",
        "failed",
        "cancel_requested",
        "term_sent",
        "cancelled",
        "refused",
    ):
        assert event in text
    assert text.count(log_cuts_and_redaction.REDACTED) >= 5


@pytest.mark.row("F6")
@pytest.mark.parametrize(
    "written", [{"log_format": "text"}, {"log_format": "json"}], indirect=True, ids=["text", "json"]
)
async def test_without_redact_tokens_and_lines_are_not_told_either_and_nothing_forges_a_record(
    written: Written, server: Server
) -> None:
    job_ids = [await server.submit("say", values=[FORGED]), await server.submit("talks", lines=[FORGED])]
    job_ids += [await server.submit("echo", text=FORGED)]
    for job_id in job_ids:
        await ended(server, job_id)
    quiet = written.stream.getvalue()
    await say_it_everywhere(server)
    text = written.text()
    assert SECRET not in quiet and SECRET in text
    forged = [line for line in text.splitlines() if line.startswith("2026-01-01") or '"job_id": "job-1"' in line]
    assert forged == []
