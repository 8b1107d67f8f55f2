"""Tables at every width: no row is wrapped, what matters stays, and in a pipe nothing is left out."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from killable.api.cli.commands import ps
from killable.api.cli.commands.types import type_listing
from killable.api.cli.commands.workers import worker_listing
from killable.api.cli.display.console import print_table
from killable.api.cli.display.fitted_table import Column, Listing, fitting


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


CREATED = ago(7384)
JOBS: list[dict[str, Any]] = [
    {
        "job_id": "job-3f2a91c0-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "type": "a-type-with-a-rather-long-name-of-its-own",
        "state": "running", "created_at": CREATED, "tokens": 123456, "progress": {"done": 9, "total": 20, "unit": ""},
        "queue": None, "worker_id": "w-12345", "started_at": ago(7300),
    },
    {
        "job_id": "job-4f2a91c0-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "type": "split", "state": "queued",
        "created_at": CREATED, "tokens": 0, "progress": None, "queue": {"position": 411, "estimated_wait_s": 1.0},
    },
]  # fmt: skip
WORKERS: list[dict[str, Any]] = [
    {
        "worker_id": "w-12345", "pool": "a-pool-with-a-long-name", "state": "busy", "job_id": JOBS[0]["job_id"],
        "type": JOBS[0]["type"], "pid": 4194303, "age_s": 86399.0, "jobs": 1000, "cpu": 0.98,
        "rss_bytes": 1023 << 20, "uss_bytes": 900 << 20,
    },
    {
        "worker_id": "w-2", "pool": "p", "state": "idle", "job_id": None, "type": None, "pid": 10, "age_s": 1.0,
        "jobs": 0, "cpu": None, "rss_bytes": None, "uss_bytes": None,
    },
]  # fmt: skip
TYPES: list[dict[str, Any]] = [
    {
        "name": "split", "pool": "text", "available": True, "unavailable_reason": "",
        "description": "Split a text into tokens, a chunk at a time, and say how many there were in the end.",
        "input_schema": {
            "properties": {"text": {"type": "string"}, "chunk": {"type": "integer", "default": 4000}},
            "required": ["text"],
        },
    },
    {
        "name": "ocr", "pool": "text", "available": False, "unavailable_reason": "pip install tesseract",
        "description": "Read.", "input_schema": {"properties": {}},
    },
]  # fmt: skip
LISTINGS = {
    "jobs": lambda: ps.listing(JOBS, WORKERS, full=False),
    "workers": lambda: worker_listing(WORKERS),
    "types": lambda: type_listing(TYPES),
}


def lines(listing: Listing, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(listing)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("kind", LISTINGS)
@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_every_record_is_one_line_that_fits(kind: str, width: int) -> None:
    shown = lines(LISTINGS[kind](), width)
    assert len(shown) == 2 + 2  # the head, the rule, two records
    assert all(len(line) <= width for line in shown)
    assert [line.split()[0] for line in shown[2:]] == {
        "jobs": ["job-3f2a91c0", "job-4f2a91c0"], "workers": ["w-12345", "w-2"], "types": ["split", "ocr"],
    }[kind]  # fmt: skip


def test_what_matters_stays_when_there_is_little_room() -> None:
    head, _, running, queued = lines(ps.listing(JOBS, WORKERS, full=False), 60)
    assert head.split() == ["JOB", "TYPE", "STATE", "AGE", "TOKENS", "PID"]
    assert "…" in running and "running 45%" in running
    assert queued.split()[:4] == ["job-4f2a91c0", "split", "queued", "#412"]
    head, *_ = lines(ps.listing(JOBS, WORKERS, full=False), 80)
    assert head.split() == ["JOB", "TYPE", "STATE", "AGE", "TOKENS", "PID", "CPU", "RSS"]
    head, *_ = lines(ps.listing(JOBS, WORKERS, full=False), 1000)
    assert head.split() == ["JOB", "TYPE", "STATE", "AGE", "RAN", "TOKENS", "POOL", "WORKER", "PID", "CPU", "RSS"]


def test_ordinary_jobs_have_all_their_columns_at_80() -> None:
    jobs = [
        JOBS[0] | {"type": "generate", "worker_id": "w-12", "progress": None, "tokens": 812, "created_at": ago(7384)}
    ]
    workers = [WORKERS[0] | {"worker_id": "w-12", "pid": 43210, "rss_bytes": 198 << 20}]
    head, _, row = lines(ps.listing(jobs, workers, full=False), 80)
    assert head.split() == ["JOB", "TYPE", "STATE", "AGE", "TOKENS", "WORKER", "PID", "CPU", "RSS"]
    assert row.split() == [
        "job-3f2a91c0", "generate", "running", "2h03m", "812", "w-12", "43210", "98%", "198", "MiB",
    ]  # fmt: skip


@pytest.mark.row("G9")
def test_a_worker_is_shown_with_its_job_and_what_it_uses() -> None:
    head, _, busy, idle = lines(worker_listing(WORKERS), 1000)
    assert head.split() == ["WORKER", "POOL", "STATE", "JOB", "TYPE", "PID", "AGE", "JOBS", "CPU", "RSS", "USS"]
    assert busy.split()[:4] == ["w-12345", "a-pool-with-a-long-name", "busy", "job-3f2a91c0"]
    assert busy.split()[5:] == ["4194303", "23h59m", "1000", "98%", "1023", "MiB", "900", "MiB"]
    assert idle.split() == ["w-2", "p", "idle", "-", "-", "10", "1.0", "s", "0", "-", "-", "-"]


def test_a_type_that_cannot_start_says_what_to_do() -> None:
    _, _, split, ocr = lines(type_listing(TYPES), 1000)
    assert "text: string, chunk: integer = 4000" in split
    assert "unavailable: pip install tesseract" in ocr


@pytest.mark.parametrize(
    ("room", "shown", "widths"),
    [
        (100, [0, 1, 2], [10, 20, 30]),
        (64, [0, 1, 2], [10, 20, 30]),  # exactly: the gaps count
        (60, [0, 1, 2], [10, 20, 26]),  # first what may be cut is cut
        (42, [0, 1, 2], [10, 20, 8]),
        (41, [0, 2], [10, 20, 29]),  # then a column goes, and the other gets its room back
        (19, [0, 2], [10, 20, 8]),
    ],
)
def test_fitting(room: int, shown: list[int], widths: list[int]) -> None:
    columns = [Column("A"), Column("B", 1), Column("C", cut=True)]
    assert fitting(columns, [10, 20, 30], room) == (shown, widths)


def test_a_cell_cannot_move_the_cursor() -> None:
    (*_, row, _) = lines(type_listing([TYPES[0] | {"description": "a\x1b[2Jb\nc"}, TYPES[1]]), 1000)
    assert "\x1b" not in row and row.rstrip().endswith("a�[2Jb c")


def test_in_a_pipe_the_rule_is_as_wide_as_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    for width in (90, 200):
        wide = Listing([Column("A" * width), Column("B")])
        wide.add("a", "b")
        print_table(wide)
        head, rule, _ = capsys.readouterr().out.splitlines()
        assert len(rule) == len(head) and set(rule) == {"─"}
