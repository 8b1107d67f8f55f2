"""The file of the audit log: what is appended, where, and what happens when it cannot be."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import files_end_at
from support.waiting import Pending, until

from killable.api.http import audit_log
from killable.api.http.audit_log import RECORDS_MAX, AuditLog

SIZE_MAX = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    log = AuditLog(str(path), clock=lambda: 1_796_025_600.5)
    yield log
    log.close()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def until_written(path: Path, *events: str) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]] | Pending:
        seen = records(path) if path.exists() else []
        return seen if [each["event"] for each in seen] == list(events) else Pending(seen)

    return until(found, f"the records {events}")


def test_records_are_appended_a_line_each(path: Path, log: AuditLog) -> None:
    log.write("submit", tenant="a", status=202)
    log.write("cancel", path="/v1/jobs/\n\x1b[31m")
    first, second = until_written(path, "submit", "cancel")
    assert first == {"time": "2026-11-30T08:00:00.500Z", "number": 1, "event": "submit", "tenant": "a", "status": 202}
    assert second["number"] == 2 and second["path"] == "/v1/jobs/\n\x1b[31m"
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()
    AuditLog(str(path)).close()
    assert len(records(path)) == 2, "another run goes on in the same file"


def test_what_waits_is_written_at_the_end(path: Path) -> None:
    log = AuditLog(str(path))
    for _ in range(100):
        log.write("submit")
    log.close()
    assert [each["number"] for each in records(path)] == list(range(1, 101))


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(path: Path, log: AuditLog) -> None:
    log.write("one")
    until_written(path, "one")
    path.rename(path.with_suffix(".1"))
    log.write("two")
    until_written(path, "two")
    os.unlink(path)
    log.reopen()
    until(lambda: path.exists() or Pending("no file"), "the file again, without a record")
    log.write("three")
    until_written(path, "three")
    assert [each["event"] for each in records(path.with_suffix(".1"))] == ["one"]


def test_on_a_full_disk_records_wait_and_then_come_whole(path: Path) -> None:
    path.write_bytes(b"{}" + b" " * (SIZE_MAX - 13) + b"\n")  # ten bytes are left
    log = AuditLog(str(path))
    with files_end_at(SIZE_MAX):
        log.write("one")
        assert str(path) in until(lambda: log.trouble or Pending("no trouble"), "trouble")
        log.reopen()
        for _ in range(RECORDS_MAX + 4):
            log.write("more")
        assert log.lost == 5
    until(lambda: not log.trouble or Pending(log.trouble), "no trouble any more")
    log.write("after")
    log.close()
    found = records(path)[1:]
    assert [each["event"] for each in found[:2]] == ["one", "more"] and len(found) == RECORDS_MAX + 2
    assert [(each["event"], each.get("lost")) for each in found[-2:]] == [("records_lost", 5), ("after", None)]


def test_a_line_that_was_begun_is_ended_before_the_next_one_and_is_whole_in_another_file(path: Path) -> None:
    path.write_bytes(b'{"number": ')  # of a server that has ended on a full disk
    log = AuditLog(str(path))
    with files_end_at(20):
        log.write("one")
        until(lambda: log.trouble or Pending("no trouble"), "trouble")
        path.rename(path.with_suffix(".1"))
    assert [each["event"] for each in until_written(path, "one")] == ["one"]
    assert path.with_suffix(".1").read_bytes().splitlines()[0] == b'{"number": '
    log.close()


def test_a_folder_that_is_gone_is_told_and_waited_for(path: Path, log: AuditLog) -> None:
    log.write("one")
    until_written(path, "one")
    path.parent.rename(path.parent.with_suffix(".away"))
    log.write("two")
    assert "no such file" in until(lambda: log.trouble or Pending("no trouble"), "trouble")
    path.parent.with_suffix(".away").rename(path.parent)
    until_written(path, "one", "two")


def test_a_disk_that_takes_nothing_is_in_trouble(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "STANDS_STILL_S", 0.0)
    monkeypatch.setattr(AuditLog, "_write_all", lambda self: None)
    log = AuditLog(str(path))
    assert log.trouble == ""
    log.write("one")
    assert "has taken no record for" in until(lambda: log.trouble or Pending("no trouble"), "trouble")
    log.close()


def test_what_is_no_file_of_ours_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    path.symlink_to("other")
    os.mkfifo(tmp_path / "pipe")
    for wrong in (path, tmp_path / "pipe", tmp_path, tmp_path / "none" / "audit.log"):
        with pytest.raises(OSError):
            AuditLog(str(wrong))
    assert (tmp_path / "other").read_text() == ""
