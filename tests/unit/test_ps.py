"""The overview: what is at work first, the queue in its order, counts of all; and the counts of `metrics` in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from killable.api.cli.commands.drain import node_line, state_line
from killable.api.cli.commands.metrics import flattened
from killable.api.cli.commands.nodes import detail_of, labels_of
from killable.api.cli.commands.workers import worker_listing
from killable.api.cli.display.job_listing import in_order, listing, summary
from killable.api.cli.display.status_line import StatusLine, progress_line


def job(name: str, state: str, position: int | None = None) -> dict[str, Any]:
    return {"job_id": name, "state": state, "queue": None if position is None else {"position": position}}


@pytest.mark.row("G6")
def test_what_needs_attention_comes_first() -> None:
    newest_first = [
        job("d", "completed"), job("q2", "queued", 1), job("q1", "queued", 0), job("r2", "running"),
        job("s", "stopping"), job("r1", "running"), job("e", "failed"),
    ]  # fmt: skip
    assert [each["job_id"] for each in in_order(newest_first)] == ["s", "r2", "r1", "q1", "q2", "d", "e"]
    assert summary(newest_first) == "7 jobs: 1 stopping, 2 running, 2 queued, 1 completed, 1 failed"
    assert summary([job("a", "timed_out")]) == "1 job: 1 timed out"


@pytest.mark.parametrize(
    ("state", "running", "deadline_s", "words"),
    [
        ("live", 2, None, "gpu-1 is live: it gets jobs; 2 running"),
        ("draining", 2, None, "gpu-1 is draining: it gets no jobs; 2 running left"),
        ("draining", 2, 30.0, "gpu-1 is draining: it gets no jobs; 2 running left, at most 30 s more"),
        ("draining", 0, 30.0, "gpu-1 is draining: it gets no jobs; no jobs left"),
    ],
)
def test_a_node_is_drained_in_words(state: str, running: int, deadline_s: float | None, words: str) -> None:
    assert node_line({"name": "gpu-1", "state": state, "running": running, "deadline_s": deadline_s}) == words


def test_a_node_is_listed_with_its_own_labels_and_what_is_left_of_its_drain() -> None:
    labels = {"node": "gpu-1-5be2a0", "host": "gpu-1", "ray.io/node-id": "5be2a0", "zone": "a", "disk": "ssd"}
    assert labels_of(labels) == "disk=ssd zone=a"
    node = {"detail": "an operator has drained it", "deadline_s": 30.0, "running": 2}
    assert detail_of(node) == "an operator has drained it; what runs is stopped in 30 s"
    assert detail_of(node | {"running": 0}) == detail_of(node | {"deadline_s": None}) == "an operator has drained it"


def test_the_end_of_a_drain_is_told_of_a_node_that_is_not_there() -> None:
    record = {"name": "gpu-1", "state": "lost", "running": 0, "deadline_s": None}
    assert node_line(record, off=True) == "gpu-1 is lost: it gets jobs again when it is back"


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (
            {"draining": True, "deadline_s": 30.0, "running": 2, "queued": 3},
            "draining: new jobs are refused; 2 running and 3 queued left, at most 30 s more",
        ),
        (
            {"draining": True, "deadline_s": None, "running": 0, "queued": 0},
            "draining: new jobs are refused; no jobs left",
        ),
        (
            {"draining": False, "deadline_s": None, "running": 0, "queued": 0},
            "not draining: new jobs are accepted; no jobs",
        ),
    ],
)
def test_how_a_drain_stands(standing: dict[str, Any], words: str) -> None:
    assert state_line(standing) == words


def test_counts_in_words() -> None:
    counts = {
        "jobs_completed": 12345, "cancel_ms": {"p50": 1.26, "p99": 512.0}, "failed_by_code": {"crash": 1},
        "rss_bytes": 1 << 20, "uptime_s": 65.0, "queue_wait_s": None,
        "run_s": {"fails": {"p50": 0.0143}}, "refused": {},
    }  # fmt: skip
    assert dict(flattened(counts)) == {
        "jobs_completed": "12 345", "cancel_ms": "p50 1.3 ms  p99 0.5 s", "failed_by_code": "crash 1",
        "rss_bytes": "1.0 MiB", "uptime_s": "1m05s", "queue_wait_s": "-",
        "run_s.fails": "p50 14 ms", "refused": "-",
    }  # fmt: skip


# ── the line that comes and goes ──


def terminal(width: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_line_makes_room_for_text_and_comes_back() -> None:
    console = terminal()
    line = StatusLine(console)
    line.show(Text("one"))
    line.pause()
    line.show(Text("two"))  # while there is no room
    console.file.write("text\n")
    line.resume()
    line.clear()
    assert written(console) == "one\r\x1b[2Ktext\ntwo\r\x1b[2K"


def test_the_line_never_wraps() -> None:
    console = terminal(width=20)
    StatusLine(console).show(progress_line({"done": 1, "total": 3, "unit": "very long units of work"}))
    assert "\n" not in written(console) and len(written(console)) < 20


def test_there_is_no_line_where_stderr_is_no_terminal() -> None:
    console = Console(file=io.StringIO())
    line = StatusLine(console)
    line.show(Text("one"))
    line.clear()
    assert not line.is_live and written(console) == ""


def test_progress_without_a_total_is_words_alone() -> None:
    line = progress_line({"done": 7, "total": None, "unit": "chunks"})
    assert isinstance(line, Text) and line.plain == "7 chunks"


def test_in_a_cluster_each_job_and_worker_has_its_node() -> None:
    record = job("j", "running") | {
        "type": "work", "tokens": 0, "created_at": "2026-01-01T00:00:00.000Z", "node": "gpu-1", "progress": None,
        "started_at": None, "ended_at": None,
    }  # fmt: skip
    record["worker_id"] = "gpu-1.w-3"
    worker = {"worker_id": "gpu-1.w-3", "job_id": "j", "node": "gpu-1", "pool": "p", "state": "busy", "pid": 7}
    console = Console(file=io.StringIO(), width=200)
    console.print(listing([record], [worker], full=True))
    console.print(worker_listing([worker]))
    on_one_machine = record | {"node": None, "worker_id": "w-3"}
    console.print(listing([on_one_machine], [worker | {"node": None, "worker_id": "w-3"}], full=True))
    assert isinstance(console.file, io.StringIO)
    jobs, workers, alone = (
        each.split() for each in console.file.getvalue().splitlines() if each.split()[0] in ("j", "gpu-1")
    )
    assert jobs[6:10] == ["p", "gpu-1", "w-3", "7"] and workers[:2] == ["gpu-1", "gpu-1.w-3"]
    assert alone[6:9] == ["p", "w-3", "7"]
