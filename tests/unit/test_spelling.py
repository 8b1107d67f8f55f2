"""What people see of durations, sizes, deaths, tables and errors."""

from __future__ import annotations

import errno
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from rich.console import Console

from killable.api.cli.commands import ps
from killable.api.cli.commands.types import signature
from killable.api.cli.display import console, errors
from killable.api.cli.display.certificate import certificate_table, death_line
from killable.api.cli.display.exit_codes import EXIT_CODES, exit_code
from killable.api.cli.display.job_state import job_state
from killable.api.cli.display.record_table import facts_table
from killable.api.client.client import NotEnded, Unreachable
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by, progress_text
from killable.supervisor.configuration.config import ConfigError
from killable.workers.error_classes import WorkerCrashed, error_class
from killable.workers.error_codes import CODES
from killable.workers.errors import JobCancelled, JobFailed, JobTimedOut, KillableError, Refused

CLEAN = {"requested": 0.0, "term_sent": 0.1, "delivered": 0.3, "acknowledged": 0.4, "exited": 1.2, "tree_empty": 1.3}
STUCK = {"requested": 0.0, "term_sent": 0.1, "delivered": 0.3, "kill_sent": 501.0, "exited": 512.0, "tree_empty": 513.2}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"), (0.0, "0.0 ms"), (0.0004, "0.4 ms"), (0.00996, "10 ms"), (0.0994, "99 ms"), (0.0996, "0.1 s"),
        (1.34, "1.3 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1m00s"), (245, "4m05s"), (3599.7, "1h00m"),
        (7384, "2h03m"), (273600, "3d04h"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert spelling.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.5, "0.5 s"), (5, "5 s"), (90, "90 s"), (600, "10m"), (7200, "2h"), (1e5, "100000 s")]
)
def test_settings_are_shown_as_they_are_written(seconds: float, shown: str) -> None:
    assert spelling.setting(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10240, "10 KiB"), (2 << 30, "2.0 GiB")],
)
def test_sizes(count: int | None, shown: str) -> None:
    assert spelling.size(count) == shown


def test_a_clean_death_reads_as_in_the_manual() -> None:
    assert death_line(CLEAN) == "dead after 1.3 ms (SIGTERM acknowledged 0.4 ms, tree empty 1.3 ms, 1 process)"


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (
            STUCK | {"processes_swept": 2},
            "dead after 0.5 s (SIGTERM delivered 0.3 ms, not acknowledged, SIGKILL 0.5 s, tree empty 0.5 s, "
            "3 processes)",
        ),
        (
            {"requested": 0.0, "term_sent": 0.1, "kill_sent": 2.0, "tree_empty": 3.0},
            "dead after 3.0 ms (SIGTERM not delivered, SIGKILL 2.0 ms, tree empty 3.0 ms, 1 process)",
        ),
        (
            {"requested": 0.0, "kill_sent": 0.1, "tree_empty": 1.0},
            "dead after 1.0 ms (SIGKILL 0.1 ms, tree empty 1.0 ms, 1 process)",
        ),
        (
            {"requested": 0.0, "term_sent": 0.1, "kill_sent": 2.0},
            "NOT PROVEN DEAD (SIGTERM not delivered, SIGKILL 2.0 ms)",
        ),
        ({"requested": 0.0, "cause": "cancelled"}, "dead (it had no process)"),
        (None, "how its process ended is not known"),
    ],
)
def test_other_deaths(certificate: dict[str, Any] | None, words: str) -> None:
    assert death_line(certificate) == words


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"state": "cancelled", "certificate": {"by": "user"}}, "cancelled by user"),
        ({"state": "cancelled", "error": {"code": "cancelled", "by": "shutdown"}}, "cancelled by shutdown"),
        ({"status": "cancelled"}, "cancelled"),
        ({"state": "timed_out", "error": {"code": "timeout.run"}}, "timed_out (timeout.run)"),
        ({"state": "completed", "error": None, "certificate": {}}, "completed"),
    ],
)
def test_endings(record: dict[str, Any], words: str) -> None:
    assert ended_by(record) == words


def printed(capsys: pytest.CaptureFixture[str], table: Any) -> list[list[str]]:
    console.print_table(table)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.row("G1")
