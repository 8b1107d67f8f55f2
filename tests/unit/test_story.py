"""The story of each ending: it names the rule, tells the steps, and its last paragraph names one setting or none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from killable.api.explanation import story
from killable.api.explanation.ending_rules import rule_of
from killable.api.explanation.remedies import remedy_for
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.error_codes import CODES

RECORD: dict[str, Any] = {
    "job_id": "job-3f2a91c0-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "type": "split", "tenant": "default",
    "created_at": "2026-01-02T03:04:05.000Z", "started_at": "2026-01-02T03:04:05.250Z",
    "ended_at": "2026-01-02T03:04:07.250Z", "worker_id": "w-7", "pid": 431, "attempt": 1, "tokens": 2, "tags": {},
    "limits": dict(DEFAULT_LIMITS), "error": None, "progress": None, "queue": None,
}  # fmt: skip
HEARD = {
    "requested": 0.0, "term_sent": 0.1, "delivered": 0.3, "acknowledged": 0.4, "exited": 1.2, "reaped": 1.2,
    "tree_empty": 1.3, "grace_s": 5.0, "exit_code": 143, "proof": "descendants", "processes_swept": 0,
    "stack": "Stack at the signal (most recent call first):\n  File \"jobs.py\", line 17 in split\n",
}  # fmt: skip
STUCK = {
    "requested": 0.0, "term_sent": 0.1, "delivered": 0.3, "kill_sent": 501.0, "exited": 512.0, "tree_empty": 513.2,
    "grace_s": 5.0, "exit_signal": "SIGKILL", "early_kill": "not acknowledged for 0.501 s (ack_s 0.5)",
    "stack": "Current thread (most recent call first):\n  File \"jobs.py\", line 9 in encode\n",
}  # fmt: skip
BY_ITSELF = {"exited": 0.0, "reaped": 0.0, "tree_empty": 0.6, "exit_code": 0, "proof": "cgroup+descendants"}
NO_PROCESS = {"requested": 0.0, "cause": "cancelled"}


def record(state: str, code: str = "", certificate: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    error = {"code": code, "message": facts.pop("message", ""), **facts} if code else None
    return RECORD | {"state": state, "error": error, "certificate": certificate or BY_ITSELF}


def limited(ended: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return ended | {"limits": ended["limits"] | limits}


def never_started(ended: dict[str, Any]) -> dict[str, Any]:
    return ended | {"started_at": None, "worker_id": None, "pid": None, "tokens": 0}


ENDINGS: dict[str, tuple[dict[str, Any], str | None, tuple[str, ...]]] = {
    "completed": (
        record("completed"), None,
        ("split) completed", "its function returned", "Its process ended with exit code 0; the server did not stop it",
         "0.6 ms later"),
    ),
    "cancelled, acknowledged": (
        record("cancelled", "cancelled", HEARD, by="user", reason="enough"), None,
        ("cancelled by user: enough", "A user cancelled it", "; reason: enough.", "a grace of 5 s",
         "the job acknowledged it",
         "the process ended with exit code 143", "no process of it was left (proof: descendants)", "line 17 in split"),
    ),
    "cancelled, early kill": (
        record("cancelled", "cancelled", STUCK, by="user", reason=""), "ack_s",
        ("the job did not acknowledge it: its main thread was inside native code", "501.0 ms  SIGKILL was sent",
         "SIGKILL was sent before the grace was over: not acknowledged", "line 9 in encode", "--ack-s 1s"),
    ),
    "cancelled, the clean-up took too long": (
        record("cancelled", "cancelled", HEARD | {"kill_sent": 5000.4}, by="user"), "grace_s", ("--grace-s 10s",),
    ),
    "cancelled, cleaned up, and its process stayed": (
        record("cancelled", "cancelled", HEARD | {"kill_sent": 1300.2, "lingered": True}, by="user"), None,
        ("The job had ended, but its process was still there a second later", "SIGKILL was sent", "a busy machine"),
    ),
    "completed, and its process stayed": (
        record("completed", certificate={"kill_sent": 0.0, "exited": 1.0, "exit_signal": "SIGKILL", "lingered": True}),
        None, ("its function returned", "still there a second later, so it was killed"),
    ),
    "cancelled, deaf": (
        record("cancelled", "cancelled",
               {"requested": 0.0, "term_sent": 0.1, "kill_sent": 5000.0, "tree_empty": 5001.0}, by="user"),
        None, ("Python's signal handler did not run", "no grace is long enough"),
    ),
    "cancelled at once": (
        record("cancelled", "cancelled", {"requested": 0.0, "kill_sent": 0.1, "tree_empty": 1.0}, by="user"), None,
        ("It was killed at once",),
    ),
    "cancelled in the queue": (
        never_started(record("cancelled", "cancelled", NO_PROCESS, by="user")), None,
        ("It never started", "still in the queue", "It had no process"),
    ),
    "cancelled, client gone": (
        record("cancelled", "cancelled", HEARD, by="client_gone"), "stop_when_client_leaves", ("last reader",),
    ),
    "cancelled, shutdown": (
        record("cancelled", "cancelled", HEARD, by="shutdown"), "--deadline", ("shutting down", "--deadline 5m"),
    ),
    "timeout.run": (
        record("timed_out", "timeout.run", STUCK, message="run_s of 60 s is over", limit_s=60.0), "run_s",
        ("timed out, timeout.run", "The deadline run_s of 1m", "had not returned",
         "run_s. It is 10m for this job; it limits the time from",
         "--run-s 20m", '@job(run_s="20m")'),
    ),
    "timeout.queue": (
        never_started(record("timed_out", "timeout.queue", NO_PROCESS, limit_s=300.0)), "workers",
        ("The deadline queue_s of 5m", "no worker became free", "[pools.NAME]"),
    ),
    "timeout.queue, held by its own": (
        never_started(record("timed_out", "timeout.queue", NO_PROCESS, limit_s=300.0, busy_workers=4, held_by=[
            {"job_id": "job-11111111-aa", "type": "tick", "for_s": 125.0},
            {"job_id": "job-22222222-aa", "type": "split", "for_s": 3.0},
        ])), "workers",
        ("4 workers of its pool were busy then, with job-11111111 (tick, for 2m05s), job-22222222 (split, for 3.0 s) "
         "and 2 other jobs.",),
    ),
    "timeout.queue, held by others": (
        never_started(record("timed_out", "timeout.queue", NO_PROCESS, limit_s=9.0, busy_workers=1, held_by=[])),
        "workers",
        ("1 worker of its pool was busy then, with 1 job of another tenant.",),
    ),
    "timeout.start": (record("timed_out", "timeout.start", HEARD, limit_s=60.0), "start_s", ("--start-s 2m",)),
    "timeout.first_token": (
        limited(record("timed_out", "timeout.first_token", HEARD, limit_s=10.0), first_token_s=10.0), "first_token_s",
        ("The deadline first_token_s of 10 s", "--first-token-s 20s"),
    ),
    "timeout.idle": (
        limited(record("timed_out", "timeout.idle", HEARD, limit_s=10.0), idle_s=10.0), "idle_s",
        ("The deadline idle_s of 10 s", "--idle-s 20s"),
    ),
    "timeout.operation": (
        record("timed_out", "timeout.operation", HEARD | {"operation": "load/download/read"}, limit="operation_s",
               limit_s=600.0, operation="load/download", inside="load/download/read"), "operation_s",
        ("operation_s of 10m, set for operation load/download", "the last part of it in load/download/read",
         "was here, in operation load/download/read", "--operation-s load/download=20m",
         '@job(operation_s={"load/download": "20m"})', '"load/download" = "20m" under [jobs.split.limits.operation_s]'),
    ),
    "timeout.operation, raised": (
        record("timed_out", "timeout.operation", limit="operation_s", limit_s=600.0, operation="load",
               traceback="Traceback (most recent call last):\n  line 30, in load\n"), "operation_s",
        ("OperationTimedOut was raised in the job", "the server did not stop it",
         "line 30, in load", "--operation-s load=20m"),
    ),
    "exception": (
        record("failed", "exception", type="ValueError", message="ValueError: no luck",
               traceback="Traceback (most recent call last):\n  line 30, in fails\nValueError: no luck\n"),
        None, ("Its function raised ValueError: no luck", "line 30, in fails", "the traceback above"),
    ),
    "exit": (record("failed", "exit", BY_ITSELF | {"exit_code": 7}, exit_code=7), None, ("with exit code 7",)),
    "crash SIGSEGV": (
        record("failed", "crash", BY_ITSELF | {"exit_code": None, "exit_signal": "SIGSEGV"}, signal="SIGSEGV",
               core_dumped=True),
        None, ("crashed with SIGSEGV (an access to invalid memory)", "A core was dumped",
               "Its process ended by SIGSEGV",
               "the stack above, if there is one, shows where"),
    ),
    "limit.output": (
        record("failed", "limit.output", HEARD, message="output_bytes was reached"), "output_bytes",
        ("output_bytes of 64 MiB", "The output up to then is kept", "--output-bytes 128MiB"),
    ),
    "limit.memory": (
        record("failed", "limit.memory", message="memory_bytes was reached"), "memory_bytes", ("--memory-bytes 4GiB",),
    ),
    "limit.memory, measured": (
        record("failed", "limit.memory", HEARD, measured_bytes=3 << 30, processes=3), "memory_bytes",
        ("memory_bytes of 2.0 GiB: its 3 processes together had grown by 3.0 GiB", "--memory-bytes 4GiB"),
    ),
    "limit.cpu": (
        limited(record("failed", "limit.cpu", HEARD, limit_s=60.0, measured_s=60.5, processes=1), cpu_s=60.0), "cpu_s",
        ("cpu_s of 1m: its process had used 1m00s of processor time", "--cpu-s 2m"),
    ),
    "limit.processes": (
        record("failed", "limit.processes", HEARD, limit_processes=512, processes=530), "processes_max",
        ("processes_max of 512: 530 were counted at once", "--processes-max 1024", "@job(processes_max=1024)"),
    ),
    "limit.threads": (
        record("failed", "limit.threads", HEARD, limit_threads=1000, threads=1002), "threads_max",
        ("threads_max of 1000: 1002 were counted at once", "--threads-max 2000", "@job(threads_max=2000)"),
    ),
    "limit.tmp": (
        limited(
            record("failed", "limit.tmp", HEARD, limit_bytes=1 << 30, measured_bytes=3 << 29), tmp_bytes=1 << 30
        ),
        "tmp_bytes", ("tmp_bytes of 1.0 GiB: its temporary directory had 1.5 GiB", "--tmp-bytes 2GiB"),
    ),
    "limit.files": (
        limited(record("failed", "limit.files", message="none"), files_max=64), "files_max",
        ("files_max of 64", "--files-max 128"),
    ),
    "limit.files of the machine": (record("failed", "limit.files", message="none"), None, ("ulimit -n",)),
    "killed_externally": (
        record("failed", "killed_externally", signal="SIGKILL", oom="unknown"), None,
        ("SIGKILL from outside", "out-of-memory killer is the usual sender", "dmesg"),
    ),
    "killed_externally, out of memory": (
        record("failed", "killed_externally", signal="SIGKILL", oom="yes"), "memory_bytes",
        ("ran out of memory", "the cgroup counted the kill"),
    ),
    "a result over the bound of pipes": (
        record("failed", "result.unserializable", type="bytes", limit_bytes=64 << 20), None,
        ("may take 64 MiB, which no setting raises", "return the path"),
    ),
    "spawn": (
        never_started(record("failed", "spawn", NO_PROCESS, message="pip install nosuch")), None,
        ("could not be started: pip install nosuch", "killable doctor"),
    ),
}  # fmt: skip


def prose(told: story.Story) -> str:
    return "\n".join([told.headline, *(line for p in told.paragraphs for line in (p.text, *p.lines))])


@pytest.mark.parametrize("name", ENDINGS)
def test_each_ending_is_told(name: str) -> None:
    ended, setting, words = ENDINGS[name]
    told = story.tell(ended)
    for each in words:
        assert each in prose(told)
    assert told.remedy.setting == setting
    last = told.paragraphs[-1]
    assert last.title == "Change"
    assert last.text.startswith(f"{setting}. " if setting else "None. ")
    assert [p.title for p in told.paragraphs][:4] == ["Asked", "Ran", "Rule", "End"]


@pytest.mark.parametrize("code", [code for code, row in CODES.items() if row.state])
def test_every_code_has_a_rule_and_an_advice(code: str) -> None:
    ended = record(str(CODES[code].state), code, message=CODES[code].title)
    assert len(rule_of(ended)) > 20
    assert len(remedy_for(ended).words) > 20


def test_a_code_of_a_newer_server_is_told_by_its_message() -> None:
    told = prose(story.tell(record("failed", "of.tomorrow", message="the moon was full")))
    assert "of.tomorrow" in told and "the moon was full" in told


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"errno": "ENOSPC", "type": "OSError"}, "disk that it wrote to is full"),
        ({"errno": "EROFS"}, "is read-only"),
        ({"errno": "ENOMEM"}, "no memory left"),
        ({"type": "MemoryError"}, "no memory left"),
        ({"errno": "ECONNREFUSED"}, "retry_on=(ConnectionError, TimeoutError)"),
        ({"type": "ConnectionResetError"}, "retry_on=(ConnectionError, TimeoutError)"),
    ],
)
def test_what_the_machine_lacks_is_not_told_as_a_fault_of_the_code(facts: dict[str, str], words: str) -> None:
    told = remedy_for(record("failed", "exception", **facts)).words
    assert words in told and "Fix the job's code" not in told


@pytest.mark.parametrize("facts", [{"errno": "ENOENT"}, {"type": "ValueError"}, {}])
def test_an_exception_of_the_job_is_told_as_one(facts: dict[str, str]) -> None:
    assert remedy_for(record("failed", "exception", **facts)).words.startswith("Fix the job's code")


def test_what_was_asked_and_when() -> None:
    asked = record("completed") | {"tenant": "search", "priority": 3, "tags": {"team": "x"}, "correlation_id": "c-1"}
    paragraphs = {p.title: p.text for p in story.tell(asked).paragraphs}
    for words in ("03:04:05.000 UTC on 2026-01-02", "by search", "priority 3", "tag team=x", "correlation_id c-1",
                  "run_s 10m", "memory_bytes 2.0 GiB"):  # fmt: skip
        assert words in paragraphs["Asked"]
    assert paragraphs["Ran"] == "It waited 0.2 s and started on w-7 (pid 431); it ended 2.0 s later."


def test_a_limit_that_is_not_set_is_not_to_be_raised() -> None:
    limits = dict(over(DEFAULT_LIMITS, {"run_s": None}))
    told = story.tell(record("timed_out", "timeout.run", HEARD) | {"limits": limits})
    assert told.remedy.setting is None
    assert "no run_s" in prose(told)


def test_the_last_words_are_the_end_of_them() -> None:
    events = [
        {"event": "token", "data": {"text": "x" * 500}},
        {"event": "log", "data": {"text": "printed\x1b[2J"}},
        {"event": "token", "data": {"base64": "AA=="}},
        {"event": "token", "data": {"value": {"n": 1}}},
        {"event": "completed", "data": {}},
    ]
    said, printed = story.tell(record("completed"), events).paragraphs[-3:-1]
    assert said.text == "2 tokens, ending with:"
    assert said.lines[0].startswith("…xxx") and said.lines[0].endswith('<bytes>{"n": 1}')
    assert len(said.lines[0]) <= story.LAST_TOKENS_CHARS
    assert printed.lines == ("printed�[2J",)


def test_a_job_that_said_nothing() -> None:
    assert "It streamed nothing." in prose(story.tell(record("completed") | {"tokens": 0}))


@pytest.mark.parametrize(
    ("active", "words"),
    [
        (
            {"state": "queued", "started_at": None, "ended_at": None, "queue": {"position": 3}, "worker_id": None},
            "It has waited in the queue for 10 s, 3 jobs ahead of it",
        ),
        (
            {"state": "running", "ended_at": None, "progress": {"done": 1, "total": 4}},
            "it has been running for 9.8 s; the progress last reported was 25%",
        ),
        ({"state": "stopping", "ended_at": None}, "is stopping"),
    ],
)
def test_a_job_that_has_not_ended(active: dict[str, Any], words: str) -> None:
    now = datetime(2026, 1, 2, 3, 4, 15, tzinfo=UTC)
    told = story.tell(RECORD | {"certificate": None} | active, now=now)
    assert words in prose(told)
    assert told.paragraphs[-1].text == "None. It has not ended yet."
    assert "Rule" not in {p.title for p in told.paragraphs}


@pytest.mark.row("B16")
@pytest.mark.parametrize("code", ["supervisor_lost", "node_lost"])
def test_of_a_lost_job_nothing_is_told_that_nobody_knows(code: str) -> None:
    lost = record("failed", code, message="the server died while the job was running") | {
        "started_at": None, "certificate": None, "attempts": 1, "tokens": 0,
    }  # fmt: skip
    told = prose(story.tell(lost))
    assert "An earlier run of the server had assigned it to w-7 (pid 431); how far it got is not known." in told
    assert "How its process ended is not known" in told
    assert "next attempt" not in told and "no process" not in told


@pytest.mark.row("D23")
def test_a_job_between_two_attempts_and_one_that_a_worker_only_has_are_told_apart() -> None:
    waiting = RECORD | {
        "state": "queued", "started_at": None, "ended_at": None, "certificate": None, "attempts": 1, "worker_id": None,
        "pid": None, "queue": {"position": None},
    }  # fmt: skip
    assert "It is waiting for its next attempt." in prose(story.tell(waiting))
    nowhere = waiting | {"queue": {"position": None, "detail": "no node has zone=a (there are zone: b)"}}
    told = prose(story.tell(nowhere))
    assert "It is waiting for its next attempt; no node has zone=a (there are zone: b)." in told
    starting = waiting | {"state": "running", "worker_id": "w-7", "pid": 431, "queue": None}
    assert "It was assigned to w-7 (pid 431) and has not entered its function yet." in prose(story.tell(starting))
    stopped = record("cancelled", "cancelled", {"requested": 0.0}, by="user") | {
        "started_at": None, "attempts": 1, "worker_id": None,
    }  # fmt: skip
    told = prose(story.tell(stopped))
    assert "It was waiting for its next attempt, which never began." in told
    assert "had not been assigned to a worker" not in told
    events = [
        {"event": "retrying", "data": {"attempt": 1, "wait_s": 2.0, "error": {"code": "worker_lost", "message": "m"}}},
        {"event": "restored", "data": {"attempt": 1}},
    ]
    before = next(p for p in story.tell(waiting, events).paragraphs if p.title == "Before")
    assert before.lines[0] == "attempt 1: worker_lost: m; next attempt 2.0 s later" and "lost" in before.lines[1]


def test_an_end_that_is_not_in_the_journal_yet_and_a_lost_attempt_are_told() -> None:
    ended = record("completed")
    assert "not in the journal" in str(story.tell(ended | {"durable": False}))
    assert "journal" not in str(story.tell(ended | {"durable": True})) + str(story.tell(ended | {"durable": None}))
    restored = {"event": "restored", "data": {"attempt": 1, "error": {"code": "supervisor_lost"}}}
    assert "attempt 1: supervisor_lost; it is run again, as its type allows" in str(story.tell(ended, [restored]))


def test_what_is_not_proven_is_said() -> None:
    certificate = {"requested": 0.0, "term_sent": 0.1, "kill_sent": 5.0, "unproven": "nobody looked"}
    told = prose(story.tell(record("failed", "unkillable", certificate, message="still there")))
    assert "it is not proven that no process of it is left: nobody looked" in told
    assert "state D" in told


def test_what_was_left_is_told_with_the_proof() -> None:
    left = HEARD | {"processes_swept": 2, "shared_memory_removed": 1}
    told = prose(story.tell(record("cancelled", "cancelled", left)))
    assert "after the kill of 2 processes that it had started, and the removal of 1 piece of shared memory" in told
