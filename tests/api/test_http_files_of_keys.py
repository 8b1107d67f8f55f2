"""Whose files are whose: roles, visibility, bounds of each key, the audit log, metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import OwnServer, StartServer, problem_of
from support.waiting import Pending, until_async

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.supervisor.settings import PoolSpec

ANN = ApiKey("ann", "submit", "ann-0123456789abcdef", visibility="own")
BOB = ApiKey("bob", "submit", "bob-0123456789abcdef", visibility="own")
LOOKER = ApiKey("looker", "read", "looker-0123456789ab")
ALL = ApiKey("all", "submit", "all-0123456789abcdef")
HTTP = HttpSettings(keys=(ANN, BOB, LOOKER, ALL))
JOBS = PoolSpec(
    name="files", modules=(str(Path(__file__).parent.parent / "support" / "file_jobs.py"),), workers=1, spares=1
)


class Keyed:
    """A server with keys, and its audit log."""

    def __init__(self, server: OwnServer, audit: Path) -> None:
        self.server = server
        self.audit = audit

    async def ask(self, key: ApiKey, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key.key}"}
        return await self.server.client.request(method, path, headers=headers, **options)

    async def upload(self, key: ApiKey, content: bytes = b"content") -> dict[str, Any]:
        answer = await self.ask(key, "POST", "/v1/files?name=a.txt", content=content)
        assert answer.status_code == 201, answer.text
        record: dict[str, Any] = answer.json()
        assert record["tenant"] == key.name
        return record

    async def digest(self, key: ApiKey, file_id: str) -> httpx.Response:
        job = {"type": "digest", "input": {"file": file_id}}
        return await self.ask(key, "POST", "/v1/jobs", json=job)


@pytest.fixture
async def keyed(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Keyed]:
    log = AuditLog(str(tmp_path / "audit.log"))
    settings: dict[str, Any] = {"has_files": True, "files_bytes_max": 1000}
    async with start_server(more=(JOBS,), http=HTTP, audit_log=log, **settings) as server:
        yield Keyed(server, tmp_path / "audit.log")
    log.close()


async def test_a_key_that_sees_its_own_finds_no_file_of_another(keyed: Keyed) -> None:
    file_id = (await keyed.upload(ANN))["file_id"]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        problem_of(await keyed.ask(BOB, method, f"/v1/files/{file_id}{path}"), 404, "unknown_file")
    assert (await keyed.ask(BOB, "GET", "/v1/files")).json() == {"files": [], "next_cursor": None}
    problem_of(await keyed.digest(BOB, file_id), 404, "unknown_file")
    for key in (ANN, ALL):
        assert len((await keyed.ask(key, "GET", "/v1/files")).json()["files"]) == 1
        assert (await keyed.digest(key, file_id)).status_code == 202


async def test_a_reader_downloads_and_changes_nothing(keyed: Keyed) -> None:
    file_id = (await keyed.upload(ANN))["file_id"]
    assert (await keyed.ask(LOOKER, "GET", f"/v1/files/{file_id}/content")).content == b"content"
    problem_of(await keyed.ask(LOOKER, "DELETE", f"/v1/files/{file_id}"), 403, "forbidden")
    problem_of(await keyed.ask(LOOKER, "POST", "/v1/files", content=b"x"), 403, "forbidden")


async def test_each_key_has_its_own_room(keyed: Keyed) -> None:
    await keyed.upload(ANN, b"x" * 1000)
    problem_of(await keyed.ask(ANN, "POST", "/v1/files", content=b"x"), 413, "files_full")
    await keyed.upload(BOB, b"x" * 1000)


async def test_files_that_a_job_saved_are_its_keys(keyed: Keyed) -> None:
    job = {"type": "save", "input": {"name": "out.txt"}}
    job_id = (await keyed.ask(ANN, "POST", "/v1/jobs", json=job)).json()["job_id"]
    await keyed.server.supervisor.wait(job_id, 30)
    for path in ("", "/out.txt"):
        assert (await keyed.ask(ANN, "GET", f"/v1/jobs/{job_id}/files{path}")).status_code == 200
        assert (await keyed.ask(LOOKER, "GET", f"/v1/jobs/{job_id}/files{path}")).status_code == 200
        problem_of(await keyed.ask(BOB, "GET", f"/v1/jobs/{job_id}/files{path}"), 404, "unknown_job")


async def test_uploads_are_audited_and_counted(keyed: Keyed) -> None:
    file_id = (await keyed.upload(ANN))["file_id"]
    await keyed.ask(ANN, "GET", f"/v1/files/{file_id}/content")
    problem_of(await keyed.ask(ANN, "DELETE", "/v1/files/secret-name"), 404, "unknown_file")
    counts = (await keyed.ask(LOOKER, "GET", "/v1/metrics")).json()
    assert (counts["files"], counts["files_bytes"]) == (1, 7)
    assert (counts["files_received_bytes"], counts["files_sent_bytes"]) == (7, 7)
    assert "killable_files_received_bytes_total 7.0" in (await keyed.ask(LOOKER, "GET", "/metrics")).text
    await keyed.ask(ANN, "DELETE", f"/v1/files/{file_id}")

    def records() -> list[dict[str, Any]] | Pending:
        seen = [json.loads(line) for line in keyed.audit.read_text().splitlines()]
        return seen if len(seen) >= 3 else Pending(seen)

    told = await until_async(records, "all of it is recorded")
    assert [(each["event"], each.get("file_id", ""), each["status"]) for each in told] == [
        ("upload", file_id, 201),
        ("delete_file", "", 404),
        ("delete_file", file_id, 200),
    ]
    assert "content" not in keyed.audit.read_text()