def test_the_jobs_table_joins_each_job_with_its_worker(capsys: pytest.CaptureFixture[str]) -> None:
    # Not of seconds: what prints the table is imported now, and a busy machine takes one of them for that.
    created = (datetime.now(UTC) - timedelta(hours=2, minutes=3)).isoformat().replace("+00:00", "Z")
    jobs = [
        {
            "job_id": "job-3f2a91c0-aaaa",
            "type": "split",
            "state": "running",
            "created_at": created,
            "tokens": 7,
            "worker_id": "w-2",
            "started_at": created,
        },
        {"job_id": "job-4f2a91c0-aaaa", "type": "split", "state": "queued", "created_at": created, "tokens": 0},
    ]
    workers = [
        {"job_id": None, "worker_id": "w-1", "pid": 10, "cpu": 0.0, "rss_bytes": 1},
        {"job_id": "job-3f2a91c0-aaaa", "worker_id": "w-2", "pid": 11, "cpu": 0.98, "rss_bytes": 12 << 20},
    ]
    header, _, running, queued = printed(capsys, ps.listing(jobs, workers, full=False))
    assert header == ["JOB", "TYPE", "STATE", "AGE", "RAN", "TOKENS", "WORKER", "PID", "CPU", "RSS"]
    assert running == ["job-3f2a91c0", "split", "running", "2h03m", "2h03m", "7", "w-2", "11", "98%", "12", "MiB"]
    assert queued == ["job-4f2a91c0", "split", "queued", "2h03m", "-", "0", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        (None, ""),
        ({}, ""),
        ({"done": 9, "total": 20, "unit": "chunks"}, "45%, 9 of 20 chunks"),
        ({"done": 1500, "total": None, "unit": ""}, "1 500"),
        ({"done": 30, "total": 20, "unit": "x\x1b[2J"}, "100%, 30 of 20 x�[2J"),
        ({"done": 0.25, "total": 0, "unit": "s"}, "0.25 of 0 s"),
    ],
)
def test_progress(reported: dict[str, Any] | None, words: str) -> None:
    assert progress_text(reported) == words


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"state": "queued", "queue": {"position": 0}}, "queued #1"),
        ({"state": "queued", "queue": {"position": None}}, "queued"),
        ({"state": "queued", "queue": {"position": 0, "detail": ""}}, "queued #1"),
        ({"state": "queued", "queue": {"position": 0, "detail": "no node has zone=c"}}, "queued no node"),
        ({"state": "running", "progress": {"done": 1, "total": 3}}, "running 33%"),
        ({"state": "running", "progress": {"done": 1, "total": None}}, "running"),
        ({"state": "completed", "progress": {"done": 3, "total": 3}}, "completed"),
    ],
)
def test_a_state_says_how_far(job: dict[str, Any], words: str) -> None:
    assert job_state(job).plain == words


def test_an_input_reads_as_a_signature() -> None:
    schema = {
        "properties": {
            "text": {"type": "string"}, "mode": {"enum": ["fast", "good"], "default": "fast"},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, "any": {},
        },
        "required": ["text"],
    }  # fmt: skip
    words = 'text: string, mode: "fast"|"good" = "fast", limit: integer|null = null, any = ...'
    assert signature(schema) == words
    assert signature({}) == "-"


