"""The parts of a job that have a time of their own, and the sections in which nothing may be raised."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, hostile_pool, run, stop, submit, wait_for_tokens
from support.certificate_checks import ended_with, was_killed
from support.hostile_job_table import DELIVERY_GRACE_S
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.settings import PoolSpec


def pool(**changes: Any) -> PoolSpec:
    return hostile_pool(**{"modules": (*HOSTILE_POOL["modules"], "support.operation_jobs"), **changes})


pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


LONG = {"run_s": 60, "grace_s": 20, "ack_s": 0.5}
PATIENT = {**LONG, "ack_s": None}
"""For jobs that catch what is raised in them: on a busy machine that may take longer."""


@pytest.mark.row("C6")
@pytest.mark.parametrize(
    ("input", "limits", "path", "limit_s", "inside"),
    [
        ({"inner_s": 0.05}, {}, "load/download", 0.05, None),
        ({"inner_s": 0.05, "outer_s": 60}, {}, "load/download", 0.05, None),
        ({"inner_s": 60, "outer_s": 3.0}, {}, "load", 3.0, "load/download"),
        ({"inner_s": 60}, {"download": 0.05}, "load/download", 0.05, None),
        ({}, {"load/download": 0.05, "download": 60}, "load/download", 0.05, None),
        ({"inner_s": 0.05}, {"download": None, "load": 3.0}, "load", 3.0, "load/download"),
        ({"inner_s": 1.0, "work": "native"}, {}, "load/download", 1.0, None),
        ({"inner_s": 0.05, "work": "tokens"}, {}, "load/download", 0.05, None),
        ({"inner_s": 1.0, "work": "native", "on_timeout": "raise"}, {}, "load/download", 1.0, None),
    ],
    ids=str,
)
async def test_the_operation_that_took_too_long_is_named(
    input: dict[str, Any], limits: dict[str, Any], path: str, limit_s: float, inside: str | None,
    supervisor: StartSupervisor, long_dump_waits: None,
) -> None:  # fmt: skip
    server = await supervisor(pool())
    story = await run(server, "loads", limits={**LONG, "operation_s": limits}, **input)
    assert (story.state, story.code) == ("timed_out", "timeout.operation"), story.error
    assert story.error["operation"] == path and story.error["limit_s"] == limit_s
    assert (story.error["limit"], story.error["by"], story.error.get("inside")) == ("operation_s", "supervisor", inside)
    assert story.certificate["operation"] == "load/download"
    stack = story.certificate["stack"].splitlines()
    assert any("operation_jobs.py" in line and line.endswith("in loads") for line in stack), stack
    heard = input.get("work") != "native"
    assert ("acknowledged" in story.phases, was_killed(story.certificate)) == (heard, not heard)


async def test_a_decorator_gives_an_operation_its_time(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    story = await run(server, "declared", limits=LONG)
    assert (story.code, story.error["operation"], story.error["limit_s"]) == ("timeout.operation", "load", 0.1)


async def test_a_job_that_catches_what_is_raised_goes_on(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool(jobs_per_worker_max=0, workers=6))
    story = await run(server, "tries_again", limits=PATIENT, times=2)
    assert story.state == "completed", story.error
    once = ["operation fetch took longer than 0.05 s", "fetch", 0.05, True]
    assert story.end["result"] == once * 2
    assert "requested" not in story.certificate and "exited" in story.phases, "a rung worker is not reused"
    assert ended_with(story.certificate, 0)
    told = {
        "raises_outer": ["inner left", "outer"], "swallows_it": "came through", "waits_in_asyncio": "fetch",
        "hears_the_third_bell": "fetch", "counts_in_operations": ["cleaned", "fetch"] * 3 + ["last"],
        "leaves_in_time": "done", "shields_two_operations": ["inside: outer", "outer"],
        "shields_an_operation": ["section done", "raised", "left inside"],
    }  # fmt: skip
    stories = await asyncio.gather(*(run(server, type, limits=PATIENT) for type in told))
    for (type, expected), story in zip(told.items(), stories, strict=True):
        assert (story.state, story.end["result"]) == ("completed", expected), (type, story.error)


async def test_it_is_never_raised_inside_the_event_loops_own_code(supervisor: StartSupervisor) -> None:
    """There a step that was just taken from the queue would be lost, and closing the loop wait for it for ever."""
    story = await run(await supervisor(pool()), "is_busy_in_asyncio", limits={**PATIENT, "grace_s": 20}, times=20)
    assert (story.state, story.end.get("result")) == ("completed", ["fetch"] * 20), story.error


async def test_another_threads_operation_of_the_same_name_keeps_its_time(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(pool()), "is_in_two_threads", limits={**LONG, "run_s": 25})
    assert (story.code, story.error["operation"]) == ("timeout.operation", "fetch/body")


async def test_a_generator_gets_it_between_two_yields(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(pool()), "yields_inside", limits=PATIENT)
    assert story.state == "completed" and story.tokens[-1] == "stream" and set(story.tokens[:-1]) <= {"t"}


async def test_what_is_raised_and_not_caught_ends_the_job_as_a_timeout(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    story = await run(server, "loads", limits=PATIENT, inner_s=0.05, on_timeout="raise")
    assert (story.state, story.code) == ("timed_out", "timeout.operation")
    assert (story.error["operation"], story.error["limit_s"]) == ("load/download", 0.05)
    assert "in loads" in story.error["traceback"] and story.error["type"].endswith("OperationTimedOut")
    assert "requested" not in story.certificate
    mine = await run(server, "misuses", how="by itself")
    assert mine.code == "exception" and "took longer than 3 s" in mine.error["message"]


async def test_who_catches_it_and_stays_is_stopped(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(pool()), "tries_again", limits={"grace_s": 4, "ack_s": None}, stays=True)
    assert (story.state, story.code) == ("timed_out", "timeout.operation")
    assert "did not leave it within grace_s" in story.error["message"]
    assert story.certificate["operation"] == "fetch" and "acknowledged" in story.phases


async def test_every_other_ending_says_in_which_operation_the_job_was(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    story = await run(server, "loads", limits={**LONG, "run_s": 3})
    assert (story.code, story.error["operation"]) == ("timeout.run", "load/download")
    job_id = await submit(server, "loads", limits=LONG)
    await wait_for_tokens(server, job_id)
    assert (await stop(server, job_id)).certificate["operation"].startswith("load")


@pytest.mark.parametrize(
    ("how", "words"),
    [("name", "an operation's name is"), ("time", "a positive number of seconds"), ("many", "more than 100")],
)
async def test_an_operation_that_cannot_be_is_refused_where_it_is_asked_for(
    how: str, words: str, supervisor: StartSupervisor
) -> None:
    story = await run(await supervisor(pool()), "misuses", how=how)
    assert story.code == "exception" and words in story.error["message"] and "in misuses" in story.error["traceback"]


# ── tokens ──


@pytest.mark.row("C9")
@pytest.mark.row("PEERS-N")
@pytest.mark.parametrize(
    ("input", "limits", "code", "tokens"),
    [
        ({"first_s": 60}, {"first_token_s": 3.0, "idle_s": 0.1}, "timeout.first_token", []),
        ({"tokens": 2, "between_s": 60}, {"first_token_s": 30, "idle_s": 1.5}, "timeout.idle", ["0"]),
        ({"tokens": 1, "between_s": 60}, {"idle_s": 1.5}, "timeout.idle", ["0"]),
        ({"tokens": 30, "between_s": 0.01}, {"first_token_s": 30, "idle_s": 20}, "", [str(n) for n in range(30)]),
        ({"first_s": 4, "tokens": 1}, {"idle_s": 3.0}, "", ["0"]),
    ],
    ids=str,
)
async def test_a_stream_that_stalls_is_ended(
    input: dict[str, Any], limits: dict[str, Any], code: str, tokens: list[str], supervisor: StartSupervisor
) -> None:
    story = await run(await supervisor(pool()), "pauses", limits=limits, **input)
    assert (story.code, story.tokens) == (code, tokens), story.error
    if code:
        limit = code.removeprefix("timeout.") + "_s"
        assert (story.state, story.error["limit"], story.error["limit_s"]) == ("timed_out", limit, limits[limit])
        assert "in pauses" in story.certificate["stack"]


# ── critical sections ──


@pytest.mark.parametrize("nested", [False, True])
async def test_a_critical_section_is_done_before_the_stop_is_raised(nested: bool, supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    job_id = await submit(server, "shields", limits=LONG, nested=nested)
    await wait_for_tokens(server, job_id)
    story = await stop(server, job_id)
    assert "acknowledged" in story.phases and not was_killed(story.certificate)
    assert story.tokens == ["in", "told: cancelled", "section done", "left", "raised"]


async def test_a_critical_section_does_not_outlive_the_grace(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    job_id = await submit(server, "shields", limits={"grace_s": DELIVERY_GRACE_S}, section_s=60)
    await wait_for_tokens(server, job_id)
    story = await stop(server, job_id)
    assert {"acknowledged", "kill_sent"} <= story.phases and "early_kill" not in story.certificate
    assert story.tokens == ["in", "told: cancelled"]
