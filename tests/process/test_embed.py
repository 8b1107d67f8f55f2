"""Embedding on the real model, in a real pool: forked from a warm zygote, streamed by batches, stopped anywhere."""

from __future__ import annotations

import pytest
from job_runs import run, stop, submit, wait_for_tokens
from support.certificate_checks import was_killed
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.settings import PoolSpec

POOL = PoolSpec("embeddings", ("killable.workers.builtin.embed",), workers=1, spares=0)
pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = POOL


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


LONG = "A long sentence about nothing in particular, over and over again. " * 40
"""More than the 256 tokens that count."""


async def test_vectors_come_batch_by_batch_from_a_forked_worker(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    (pool,) = await server.pools()
    assert (pool.start_method, pool.detail) == ("fork", "")  # the zygote has one thread: it could load and fork
    story = await run(server, "embed", texts=["one", "two", "three"], batch=2)
    assert story.state == "completed", story.error
    assert [len(token) for token in story.tokens] == [2, 1]
    assert story.end["result"]["texts"] == 3
    assert [data["done"] for data in story.data("progress")] == [2, 3]


async def test_between_short_batches_the_stop_is_heard(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    job_id = await submit(server, "embed", texts=["short"] * 10_000, batch=1, limits={"grace_s": 60})
    await wait_for_tokens(server, job_id, 3)
    story = await stop(server, job_id)
    assert "acknowledged" in story.phases and not was_killed(story.certificate)
    assert 3 <= len(story.tokens) < 10_000


async def test_inside_of_a_native_call_it_is_killed_before_its_grace_is_over(supervisor: StartSupervisor) -> None:
    """32 long texts are one call of seconds, which takes memory that the worker has not had before."""
    server = await supervisor(POOL)
    job_id = await submit(server, "embed", texts=[LONG] * 320, batch=32, limits={"grace_s": 60, "ack_s": 0.05})

    async def computes() -> bool | Pending:
        workers = await server.workers()
        return [(worker.uss_bytes or 0) > 100 << 20 for worker in workers] == [True] or Pending(workers)

    await until_async(computes, "the engine has taken memory for a large batch")
    story = await stop(server, job_id)
    assert story.certificate["early_kill"] and story.certificate["exit_signal"] == "SIGKILL"
    assert (await run(server, "embed", texts=["the next"])).state == "completed"