def test_a_certificate_shows_what_did_not_happen(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(certificate_table(STUCK | {"stack": "File a.py, line 1 in encode\n", "grace_s": 5.0}))
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "acknowledged -" in lines
    assert "SIGKILL sent 501 ms" in lines and "exited 512 ms" in lines, "no two are the same 0.5 s"
    assert "grace_s 5 s" in lines
    assert any("line 1 in encode" in line for line in lines)
    assert not any(line != line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_a_stack_is_whole_where_there_is_no_room_for_it(soft_wrap: bool) -> None:
    frame = f'  File "{"/a/folder" * 20}/jobs.py", line 1 in encode'
    narrow = Console(width=80, file=io.StringIO(), soft_wrap=soft_wrap, highlight=False)
    with narrow.capture() as shown:
        narrow.print(certificate_table({"stack": frame}))
    assert "".join(shown.get().split()) == "".join(frame.split())


def test_a_table_in_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(facts_table({"message": "x" * 300, "empty": None, "limits": {"run_s": 600.0}}))
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["message", "x" * 300]
    assert second.split() == ["limits", "run_s=10m"]


def test_a_name_cannot_move_the_cursor() -> None:
    assert spelling.plain("a\x1b[2J\nb") == "a�[2J b"


# ── errors ──


@pytest.mark.row("E14")
@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_exit_code(code: str) -> None:
    # A fact of that name is the job's exit code, not the command's.
    assert exit_code(error_class(code)("", code=code, exit_code=99)) == EXIT_CODES.get(code, 1)


@pytest.mark.row("E14")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobFailed("", code="exception"), 1), (JobCancelled(), 3), (Refused(code="unknown_job"), 4),
        (Refused(code="invalid"), 65), (Unreachable("x"), 69), (NotEnded("x"), 75), (Refused(code="queue_full"), 75),
        (Refused(code="unauthorized"), 77), (ConfigError.of([]), 78), (JobTimedOut(), 124),
        (JobFailed("x", code="of.tomorrow"), 1),
    ],
)  # fmt: skip
def test_exit_codes_of_the_manual(error: KillableError, code: int) -> None:
    assert exit_code(error) == code


def test_an_interrupt_is_130() -> None:
    with pytest.raises(click.exceptions.Exit) as caught, errors.reporting(False):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130


def test_what_the_machine_refuses_the_command_is_71(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        with pytest.raises(click.exceptions.Exit) as caught, errors.reporting(as_json):
            raise PermissionError(errno.EACCES, "Permission denied", "the file")
        assert caught.value.exit_code == 71
        out, err = capsys.readouterr()
        told = json.loads(out)["error"]["message"] if as_json else err
        assert "Permission denied" in told and "the file" in told and bool(out) is as_json


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (JobFailed("", code="limit.output"), "--output-bytes"),
        (JobFailed("", code="limit.memory", limit="memory_bytes"), "--memory-bytes"),
        (JobTimedOut("", code="timeout.queue", limit="total_s"), "--total-s"),
        (JobTimedOut("", code="timeout.operation", limit="operation_s"), "--operation-s PATH=SECONDS"),
        (JobTimedOut("", code="timeout.queue", limit="queue_s"), "--queue-s"),
    ],
)
def test_the_limit_that_was_reached_is_named(
    capsys: pytest.CaptureFixture[str], error: KillableError, told: str
) -> None:
    errors.report(error, as_json=False)
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint.startswith("hint: ") and told in hint


@pytest.mark.row("G10")
def test_an_error_as_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    error = JobFailed("x", code="of.tomorrow", job_id="job-1", text="\ud800")
    with pytest.raises(click.exceptions.Exit), errors.reporting(True):
        raise error
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"code": "of.tomorrow", "message": "x", "retryable": False, "job_id": "job-1", "text": "\ud800"}
    }
    assert err == ""


def test_a_failed_job_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(JobFailed("ValueError: bad", code="exception", traceback="Traceback\n  line 1\n"), as_json=False)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", ["killable: exception: ValueError: bad", "Traceback", "  line 1"])


def test_a_job_that_was_stuck_is_explained_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    certificate = STUCK | {"early_kill": "not acknowledged", "stack": "in encode\n"}
    errors.report(JobCancelled("", by="user", reason="slow", certificate=certificate), as_json=False)
    first, second, stack, hint = capsys.readouterr().err.splitlines()
    assert first == "killable: cancelled by user: slow"
    assert second == death_line(certificate)
    assert stack == "in encode"
    assert hint.startswith("hint: ") and "--ack-s" in hint


def test_all_faults_of_an_input_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [
        {"in": "body", "pointer": "/input/n", "message": "is required"},
        {"in": "body", "pointer": "/limits/run_s", "message": "must be more than 0"},
        {"in": "body", "pointer": "/type", "message": "must be a string"},
    ]
    errors.report(Refused("2 faults", code="invalid", faults=faults), as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "killable: invalid: 3 faults",
        "  -i n: is required",
        "  --run-s: must be more than 0",
        "  body /type: must be a string",
    ]


def test_a_crash_names_its_signal(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(WorkerCrashed("the process crashed with SIGSEGV", code="crash"), as_json=False)
    assert capsys.readouterr().err == "killable: crash: the process crashed with SIGSEGV\n"
