"""What `killable top` knows of a server, and which jobs it lists, in which order."""

from __future__ import annotations

from typing import Any

import pytest
from rich.text import Text

from killable.api.cli.display.fitted_table import fitting
from killable.api.cli.display.job_listing import holders_of
from killable.api.cli.display.state_colours import COLOURS, colour_of
from killable.api.cli.top import board as boards
from killable.api.cli.top import overview, views
from killable.api.cli.top.board import ORDERS, SHOWS, Board, matches, parsed
from killable.api.cli.top.job_page import timeline
from killable.supervisor.records import NODE_STATES


def job(name: str, state: str = "running", second: int = 0, **members: Any) -> dict[str, Any]:
    at = f"2026-01-01T00:00:{second:02}.000Z"
    return {
        "job_id": name, "type": "tick", "state": state, "created_at": at, "started_at": at,
        "ended_at": None if state in boards.ACTIVE else at, "tags": {}, "attempt": 1, "worker_id": None, "pid": None,
        "tokens": 0, "progress": None, "queue": None, "error": None, "durable": None, "node": None, "tenant": "default",
    } | members  # fmt: skip


def worker(name: str, job_id: str | None = None, **members: Any) -> dict[str, Any]:
    state = "idle" if job_id is None else "busy"
    return {"worker_id": name, "pool": "p", "state": state, "job_id": job_id, "type": None, "pid": 1} | members


def board_of(*jobs: dict[str, Any], workers: Any = (), **now: Any) -> Board:
    board = Board()
    board.take("jobs", {"jobs": list(jobs), "total": len(jobs), "counts": {}})
    board.take("now", {"workers": list(workers), **now})
    return board


def names(found: list[Any]) -> list[str]:
    return [str(each["job_id"]) for each in found]


def test_events_change_what_is_known() -> None:
    board = board_of(job("a"), job("b", second=1))
    board.take("job", job("a", "completed"))
    board.take("job", job("c", second=2))
    board.take("gone", {"job_id": "b"})
    board.take("of a newer server", {"anything": 1})
    assert names(board.listed("all", "", "state", backwards=False)) == ["c", "a"]
    assert names(board.listed("active", "", "state", backwards=False)) == ["c"]
    assert names(board.listed("ended", "", "state", backwards=False)) == ["a"]
    board.take("jobs", {"jobs": [job("d")], "total": 1, "counts": {"running": 1}})
    assert list(board.jobs) == ["d"] and board.counts == {"running": 1}


def test_jobs_that_go_are_remembered_only_while_pages_come_that_may_be_older() -> None:
    board = Board()
    board.take("jobs", {"jobs": [job("a")], "total": 2, "counts": {}})
    board.take("gone", {"job_id": "b"})
    board.add(job("b"))
    assert list(board.jobs) == ["a"]
    board.read_to_end(whole=False)  # the rest is refused
    board.take("gone", {"job_id": "c"})
    assert not board._gone and not board.has_all_jobs


def test_what_is_remembered_is_bounded_and_active_jobs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "JOBS_MAX", 50)
    board = board_of(job("active"))
    for number in range(200):
        board.take("job", job(f"j{number}", "completed", number % 60))
    assert len(board.jobs) <= 51 and "active" in board.jobs


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", ["a", "b", "c"]),
        ("TICK", ["a", "b", "c"]),
        ("search", ["a"]),
        ("tag:team=search", ["a"]),
        ("state:failed", ["b"]),
        ("code:crash", ["b"]),
        ("state:failed code:timeout", []),
        ("tenant:ada", ["c"]),
        ("worker:w-3", ["c"]),
        ("id:b", ["b"]),
        ("unknown:b", []),
    ],
)
def test_a_filter_is_words_that_all_fit(words: str, found: list[str]) -> None:
    jobs = [
        job("a", tags={"team": "search"}), job("b", "failed", error={"code": "crash"}),
        job("c", tenant="ada", worker_id="w-3"),
    ]  # fmt: skip
    assert [each["job_id"] for each in jobs if matches(each, parsed(words))] == found


