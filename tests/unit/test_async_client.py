"""What only the asynchronous client has: tasks that are cancelled, and many of them on one client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
import pytest_asyncio
from support.scripted_server import ID, PATH, Answer, Script, as_json, event, events, terminal
from support.waiting import Pending, until_async

from killable import AsyncClient, Refused
from killable.api.client.async_client import AsyncJobHandle

DEAD = as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.0}})
ACCEPTED = as_json({"job_id": ID}, 202)


@pytest_asyncio.fixture
async def client(script: Script) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(script.url) as client:
        yield client


def never() -> Answer:
    """An answer that does not come while the test runs."""
    return Answer(gate=threading.Event())


async def asked(script: Script, method: str, path: str, times: int = 1) -> None:
    await until_async(
        lambda: len(script.asked_for(method, path)) >= times or Pending([(a.method, a.path) for a in script.asked]),
        f"{method} {path} is asked {times} times",
    )


# ── submitting ──


async def entered(client: AsyncClient) -> AsyncJobHandle:
    async with client.submit("split") as job:
        return job


async def awaited_and_entered(client: AsyncClient) -> AsyncJobHandle:
    async with await client.submit("split") as job:
        return job


@pytest.mark.row("E2")
@pytest.mark.parametrize("use", [entered, awaited_and_entered])
async def test_leaving_the_block_cancels_either_way(
    script: Script, client: AsyncClient, use: Callable[[AsyncClient], Awaitable[AsyncJobHandle]]
) -> None:
    script.on("POST", "/v1/jobs", ACCEPTED)
    script.on("DELETE", PATH, DEAD)
    assert (await use(client)).id == ID
    assert [request.method for request in script.asked] == ["POST", "DELETE"]


@pytest.mark.row("E1")
async def test_an_awaited_submission_runs_on(script: Script, client: AsyncClient) -> None:
    script.on("POST", "/v1/jobs", ACCEPTED)
    job = await client.submit("split")
    assert (job.id, repr(job), job.accepted) == (ID, f"<AsyncJob {ID}>", {"job_id": ID})
    assert len(script.asked) == 1


async def test_a_refused_submission_has_no_block(script: Script, client: AsyncClient) -> None:
    with pytest.raises(Refused):
        async with client.submit("split"):
            raise AssertionError("entered")


# ── leaving ──


@pytest.mark.row("E5")
async def test_a_cancelled_task_waits_until_its_job_is_dead(script: Script, client: AsyncClient) -> None:
    gate = threading.Event()
    script.on("POST", "/v1/jobs", ACCEPTED)
    script.on("GET", f"{PATH}/result", never())
    script.on("DELETE", PATH, Answer(200, DEAD.body, gate=gate))

    async def use() -> None:
        async with client.submit("spin") as job:
            await job.result()

    task = asyncio.create_task(use())
    await asked(script, "GET", f"{PATH}/result")
    task.cancel()
    await asked(script, "DELETE", PATH)
    for _ in range(3):  # an impatient caller does not cut it short
        task.cancel()
        await asyncio.wait([task], timeout=0)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_scope_of_anyio_waits_as_well(
    script: Script, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: such a scope cancels its task in every turn of the loop until it leaves."""
    waits = 0
    wait = asyncio.wait

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*args, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    script.on("DELETE", PATH, DEAD)
    with anyio.CancelScope() as scope:
        async with client.job(ID):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (len(script.asked_for("DELETE", PATH)), waits) == (1, 1)


async def test_a_reader_that_is_cancelled_cancels_the_job(script: Script, client: AsyncClient) -> None:
    waiting = Answer(200, [event(0, "token", {"text": "a"})], "text/event-stream", cut=True)
    script.on("GET", f"{PATH}/stream", waiting, never())
    script.on("DELETE", PATH, DEAD)
    seen = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout, client.job(ID) as job:
            async for token in job:
                seen.append(token)
                timeout.reschedule(asyncio.get_running_loop().time())
    assert seen == ["a"]
    assert len(script.asked_for("DELETE", PATH)) == 1


@pytest.mark.row("C7")
@pytest.mark.parametrize("how", ["timeout", "wait_for"])
async def test_a_timeout_around_run_cancels_the_remote_job(script: Script, client: AsyncClient, how: str) -> None:
    script.on("POST", "/v1/jobs", ACCEPTED)
    script.on("GET", f"{PATH}/result", never())
    script.on("DELETE", PATH, DEAD)
    with pytest.raises(TimeoutError):
        if how == "wait_for":
            await asyncio.wait_for(client.run("spin"), 1)
        else:
            async with asyncio.timeout(1):
                await client.run("spin")
    keys = {asked.headers["idempotency-key"] for asked in script.asked_for("POST", "/v1/jobs")}
    assert len(keys) == 1, "one job, however late it was answered"
    assert len(script.asked_for("DELETE", PATH)) == 1


@pytest.mark.row("C7")
@pytest.mark.parametrize("own_key", [False, True])
@pytest.mark.parametrize("ask", ["run", "submit"])
async def test_a_submission_that_is_cut_off_leaves_no_orphan(
    script: Script, client: AsyncClient, ask: str, own_key: bool
) -> None:
    """Sent again with the same key it says which job it started; one with a key of the caller's is the caller's."""
    options = {"idempotency_key": "mine"} if own_key else {}
    script.on("POST", "/v1/jobs", never(), ACCEPTED)
    script.on("DELETE", PATH, DEAD)

    async def use() -> None:
        await (client.run("spin", **options) if ask == "run" else client.submit("spin", **options))  # type: ignore[arg-type]

    task = asyncio.create_task(use())
    await asked(script, "POST", "/v1/jobs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if own_key and ask == "submit":
        assert [request.method for request in script.asked] == ["POST"]
        return
    assert [request.method for request in script.asked] == ["POST", "POST", "DELETE"]
    assert len({request.headers["idempotency-key"] for request in script.asked_for("POST", "/v1/jobs")}) == 1


async def test_an_interrupt_is_not_hidden_by_a_server_that_is_gone(script: Script, client: AsyncClient) -> None:
    script.on("DELETE", PATH, Answer(500, b"", "text/plain"))
    entered = asyncio.Event()

    async def use() -> None:
        async with client.job(ID):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── many at once ──


async def test_open_streams_do_not_keep_a_cancel_waiting(script: Script, client: AsyncClient) -> None:
    """More streams than httpx's default pool has connections."""
    gate = threading.Event()
    script.on("GET", f"{PATH}/stream", Answer(200, terminal(0, "completed"), "text/event-stream", gate=gate))
    script.on("DELETE", PATH, DEAD)

    async def read() -> list[object]:
        return [token async for token in client.job(ID)]

    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read()) for _ in range(110)]
        await asked(script, "GET", f"{PATH}/stream", len(readers))
        assert (await client.job(ID).cancel()).state == "cancelled"
        gate.set()
    assert [reader.result() for reader in readers] == [[]] * len(readers)


async def test_a_reader_that_breaks_off_leaves_nothing_behind(script: Script, client: AsyncClient) -> None:
    more = (event(number, "token", {"text": "a"}) for number in range(1, 50))
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), *more, terminal(50, "completed")))
    async for token in client.job(ID):
        assert token == "a"
        break
