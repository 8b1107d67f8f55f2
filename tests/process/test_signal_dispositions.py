"""Jobs that do something to SIGTERM, and the jobs after them."""

from __future__ import annotations

from typing import Any

import pytest
from job_runs import HOSTILE_POOL, hostile_pool, run, stop, submit, wait_for_tokens, wait_until_computing
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.settings import PoolSpec


def pool(**changes: Any) -> PoolSpec:
    return hostile_pool(modules=(*HOSTILE_POOL["modules"], "support.signal_disposition_jobs"), **changes)


async def test_who_has_put_our_handler_back_can_be_stuck_again(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool())
    job_id = await submit(server, "swaps_and_computes", limits={"grace_s": 60, "ack_s": 0.2})
    await wait_until_computing(server, job_id)
    story = await stop(server, job_id)
    assert "not acknowledged" in story.certificate["early_kill"] and "acknowledged" not in story.phases


@pytest.mark.parametrize("how", ["nothing", "restarts", "ignored", "default"])
async def test_what_c_code_has_done_to_sigterm_does_not_keep_the_next_job_from_hearing_it(
    how: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(workers=1, spares=0, jobs_per_worker_max=0))
    before = await run(server, "leaves_it_changed", how=how)
    job_id = await submit(server, "waits_in_a_read", limits={"grace_s": 60, "ack_s": None})
    await wait_for_tokens(server, job_id)
    story = await stop(server, job_id)
    assert story.pid == before.end["result"], "the same worker"
    assert story.tokens == ["in", "finally"] and story.certificate["exit_code"] == 143


async def test_whoever_takes_it_without_python_gets_the_signal_of_an_operation_once(
    supervisor: StartSupervisor,
) -> None:
    """And then that of the stop: to hear one twice may mean something."""
    server = await supervisor(pool())
    story = await run(server, "waits_for_it_in_a_thread", limits={"grace_s": 1.0, "ack_s": 1.0})
    assert (story.code, story.tokens) == ("timeout.operation", ["heard", "heard"]), story.error
    assert "did not acknowledge it within ack_s" in story.error["message"]


async def test_our_signal_for_an_operations_end_is_not_said_to_come_from_outside(supervisor: StartSupervisor) -> None:
    """Nor is the job run again."""
    server = await supervisor(pool())
    story = await run(server, "dies_of_it", limits={"attempts_max": 3, "backoff_s": 0.01})
    assert (story.state, story.code) == ("timed_out", "timeout.operation"), story.error
    assert story.error["operation"] == "fetch" and story.certificate["exit_signal"] == "SIGTERM"
    assert "retrying" not in story.names
