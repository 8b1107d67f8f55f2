"""`killable ps --watch` of a server that refuses, answers late, or ends jobs at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any

import pytest
from support.scripted_server import Answer, Script, as_json, event, problem
from support.waiting import Pending, until_async

from killable.api.cli.top import feed
from killable.api.cli.top.board import Board
from killable.api.cli.top.ps_watch import JobListWatch
from killable.api.client.async_client import AsyncClient
from killable.workers.errors import Refused

JOBS, STREAM, WORKERS = "/v1/jobs", "/v1/jobs/stream", "/v1/workers/stream"


def job(name: str, state: str = "running") -> dict[str, Any]:
    at = "2026-01-01T00:00:00.000Z"
    return {
        "job_id": name, "type": "tick", "state": state, "created_at": at, "started_at": at, "attempt": 1, "node": None,
        "ended_at": at if state == "completed" else None, "worker_id": None, "progress": None, "error": None,
        "tags": {},
    }  # fmt: skip


def first_of(*jobs: dict[str, Any], total: int) -> bytes:
    return event(0, "jobs", {"jobs": jobs, "total": total, "counts": {}})


def gone(id: int, name: str) -> bytes:
    return event(id, "gone", {"job_id": name})


def now(seq: int) -> bytes:
    return event(seq, "now", {"seq": seq, "workers": [], "server": {"uptime_s": 1.0}})


class Stream:
    """Events that come when the test lets them come, on one connection that stays open."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces: SimpleQueue[bytes] = SimpleQueue()
        self.add(*pieces)

    def add(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._pieces.put(piece)

    def end(self) -> None:
        self._pieces.put(b"")

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces.get, b"")

    @property
    def answer(self) -> Answer:
        return Answer(200, self, "text/event-stream")


