"""Emitting from elsewhere than the job's own loop: nothing is lost, nothing is out of order, and it can be stopped."""

from __future__ import annotations

from typing import Any

import pytest
from job_runs import Story, hostile_pool, run, stop, submit, wait_for_tokens
from support.certificate_checks import was_killed
from support.supervisor_fixture import StartSupervisor

POOL = hostile_pool(modules=("support.emitting_jobs",))

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = POOL


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


LONG = {"grace_s": 60}


def of(story: Story, name: Any) -> list[int]:
    """Return the numbers that one emitter sent, in the order in which they came."""
    return [number for who, number in story.tokens if who == name]


async def test_threads_emit_each_in_its_order(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    story = await run(server, "emits_from_threads", threads=4, count=1000)
    assert story.state == "completed" and story.end["result"] == []
    assert all(of(story, name) == list(range(1000)) for name in range(4))
    assert len(story.tokens) == 4000


@pytest.mark.row("D13")
async def test_only_the_main_thread_is_told_to_end(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    job_id = await submit(server, "emits_from_threads", threads=3, count=0, limits={"grace_s": 60, "ack_s": None})
    tokens = 100
    while {name for name, _ in await wait_for_tokens(server, job_id, tokens)} != {
        0,
        1,
        2,
    }:  # each is under way: none is starting
        tokens *= 2
    story = await stop(server, job_id)
    assert "acknowledged" in story.phases and not was_killed(story.certificate)
    assert story.record is not None and story.record.partial == b'["main thread: cancelled"]'
    assert all(of(story, name) == list(range(len(of(story, name)))) for name in range(3))


async def test_a_native_librarys_callback_emits_and_ends_the_library(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    job_id = await submit(server, "emits_in_a_query", limits=LONG)
    await wait_for_tokens(server, job_id, 100)
    story = await stop(server, job_id)
    assert "acknowledged" in story.phases and not was_killed(story.certificate)
    assert story.tokens == ["in", *range(1, len(story.tokens))]


async def test_a_callback_that_swallows_the_stop_gets_it_again_outside(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    job_id = await submit(server, "emits_in_a_comparison", limits=LONG)
    await wait_for_tokens(server, job_id, 100)
    story = await stop(server, job_id)
    assert "acknowledged" in story.phases and not was_killed(story.certificate)
    *numbers, last = story.tokens
    assert last == "finally" and numbers == sorted(set(numbers))  # one may be missing: where it was swallowed


async def test_a_signal_handler_emits_in_the_middle_of_an_emit(supervisor: StartSupervisor) -> None:
    server = await supervisor(POOL)
    story = await run(server, "emits_in_a_handler", count=20_000)
    assert story.state == "completed", story.error
    assert of(story, "main") == list(range(20_000))
    ticks = story.end["result"]
    assert sorted(of(story, "tick")) == list(range(1, ticks + 1)) and ticks > 10


async def test_the_clean_up_of_a_generator_whose_value_cannot_be_sent_hears_a_stop(
    supervisor: StartSupervisor,
) -> None:
    server = await supervisor(POOL)
    job_id = await submit(server, "yields_a_lock", limits=LONG)
    await wait_for_tokens(server, job_id)
    story = await stop(server, job_id)
    assert (story.code, story.tokens) == ("cancelled", ["cleaning"])
    assert "acknowledged" in story.phases and not was_killed(story.certificate)


async def test_a_generator_that_does_not_end_with_its_value_ends_by_that(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(POOL), "yields_a_lock_again")
    assert (story.code, story.error["type"]) == ("result.unserializable", "lock")
    assert story.tokens[:1] == ["deaf"]  # once more when it is freed


async def test_progress_that_is_none_is_the_jobs_own_error(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(POOL), "reports_at_length")
    assert story.end["result"] == "progress is two numbers and a word, not 7030 bytes"


async def test_a_generator_that_is_returned_streams(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(POOL), "hands_over_a_generator", upto=5)
    assert (story.tokens, story.end["result"]) == ([0, 1, 2, 3, 4], "counted")
