"""The audit log of requests: who, with which key, from where, what, whose job, with which outcome."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from api_server import OwnServer, StartServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.waiting import Pending, until_async

from killable.api.http.api_keys import ApiKey, digest_of
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.api.http.failed_keys import FREE
from killable.api.http.routes_metrics import OPENMETRICS

SECRET = "killable_0123456789"
HASHED = ApiKey("team", "submit", sha256=digest_of(SECRET.encode()), visibility="own")
OPERATE = ApiKey("oncall", "operate", "operate-0123456789")
OLD = ApiKey("old", "submit", "old-0123456789abc", expires="2026-01-31T08:00:00Z")
HTTP = HttpSettings(keys=(HASHED, OPERATE, OLD), failed_key_delay_s=0.001)


class Audited(NamedTuple):
    server: OwnServer
    log: AuditLog
    path: Path

    async def ask(self, key: str, method: str, path: str, **options: Any) -> Any:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.server.client.request(method, path, headers=headers, **options)

    async def records(self, number: int) -> list[dict[str, Any]]:
        """Return the records so far, when there are as many."""

        def found() -> list[dict[str, Any]] | Pending:
            seen = [json.loads(line) for line in self.path.read_text().splitlines()]
            return seen if len(seen) >= number else Pending(seen)

        return await until_async(found, f"{number} records")


@pytest.fixture
async def audited(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Audited]:
    path = tmp_path / "audit.log"
    log = AuditLog(str(path))
    async with start_server(http=HTTP, workers=1, audit_log=log) as server:
        yield Audited(server, log, path)
    log.close()


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_what_changes_something_is_recorded_with_who_and_whose(audited: Audited) -> None:
    job_id = (await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "spin"})).json()["job_id"]
    await audited.ask(SECRET, "GET", f"/v1/jobs/{job_id}")
    await audited.ask(OPERATE.key, "DELETE", f"/v1/jobs/{job_id}?grace_s=0&reason=s3cret")
    other = (await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "spin"})).json()["job_id"]
    await audited.ask(OPERATE.key, "POST", "/v1/jobs/cancel", json={"state": "active", "grace_s": 0})
    await audited.ask(OPERATE.key, "DELETE", "/v1/workers/w-99")
    for method in ("POST", "DELETE"):
        await audited.ask(OPERATE.key, method, "/v1/drain")
    await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "no such"})
    await audited.ask(OPERATE.key, "POST", "/v1/shutdown?deadline_s=60")
    found = await audited.records(9)
    assert [(each["event"], each["tenant"], each["status"], each.get("code")) for each in found] == [
        ("submit", "team", 202, None),
        ("cancel", "oncall", 200, None),
        ("submit", "team", 202, None),
        ("cancel_matching", "oncall", 200, None),
        ("kill_worker", "oncall", 404, "unknown_worker"),
        ("drain", "oncall", 202, None),
        ("undrain", "oncall", 200, None),
        ("submit", "team", 404, "unknown_job_type"),
        ("shutdown", "oncall", 202, None),
    ]
    assert found[0] == {
        "time": found[0]["time"], "number": 1, "event": "submit", "tenant": "team", "role": "submit",
        "key_id": HASHED.sha256[:12], "via": "key", "from": "127.0.0.1", "method": "POST", "path": "/v1/jobs",
        "status": 202, "job_id": job_id, "owners": ["team"],
    }  # fmt: skip
    assert (found[1]["job_id"], found[1]["owners"], found[1]["path"]) == (job_id, ["team"], f"/v1/jobs/{job_id}")
    assert "key_id" not in found[1], "of a key that might be guessed by it"
    assert (found[3]["job_id"], found[3]["owners"]) == (other, ["team"])
    assert found[4]["worker_id"] == "w-99"
    text = audited.path.read_text()
    assert not any(secret in text for secret in (SECRET, OPERATE.key, "s3cret"))


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_refusals_are_recorded_also_of_reads(audited: Audited) -> None:
    theirs = (await audited.ask(OPERATE.key, "POST", "/v1/jobs", json={"type": "spin"})).json()["job_id"]
    await audited.ask("", "GET", "/v1/jobs")
    await audited.ask("wrong-0123456789", "GET", "/v1/info")
    await audited.ask(OLD.key, "GET", "/v1/info")
    await audited.ask(SECRET, "GET", "/v1/metrics")
    await audited.server.client.get("/v1/info", headers={"host": "evil.example"})
    await audited.server.client.get("/livez", headers={"origin": "https://evil.example"})
    await audited.ask(SECRET, "DELETE", f"/v1/jobs/{theirs}")
    await audited.ask(SECRET, "PUT", "/" + "x" * 1000)
    found = (await audited.records(9))[1:]
    assert [(each["event"], each.get("tenant"), each["status"], each["code"]) for each in found] == [
        ("other", None, 401, "unauthorized"),
        ("other", None, 401, "unauthorized"),
        ("other", "old", 401, "unauthorized"),
        ("other", "team", 403, "forbidden"),
        ("other", None, 421, "misdirected"),
        ("other", None, 403, "forbidden"),
        ("cancel", "team", 404, "unknown_job"),
        ("other", "team", 404, "not_found"),
    ]
    assert (found[6]["job_id"], found[6]["owners"]) == (theirs, ["oncall"]), "whose it is, to whoever reads this"
    assert len(found[7]["path"]) == 200
    await audited.server.supervisor.cancel(theirs, grace_s=0)


@pytest.mark.own_server
async def test_a_reader_whose_leaving_ends_its_job_is_recorded(audited: Audited) -> None:
    job = (await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "spin", "stop_when_client_leaves": True})).json()
    for key, address in ((OPERATE.key, f"/v1/jobs/{job['job_id']}/stream"), ("", job["stream_url"])):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with audited.server.client.stream("GET", address, headers=headers) as answer:
            assert answer.status_code == 200
    await audited.server.supervisor.wait(job["job_id"])
    submit, gone = await audited.records(2)
    assert (gone["event"], gone["via"], gone["job_id"]) == ("client_gone", "ticket", job["job_id"])
    assert gone["owners"] == [submit["tenant"]] == ["team"]


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_a_flood_of_refusals_does_not_fill_the_disk_nor_hide_a_key(audited: Audited) -> None:
    evil = {"host": "evil.example"}
    for wrong in (audited.ask("wrong-0123456789", "GET", "/v1/info") for _ in range(FREE)):
        await wrong
    for wrong in (audited.server.client.get("/v1/info", headers=evil) for _ in range(20)):
        await wrong
    assert (await audited.ask(SECRET, "GET", "/v1/metrics")).status_code == 403
    found = await audited.records(FREE + 1)
    assert len(found) == FREE + 1 and (found[-1]["tenant"], found[-1]["unrecorded"]) == ("team", 20)


@pytest.mark.own_server
@pytest.mark.row("A25")
async def test_a_log_that_fails_stops_nothing_and_is_told(audited: Audited) -> None:
    away = audited.path.parent.with_suffix(".away")
    audited.path.parent.rename(away)
    answer = await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "echo"})
    assert answer.status_code == 202
    await until_async(lambda: audited.log.trouble or Pending("no trouble"), "trouble")
    ready = (await audited.ask(SECRET, "GET", "/readyz")).json()
    assert ready["status"] == "degraded" and "the audit log" in " ".join(ready["degraded"])
    audited.log.lost = 3
    assert (await audited.ask(OPERATE.key, "GET", "/v1/metrics")).json()["audit_records_lost"] == 3
    for accept, parse in (("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)):
        headers = {"authorization": f"Bearer {OPERATE.key}", "accept": accept}
        text = (await audited.server.client.get("/metrics", headers=headers)).text
        (family,) = [each for each in parse(text) if each.name == "killable_audit_records_lost"]
        assert [sample.value for sample in family.samples] == [3.0]
    away.rename(audited.path.parent)
    assert [each["event"] for each in await audited.records(1)] == ["submit"]


@pytest.mark.own_server
async def test_the_log_of_jobs_says_whose_key_cancelled(audited: Audited, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "killable.jobs")
    job_id = (await audited.ask(SECRET, "POST", "/v1/jobs", json={"type": "spin"})).json()["job_id"]
    await audited.ask(OPERATE.key, "DELETE", f"/v1/jobs/{job_id}?grace_s=0")
    said = {record.message: record for record in caplog.records if getattr(record, "job_id", "") == job_id}
    for event in ("cancel_requested", "cancelled"):
        assert (said[event].__dict__["by"], said[event].__dict__["key"]) == ("user", "oncall")
