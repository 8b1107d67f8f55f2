"""Records as journald takes them: fields of its protocol, a file for what is large, and stderr while it is away."""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from killable.supervisor.linux import journal_socket
from killable.supervisor.telemetry import journald, log_lines
from killable.supervisor.telemetry.log_vocabulary import message_id

log = logging.getLogger("killable.jobs")


class Journal:
    """journald's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        data, rights, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if rights:
            descriptor = int.from_bytes(rights[0][2], "little")
            with open(descriptor, "rb") as file:
                data = os.pread(file.fileno(), 1 << 26, 0)
        fields = {}
        while data:
            name, _, rest = data.partition(b"\n")
            if b"=" in name:
                name, _, value = name.partition(b"=")
                data = rest
            else:
                length = int.from_bytes(rest[:8], "little")
                value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path / "socket")
    yield one
    one.socket.close()


def configured(
    tmp_path: Path, log_format: log_lines.Format = "text", *, redact: bool = False
) -> tuple[log_lines.Log, io.StringIO]:
    stream = io.StringIO()
    to_journal = journal_socket.JournalSocket(str(tmp_path / "socket"))
    return log_lines.configure(log_format, redact=redact, stream=stream, to_journal=to_journal), stream


def test_a_record_has_its_fields_and_nothing_comes_on_stderr(journal: Journal, tmp_path: Path) -> None:
    written, stream = configured(tmp_path)
    log.error("failed", extra={"job_id": "job-1", "code": "exception", "error": "a\nb", "tags": {"a": "b"}, "n": None})
    entry = journal.entry()
    written.close()
    assert entry == {
        "MESSAGE": 'killable.jobs failed job_id=job-1 code=exception error="a\\nb" tags={"a": "b"}',
        "PRIORITY": "3", "SYSLOG_IDENTIFIER": "killable", "KILLABLE_LOGGER": "killable.jobs",
        "KILLABLE_EVENT": "failed", "MESSAGE_ID": message_id("failed"), "JOB_ID": "job-1",
        "KILLABLE_CODE": "exception", "KILLABLE_ERROR": "a\nb", "KILLABLE_TAGS": "a=b",
    }  # fmt: skip
    assert stream.getvalue() == ""


def test_json_stays_json_in_the_message_and_redaction_holds_for_fields(journal: Journal, tmp_path: Path) -> None:
    written, _ = configured(tmp_path, "json", redact=True)
    log.info("failed", extra={"error": "hunter2", "reason": "hunter2"})
    entry = journal.entry()
    written.close()
    assert entry["MESSAGE"].startswith("{") and "hunter2" not in str(entry)


def test_a_record_that_no_datagram_holds_comes_as_a_sealed_file(journal: Journal, tmp_path: Path) -> None:
    written, _ = configured(tmp_path)
    log.warning("x" * 10_000_000)
    entry = journal.entry()
    written.close()
    assert len(entry["MESSAGE"]) > 10_000_000 and entry["PRIORITY"] == "4"


def test_without_journald_lines_come_on_stderr_with_their_priorities(tmp_path: Path) -> None:
    written, stream = configured(tmp_path)
    log.info("started", extra={"job_id": "job-1"})
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("uncaught")
    written.close()
    first, *more = stream.getvalue().splitlines()
    assert first == "<6>killable.jobs started job_id=job-1"
    assert more[0] == "<3>killable.jobs uncaught" and all(line.startswith("<3>") for line in more)
    assert more[-1] == "<3>    ValueError: why"


def test_a_descriptor_is_the_journal_s_if_the_variable_names_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(ours.fileno())
        named = f"{found.st_dev}:{found.st_ino}"
        assert journal_socket.is_journal(named, ours.fileno())
        assert not journal_socket.is_journal(named, theirs.fileno()) and not journal_socket.is_journal(
            "", ours.fileno()
        )
    assert not journal_socket.is_journal(named, 1 << 20)


def test_levels_are_priorities() -> None:
    assert [journald.priority(level) for level in (10, 20, 30, 40, 50)] == [7, 6, 4, 3, 2]