def test_jobs_are_sorted_by_what_they_use_and_what_is_not_known_is_last() -> None:
    workers = [
        worker("w-1", "a", cpu_percent=5.0, memory_bytes=10), worker("w-2", "b", cpu_percent=95.0, memory_bytes=1),
        worker("w-3", "c", cpu_percent=None, memory_bytes=None),
    ]  # fmt: skip
    board = board_of(job("a", tokens=3), job("b", second=1, tokens=9), job("c", second=2), workers=workers)
    assert names(board.listed("all", "", "cpu", backwards=False)) == ["b", "a", "c"]
    assert names(board.listed("all", "", "memory", backwards=False)) == ["a", "b", "c"]
    assert names(board.listed("all", "", "tokens", backwards=False)) == ["b", "a", "c"]
    assert names(board.listed("all", "", "age", backwards=False)) == ["a", "b", "c"]
    assert names(board.listed("all", "", "age", backwards=True)) == ["c", "b", "a"]
    for order in ORDERS:
        for shows in SHOWS:
            board.listed(shows, "", order, backwards=False)


def test_a_row_says_what_its_own_record_says() -> None:
    """The jobs and the workers are answers to two requests: a job that was queued in the first one has no worker."""
    queued, running = job("q", "queued"), job("r", worker_id="w-2")
    moved = job("m", worker_id="w-3")
    workers = [worker("w-1", "q"), worker("w-2", "r"), worker("w-3", "other")]
    assert {name: each["worker_id"] for name, each in holders_of([queued, running, moved], workers).items()} == {
        "r": "w-2"
    }


def test_every_state_has_its_colour() -> None:
    """And all of them are said in words, too: `views` and `job_state` print the word."""
    public = {"queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"}
    assert public | set(NODE_STATES) | {"spawning", "idle", "busy", "leaving", "quarantined"} <= COLOURS.keys()
    assert colour_of("a state of a newer server") == ""


def test_ends_are_counted_by_code_with_the_colour_of_their_state() -> None:
    board = board_of(jobs={"ended": {"completed": 3, "crash": 5, "timeout.run": 1, "never": 0}})
    assert [(row["code"], row["jobs"], row["of"]) for row in views.code_rows(board)] == [
        ("crash", 5, 9), ("completed", 3, 9), ("timeout.run", 1, 9),
    ]  # fmt: skip
    assert views.state_of("timeout.run") == "timed_out" and views.state_of("crash") == "failed"
    assert views.state_of("cancelled") == "cancelled" and views.state_of("of a newer server") == "failed"


@pytest.mark.parametrize("columns", [views.JOBS, views.WORKERS, views.POOLS, views.CODES, views.NODES])
def test_the_tables_fit_80_columns(columns: Any) -> None:
    widths = [max(len(column.title), 9) for column in columns]
    shown, cut = fitting(columns, widths, 80)
    assert sum(cut[index] for index in shown) + 2 * (len(shown) - 1) <= 80
    assert 0 in shown and len(shown) >= 4


def test_the_overview_of_a_server_of_any_version_is_there() -> None:
    assert [str(line) for line in overview.lines(Board(), "http://x", Text("connecting"))][1:] == [
        "server   -", "workers  0   cpu 0%   memory 0 B   queue -", "ended    none yet",
    ]  # fmt: skip
    now = {
        "workers": [worker("w-1", "a", cpu_percent=50.0, memory_bytes=1 << 20)],
        "server": {"uptime_s": 65, "cpu_percent": 3.2, "memory_bytes": 1 << 26, "version": "9", "draining": True},
        "queue": {"depth": 4, "oldest_s": 2.0}, "jobs": {"ended": {"crash": 2}, "ended_last_minute": 1},
    }  # fmt: skip
    board = Board()
    board.take("now", now)
    board.info = {"caller": {"name": "ada", "role": "read"}}
    assert [str(line) for line in overview.lines(board, "http://x", Text("live"))] == [
        "killable 9   http://x   live   draining: it takes no new jobs   ada (read)",
        "server   up 1m05s   cpu 3%   memory 64 MiB",
        "workers  1  1 busy   cpu 50%   memory 1.0 MiB   queue 4, oldest 2.0 s",
        "ended    1 in the last minute   2 crash",
    ]
    board.degraded = ("journal: database or disk is full", "draining")
    assert str(overview.lines(board, "http://x", Text("live"))[1]).startswith(
        "server   degraded: journal: database or disk is full; draining   up 1m05s"
    )


def test_the_phases_of_an_end_are_where_they_are_in_time() -> None:
    lines = [str(line) for line in timeline({"term_sent": 0.1, "kill_sent": 500.0, "tree_empty": 501.0})]
    assert [line.split()[0] for line in lines] == ["term_sent", "kill_sent", "tree_empty"]
    assert lines[1].count("━") > 20 and lines[2].count("━") == 1
    assert timeline({"requested": 1}) == []
