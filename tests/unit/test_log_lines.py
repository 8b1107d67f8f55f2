"""Lines of the log: one for each record, whatever is in it, and nothing in it that must not be."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import files_end_at
from support.waiting import Pending, until

from killable.supervisor.linux.stream_room import wait_for_room
from killable.supervisor.telemetry import log_cuts_and_redaction, log_lines

SECRET = "hunter2"
FORGED = f"{SECRET}\n2026-01-01T00:00:00.000Z info killable.jobs completed job_id=job-1\r\u2028\x1b[2J"
FORMATS: tuple[log_lines.Format, ...] = ("text", "json")
log = logging.getLogger("killable.jobs")


@contextlib.contextmanager
def written(log_format: log_lines.Format = "text", **how: Any) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that ends the log and returns its lines."""
    stream = io.StringIO()
    configured = log_lines.configure(log_format, stream=stream, **how)

    def lines() -> list[str]:
        configured.close()
        return stream.getvalue().split("\n")[:-1]

    try:
        yield lines
    finally:
        configured.close()


@pytest.mark.row("F5")
def test_text_is_time_level_logger_event_and_fields() -> None:
    with written() as lines:
        log.info(
            "cancelled", extra={"job_id": "job-1", "by": "user", "tree_empty_ms": 1.5, "reason": "no more", "n": 0}
        )
        (line,) = lines()
    time, rest = line.split(" ", 1)
    assert len(time) == len("2026-11-26T20:46:06.123Z") and time.endswith("Z")
    assert rest == 'info killable.jobs cancelled job_id=job-1 by=user tree_empty_ms=1.5 reason="no more" n=0'


@pytest.mark.row("F5")
def test_json_is_one_object_with_the_fields_as_they_are() -> None:
    with written("json") as lines:
        log.warning("failed", extra={"job_id": "job-1", "code": "exception", "tags": {"team": "ads"}})
        (line,) = lines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning", "logger": "killable.jobs", "event": "failed",
        "job_id": "job-1", "code": "exception", "tags": {"team": "ads"},
    }  # fmt: skip


@pytest.mark.row("F6")
@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("name", ["error", "reason", "correlation_id"])
def test_no_value_can_begin_a_line_of_its_own(log_format: log_lines.Format, name: str) -> None:
    with written(log_format) as lines:
        log.info("failed", extra={name: FORGED})
        logging.getLogger("uvicorn.error").warning("of a library: %s", FORGED)
        found = lines()
    assert len(found) == 2 and all(line.isascii() and line.isprintable() for line in found)
    if log_format == "json":
        assert json.loads(found[0])[name] == FORGED
    else:
        assert " job_id=job-1" not in found[0].partition(f"{name}=")[0]


@pytest.mark.row("F6")
def test_a_value_cannot_pass_for_a_field() -> None:
    with written() as lines:
        log.info("failed", extra={"reason": 'x job_id=job-2 "', "tags": {"a": "b c=d"}})
        (line,) = lines()
    assert line.endswith('reason="x job_id=job-2 \\"" tags={"a": "b c=d"}')


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_traceback_follows_indented_or_as_a_member(log_format: log_lines.Format) -> None:
    with written(log_format) as lines:
        try:
            raise ValueError(FORGED)
        except ValueError:
            log.exception("a fault of ours")
        first, *more = lines()
    if log_format == "json":
        assert "ValueError" in json.loads(first)["exc_info"] and not more
    else:
        assert more[0] == "    Traceback (most recent call last):" and all(line.startswith("    ") for line in more)


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("log_format", FORMATS)
def test_with_redact_nothing_that_others_said_is_written(log_format: log_lines.Format, redact: bool) -> None:
    with written(log_format, redact=redact) as lines:
        for name in log_cuts_and_redaction.FOREIGN_TEXT_FIELDS:
            log.info("failed", extra={name: SECRET, "job_id": "job-1"})
        log.info("submitted", extra={"tags": {"key": SECRET}})
        logging.getLogger("asyncio").error("Task exception was never retrieved: %s", SECRET)
        try:
            try:
                raise KeyError(SECRET)
            except KeyError as error:
                raise ValueError("first " + SECRET) from error
        except ValueError:
            log.exception("a fault of ours", stack_info=True)
            logging.getLogger("uvicorn.error").exception(SECRET)
        found = lines()
    whole = "\n".join(found)
    if not redact:
        assert whole.count(SECRET) >= len(log_cuts_and_redaction.FOREIGN_TEXT_FIELDS) + 5
        return
    assert SECRET not in whole
    assert whole.count("job-1") == len(log_cuts_and_redaction.FOREIGN_TEXT_FIELDS)  # what is ours is still there
    assert whole.count(log_cuts_and_redaction.REDACTED) >= len(log_cuts_and_redaction.FOREIGN_TEXT_FIELDS) + 6
    assert "ValueError" in whole and "KeyError" in whole and "test_log_lines.py" in whole


def test_other_handlers_get_the_record_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with written(redact=True) as lines, caplog.at_level(logging.INFO, logger="killable"):
        log.info("failed", extra={"error": SECRET})
        assert lines()
    assert caplog.records[0].error == SECRET and caplog.records[0].levelname == "INFO"  # type: ignore[attr-defined]


def test_what_another_formatter_made_of_an_exception_is_not_taken_over() -> None:
    with written(redact=True) as lines:
        record = log.makeRecord("killable.jobs", logging.ERROR, "", 0, "x", (), (ValueError, ValueError(SECRET), None))
        record.exc_text = SECRET
        log.handle(record)
        assert SECRET not in "\n".join(lines())