class Watched:
    """What is printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], task: asyncio.Task[None]) -> None:
        self.task = task
        self._capsys = capsys
        self._out = self._said = ""

    @property
    def lines(self) -> list[str]:
        self._read()
        return self._out.splitlines()

    @property
    def said(self) -> str:
        """On stderr."""
        self._read()
        return self._said

    def _read(self) -> None:
        out, said = self._capsys.readouterr()
        self._out += out
        self._said += said

    async def until(self, *words: str) -> None:
        """Wait for a line with these words."""
        await until_async(
            lambda: any(all(word in line for word in words) for line in self.lines) or Pending((self.lines, self.said)),
            f"a line with {words}",
        )


@asynccontextmanager
async def watching(
    script: Script, capsys: pytest.CaptureFixture[str], *streams: Stream, as_json: bool = False
) -> AsyncIterator[Watched]:
    """Run `ps --watch` in a pipe. The streams end with it."""
    async with AsyncClient(script.url, retries=0) as client:
        task = asyncio.create_task(JobListWatch(client, {}, {}, at_most=0, full=True).run(as_json))
        try:
            yield Watched(capsys, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for stream in streams:
                stream.end()


@pytest.fixture(autouse=True)
def server(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AGAIN_S", 0.01)
    script.on("GET", "/v1/info", as_json({"instance_id": "i"}))
    script.on("GET", "/readyz", as_json({}))
    script.on("GET", WORKERS, problem(503, "busy"))


async def test_ends_are_told_of_jobs_for_which_the_first_event_had_no_room_also_after_a_page_was_refused(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(first_of(job("job-new"), total=2))
    script.on("GET", STREAM, stream.answer)
    script.on("GET", JOBS, problem(503, "busy"), as_json({"jobs": [job("job-new"), job("job-old")]}))
    script.on("GET", f"{JOBS}/job-old", as_json(job("job-old", "completed")))
    async with watching(script, capsys, stream) as watched:
        await watched.until("job-old", "running")
        stream.add(gone(1, "job-old"))
        await watched.until("job-old", "completed")


async def test_an_interrupt_that_comes_together_with_a_change_ends_the_watch(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(first_of(total=0))
    script.on("GET", STREAM, stream.answer)
    async with AsyncClient(script.url, retries=0) as client:
        for turns in range(5):  # in one of them the change has been seen, and who waits for it has not gone on
            watch = JobListWatch(client, {}, {}, at_most=0, full=True)
            waiting = asyncio.create_task(watch._next())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            watch._feed._changed()
            for _ in range(turns):
                await asyncio.sleep(0)
            was_over = waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled() or was_over, turns
    stream.end()


async def test_a_page_that_is_older_than_an_end_adds_no_job(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    stream, page = Stream(first_of(job("job-new"), total=2)), Stream()
    script.on("GET", STREAM, stream.answer)
    script.on("GET", JOBS, Answer(200, page))
    script.on("GET", f"{JOBS}/job-new", as_json(job("job-new", "completed")))
    async with watching(script, capsys, stream, page) as watched:
        await watched.until("job-new", "running")
        stream.add(gone(1, "job-old"), event(2, "job", job("job-later")))
        await watched.until("job-later")  # so the end was taken
        page.add(json.dumps({"jobs": [job("job-new"), job("job-old")]}).encode())
        page.end()
        stream.add(gone(3, "job-new"))
        await watched.until("job-new", "completed")  # so the page was taken
        assert "job-old" not in "".join(watched.lines)


async def test_a_list_that_is_refused_for_good_ends_the_watch(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(first_of(job("job-new"), total=2))
    script.on("GET", STREAM, stream.answer)
    script.on("GET", JOBS, problem(403, "forbidden", "not with this key"))
    async with watching(script, capsys, stream) as watched:
        with pytest.raises(Refused, match="not with this key"):
            async with asyncio.timeout(30):
                await watched.task


async def test_top_says_that_a_list_is_refused_for_good_and_does_not_ask_again(script: Script) -> None:
    stream = Stream(first_of(job("job-new"), total=2))
    script.on("GET", STREAM, stream.answer)
    script.on("GET", JOBS, problem(403, "forbidden", "not with this key"))
    async with AsyncClient(script.url, retries=0) as client:
        watched = feed.Feed(client, Board(), lambda: None)
        reading = asyncio.create_task(watched.run())
        await until_async(lambda: watched.trouble is not None, "it is refused")
        others = len(script.asked_for("GET", WORKERS))
        await until_async(lambda: len(script.asked_for("GET", WORKERS)) > others + 2, "what passes is tried again")
        assert "forbidden: not with this key" in str(watched.standing)
        assert len(script.asked_for("GET", JOBS)) == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        stream.end()


async def test_a_stream_that_is_refused_for_now_is_said_with_the_way_out(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, workers = Stream(first_of(job("job-new"), total=1)), Stream(now(0))
    refusal = problem(429, "too_many_streams", "tenant a has 1 open streams, its streams_max")
    script.on("GET", WORKERS, workers.answer)
    script.on("GET", STREAM, refusal, stream.answer)
    async with watching(script, capsys, stream, workers) as watched:
        await watched.until("job-new")
        await until_async(lambda: watched.said.endswith("watching again\n") or Pending(watched.said), "it is over")
    said = "too_many_streams: tenant a has 1 open streams, its streams_max (close a stream; the operator sets their"
    assert watched.said.startswith(said) and "does not answer" not in watched.said


async def test_a_job_that_is_over_before_its_worker_was_told_is_a_line_of_json(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, workers = Stream(first_of(total=0)), Stream(now(0))
    script.on("GET", WORKERS, workers.answer)
    script.on("GET", STREAM, stream.answer)
    script.on("GET", f"{JOBS}/job-short", as_json(job("job-short", "completed")))
    async with watching(script, capsys, stream, workers, as_json=True) as watched:
        stream.add(event(1, "job", job("job-short")), event(2, "job", job("job-next", "queued")))
        await watched.until("job-next")  # so the other one was seen, and waits for its worker
        stream.add(gone(3, "job-short"))
        await watched.until("job-short", "completed")
        assert [json.loads(line)["job_id"] for line in watched.lines] == ["job-next", "job-short"]
