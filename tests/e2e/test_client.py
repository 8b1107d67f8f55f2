"""Both clients against a real `killable serve`: whole stories, and a network that loses what it should carry."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.blocking_client import BlockingClient, OneClient
from support.killable_command import Command, Server
from support.waiting import until

from killable import AsyncClient, Client, JobCancelled, JobFailed, JobTimedOut, KillableError, Refused
from killable.api.client.errors import NotEnded

FILE = Path(__file__).parent.parent / "support" / "simple_jobs.py"  # not imported: own_jobs has jobs of the same names
JOBS = FILE.read_text()


@pytest.fixture(params=[Client, BlockingClient], ids=["Client", "AsyncClient"])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[OneClient]:
    with request.param(url) as one:
        yield one
        assert list(one.jobs(state="active")) == [], "nothing of a test runs on"


@pytest.fixture
def plain(url: str) -> Iterator[Client]:
    """Where the two clients say the same: the unit tests show that they do."""
    with Client(url) as one:
        yield one
        assert list(one.jobs(state="active")) == [], "nothing of a test runs on"


# ── whole stories ──


@pytest.mark.row("E2")
def test_a_job_is_followed_to_its_result(client: OneClient) -> None:
    job = client.submit("count", {"n": 3}, tags={"team": "search"}, correlation_id="trace-1", limits={"run_s": 60})
    assert list(job) == [" 0", " 1", " 2"]
    assert job.result(wait_s=30) == {"tokens": 3}
    record = job.record()
    assert (record["state"], record["tags"], record["limits"]["run_s"]) == ("completed", {"team": "search"}, 60)
    assert (job.correlation_id, record["correlation_id"]) == ("trace-1", "trace-1")
    assert job.output() == b" 0 1 2"
    assert job.cancel().had_ended
    assert [event.name for event in job.events(after=2)] == ["token", "completed"]
    assert list(job.events(after=4)) == []
    assert job.id in [record["job_id"] for record in client.jobs(type="count", tag="team:search")]


def test_every_kind_of_value_comes_as_it_was(client: OneClient) -> None:
    texts = ["[DONE]", "data: [CANCELLED]\n\n", "\r\n", "\u2028\u0085", "\ud800", "", "🦀"]
    assert list(client.submit("say", {"values": texts})) == texts
    assert list(client.submit("reports")) == [{"half": 0.5}]
    assert client.run("raw", {"size": 300}) == bytes(index % 256 for index in range(300))
    assert client.run("echo", {"text": "\ud800"})["text"] == "\ud800"


@pytest.mark.row("E3")
def test_a_job_that_fails_raises_how(plain: Client) -> None:
    job = plain.submit("fails", {"message": "no luck"})
    for attempt in (lambda: list(job), job.result, lambda: plain.run("fails")):
        with pytest.raises(JobFailed, match="no luck") as caught:
            attempt()
        assert (caught.value.code, caught.value.type) == ("exception", "ValueError")
    with pytest.raises(JobTimedOut) as late:
        plain.run("spin", limits={"run_s": 0.05, "grace_s": 0})
    assert late.value.code == "timeout.run"


@pytest.mark.row("E9")
def test_a_refusal_has_its_code_and_its_faults(plain: Client) -> None:
    def refused(*args: Any, **options: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            plain.submit(*args, **options)
        return caught.value

    assert refused("no-such").code == "unknown_job_type"
    assert refused("count", {"n": 1}, limits={"run_s": 10**6}).code == "limit_over_cap"
    assert [(refusal.code, refusal.faults[0]["pointer"]) for refusal in [refused("count", {"n": "x"})]] == [
        ("invalid", "/input/n")
    ]
    assert refused("count", {"n": 1}, correlation_id="no blanks").code == "invalid"
    both = refused("count", {"m": 1})
    assert str(both) == "2 faults: body /input/n: is required; body /input/m: is unknown", both
    with pytest.raises(TypeError, match=r"no option 'tag' \(did you mean tags\?\); the job's input is one mapping"):
        plain.submit("count", {"n": 1}, tag="x")  # type: ignore[call-arg]


@pytest.mark.row("D12")
@pytest.mark.row("E4")
@pytest.mark.row("C7")
def test_leaving_and_timing_out_leave_nothing_alive(client: OneClient) -> None:
    with client.submit("spin") as job:
        pid = next(event.data["pid"] for event in job.events() if event.name == "started")
        with pytest.raises(NotEnded):
            job.result(wait_s=0)
    assert not psutil.pid_exists(pid)
    record = job.record()
    assert (record["state"], record["certificate"]["reason"]) == ("cancelled", "the client left")
    with pytest.raises(JobCancelled):
        list(job)
    until(lambda: any(worker["state"] == "idle" for worker in client.workers()), "a worker is warm again")
    with pytest.raises(JobTimedOut, match="was cancelled and is dead") as caught:
        client.run("sleep_native", timeout_s=2, limits={"grace_s": 0.1})
    assert caught.value.certificate["tree_empty"] is not None
    assert client.job(caught.value.job_id).record()["state"] == "cancelled"


def test_an_idempotency_key_is_one_job(plain: Client) -> None:
    key = os.urandom(8).hex()
    first = plain.submit("count", {"n": 1}, idempotency_key=key)
    again = plain.submit("count", {"n": 1}, idempotency_key=key)
    assert (again.id, again.is_replay, first.is_replay) == (first.id, True, False)
    with pytest.raises(Refused) as caught:
        plain.submit("count", {"n": 2}, idempotency_key=key)
    assert caught.value.code == "idempotency_conflict"
    first.result()


def test_an_operators_calls(plain: Client) -> None:
    assert {"version", "instance_id", "pid"} <= set(plain.info())
    assert plain.ready()["status"] in ("ok", "degraded")
    assert "count" in [each["name"] for each in plain.types()]
    assert plain.metrics()["running"] == 0
    assert "killable_" in plain.exposition()
    assert plain.drained()["draining"] is False
    assert plain.drain()["draining"] is True
    with pytest.raises(Refused) as caught:
        plain.submit("count", {"n": 1})
    assert (caught.value.code, caught.value.retryable) == ("draining", True)
    assert plain.undrain()["draining"] is False
    spinning = [plain.submit("spin", tags={"group": "g"}) for _ in range(2)]
    assert plain.cancel_matching(tag="group:g", dry_run=True)["matched"] == 2
    cancelled = plain.cancel_matching(tag="group:g", reason="enough", grace_s=0)
    assert (cancelled["matched"], cancelled["stopping"]) == (2, 0)
    assert {job.record()["state"] for job in spinning} == {"cancelled"}
    with pytest.raises(Refused):
        plain.cancel_matching()


def test_a_worker_is_killed_with_its_job(plain: Client) -> None:
    job = plain.submit("spin", limits={"grace_s": 0})
    worker_id = next(event.data["worker_id"] for event in job.events() if event.name == "started")
    assert plain.worker(worker_id)["job_id"] == job.id
    plain.kill_worker(worker_id, "old")
    with pytest.raises(JobCancelled) as caught:
        job.result(wait_s=30)
    assert caught.value.by == "operator"
    with pytest.raises(Refused) as unknown:
        plain.worker(worker_id)
    assert unknown.value.code == "unknown_worker"


def test_a_server_is_shut_down(tmp_path: Path) -> None:
    server = Server(Command(tmp_path), str(FILE), "--port", "0")
    with Client(server.url) as client:
        events = client.submit("spin", limits={"grace_s": 0}).events()
        next(events)  # it is being read before it ends: behind the last job the server goes at once
        assert client.shutdown(reason="enough")["shutting_down"] is True
        assert list(events)[-1].data["error"]["by"] == "shutdown"
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0


# ── tasks ──


@pytest.mark.row("C7")
async def test_cancelled_tasks_leave_no_job(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.run("spin")
        async with asyncio.timeout(200):
            results = await asyncio.gather(*(client.run("count", {"n": 5}) for _ in range(50)))
        assert results == [{"tokens": 5}] * 50
        for delay in range(8):  # some before the submission is sent, some in the middle of it
            task = asyncio.create_task(client.run("spin", limits={"grace_s": 0}))
            await asyncio.wait([task], timeout=delay / 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [record async for record in client.jobs(state="active")] == []


# ── a network that loses things ──


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off after so many bytes, in the middle of whatever it is."""

    def __init__(self, stream: Any, bytes_max: int) -> None:
        self.stream = stream
        self.left = bytes_max

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.stream:
            yield self.let_through(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self.stream:
            yield self.let_through(piece)

    def let_through(self, piece: bytes) -> bytes:
        if self.left <= 0:
            raise httpx.ReadError("cut")
        piece = piece[: self.left]
        self.left -= len(piece)
        return piece

    def close(self) -> None:
        self.stream.close()

    async def aclose(self) -> None:
        await self.stream.aclose()


class Lossy(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Carries every request, loses the first answer to a submission, and cuts each stream short."""

    def __init__(self, bytes_max: int) -> None:
        self.inner: Any = None
        self.bytes_max = bytes_max
        self.lost = 0
        self.cuts = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.inner = self.inner or httpx.HTTPTransport()
        return self.spoilt(request, self.inner.handle_request(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.inner = self.inner or httpx.AsyncHTTPTransport()
        response = await self.inner.handle_async_request(request)
        if request.method == "POST" and not self.lost:
            await response.aclose()
        return self.spoilt(request, response)

    def spoilt(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and not self.lost:
            self.lost += 1
            raise httpx.ReadError("lost", request=request)
        if request.url.path.endswith("/stream"):
            self.cuts += 1
            response.stream = Cut(response.stream, self.bytes_max)
        return response

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.row("E13")
@pytest.mark.row("E6")
@pytest.mark.parametrize("kind", [Client, BlockingClient])
def test_neither_job_nor_token_is_lost_or_doubled(url: str, kind: type[OneClient]) -> None:
    lossy = Lossy(bytes_max=1500)
    http: Any = (httpx.Client if kind is Client else httpx.AsyncClient)(transport=lossy)
    with kind(url, http=http) as client:
        job = client.submit("count", {"n": 60})
        assert job.is_replay
        assert list(job) == [f" {number}" for number in range(60)]
        assert lossy.cuts > 2
        if kind is Client:
            http.close()
        else:
            client.runner.run(http.aclose())


@pytest.mark.row("C7")
def test_a_submission_whose_answer_was_lost_leaves_no_orphan(url: str) -> None:
    """Whatever the job's fate is, the error names it: here the timeout comes while the answer is lost."""
    lossy = Lossy(bytes_max=1 << 30)
    with httpx.Client(transport=lossy) as http, Client(url, http=http, retries=0) as client:
        with pytest.raises(KillableError):
            client.run("spin", limits={"grace_s": 0})
        assert list(client.jobs(state="active")) == []
    assert lossy.lost == 1