def test_long_words_are_cut_in_the_middle() -> None:
    with written("json") as lines:
        log.info("pool_broken", extra={"detail": "begin" + "x" * 100_000 + "end"})
        (line,) = lines()
    detail = json.loads(line)["detail"]
    assert detail.startswith("begin") and detail.endswith("end") and len(detail) < 1100


def test_the_level_is_of_our_own_loggers_and_others_are_heard_from_warnings_on() -> None:
    with written(log_level="debug") as lines:
        log.debug("ours")
        logging.getLogger("asyncio").info("theirs")
        logging.getLogger("asyncio").warning("theirs, a warning")
        assert [line.split(" ", 3)[3] for line in lines()] == ["ours", "theirs, a warning"]
    with written(log_level="error") as lines:
        log.warning("ours")
        logging.getLogger("asyncio").warning("theirs")
        assert lines() == []


def test_a_level_that_there_is_not_is_refused_and_nothing_is_set_up() -> None:
    before = list(logging.root.handlers)
    with pytest.raises(ValueError, match="no log level 'loud'"):
        log_lines.configure(log_level="loud")
    assert logging.root.handlers == before


def test_closing_twice_restores_once() -> None:
    before = logging.root.level, list(logging.root.handlers)
    configured = log_lines.configure(log_level="debug", stream=io.StringIO())
    configured.close()
    configured.close()
    log.warning("after the end")
    assert (logging.root.level, logging.root.handlers) == before


def test_a_log_that_nobody_reads_holds_nobody_up_and_says_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "RECORDS_WAITING_MAX", 3)
    monkeypatch.setattr(log_lines, "STANDS_STILL_S", 0.0)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writing, "w")
    configured = log_lines.configure("json", stream=stream)
    for _ in range(200):
        log.info("x" * 5000)  # more than the pipe takes
    threads = [thread for thread in threading.enumerate() if thread.name == "killable-log"]
    assert threads and threads[0].daemon
    assert "has taken no record for" in until(lambda: log_lines.trouble() or Pending("no trouble"), "trouble")
    read = b""

    def is_lost_told() -> bool:
        nonlocal read
        log.info("later")
        try:
            read += os.read(reading, 1 << 20)
        except BlockingIOError:
            pass
        return b'"dropped"' in read

    until(is_lost_told, "the number of dropped records is told")
    assert log_lines.records_lost() > 0
    told = next(json.loads(line) for line in read.decode().split("\n") if '"dropped"' in line)
    assert told["dropped"] > 0 and told["level"] == "warning"
    os.close(reading)
    configured.close()
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_stream_that_does_not_block_is_waited_for_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "LOOK_S", 0.01)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writing, "w")
    configured = log_lines.configure("json", stream=stream, wait_for_room=wait_for_room)
    for number in range(20):
        log.info("begun", extra={"n": number, "detail": "x" * 900})
    with os.fdopen(reading) as lines:
        assert [json.loads(lines.readline())["n"] for _ in range(20)] == list(range(20))
        assert (log_lines.trouble(), log_lines.records_lost()) == ("", 0)
        log.info("x" * 5000)
        until(lambda: configured._handler._writes_since or Pending("no write"), "it waits for room")
        stream.close()
        until(lambda: log_lines.trouble() or Pending("no trouble"), "the wait is over")
    assert log_lines.trouble() == "the log cannot be written: the stream is closed"
    configured.close()


def test_on_a_full_disk_what_is_lost_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "AGAIN_S", 0.01)
    path = tmp_path / "log"
    path.write_bytes(b" " * 99 + b"\n")
    with path.open("a") as stream, contextlib.closing(log_lines.configure("json", stream=stream)):
        assert (log_lines.trouble(), log_lines.records_lost()) == ("", 0)
        with files_end_at(110):
            for number in range(5):
                log.info("begun", extra={"n": number})
                until(lambda: log_lines.trouble() or Pending("no trouble"), "trouble")
            until(lambda: log_lines.records_lost() == 4 or Pending(log_lines.records_lost()), "all but the first")
            assert log_lines.trouble() == "the log cannot be written: file too large"
        until(lambda: not log_lines.trouble() or Pending(log_lines.trouble()), "it goes on, without another record")
    first, told = map(json.loads, path.read_text().splitlines()[1:])
    assert first["n"] == 0, "the rest of what the disk had cut"
    assert (told["event"], told["dropped"]) == ("records_dropped", 4)
    assert log_lines.records_lost() == 0, "there is no log any more"


def test_a_reader_that_has_gone_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    configured = log_lines.configure(stream=stream)
    waiting = configured._handler._lines
    for _ in range(2):
        log.warning("to nobody")
        until(lambda: not waiting or Pending(len(waiting)), "the record is taken")
    configured.close()
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_an_end_that_comes_right_behind_the_gathering_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has looked whether it is the last time, and is told so before it looks again."""

    class Late(threading.Event):
        """Does what `close` does in the moment after a wait that was in vain."""

        def wait(self, timeout: float | None = None) -> bool:
            was_set = super().wait(timeout)
            if not was_set:
                self.set()
                writer._lines_waiting.set()
            return was_set

    stream = io.StringIO()
    configured = log_lines.configure("text", stream=stream)
    writer = next(handler for handler in logging.root.handlers if isinstance(handler, log_lines._Writer))
    monkeypatch.setattr(writer, "_closing", Late())
    log.info("last")
    until(lambda: not writer._thread.is_alive() or Pending(writer._thread), "the log's thread has ended")
    configured.close()
    assert "last" in stream.getvalue()
