"""The supervisor's thread loses its processor, at the worst place: what was said, or ended, in time counts as that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, follow, hostile_pool, run, submit, wait_for_tokens
from support import processes
from support.engines import certificate_so_far
from support.event_loop_stalls import advance_clock, stall_loop
from support.supervisor_fixture import StartSupervisor
from support.waiting import until, until_async

from killable.supervisor.attempts.attempt import Attempt
from killable.supervisor.attempts.termination import Termination
from killable.supervisor.linux.worker_process import NOTIFICATIONS_MAX, WorkerProcess
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

LIMIT_S = 60
"""More than any of this takes in truth, and less than is waited for it."""


def late_pool(**changes: Any) -> PoolSpec:
    modules = (*HOSTILE_POOL["modules"], "support.stall_jobs")
    return hostile_pool(**{"modules": modules, "workers": 1, "spares": 0, **changes})


async def pid_of(server: Supervisor, job_id: str) -> int:
    pid = (await server.get(job_id)).pid
    assert pid is not None
    return pid


def has_said(pid: int) -> Callable[[], bool]:
    """Tell whether a worker has said something that nobody has read, and waits."""
    asleep = processes.is_in_state(pid, "S")
    return lambda: bool(processes.unread_bytes(pid, os.getpid())) and asleep() is True


@pytest.mark.row("B3")
@pytest.mark.code("crash")
async def test_who_crashed_before_its_time_was_over_has_crashed(supervisor: StartSupervisor, tmp_path: Path) -> None:
    server = await supervisor(late_pool())
    job_id = await submit(server, "ends_at", limits={"run_s": LIMIT_S}, gate=str(tmp_path / "gate"), how="crash")
    await wait_for_tokens(server, job_id)
    pid = await pid_of(server, job_id)

    def meanwhile() -> None:
        (tmp_path / "gate").touch()
        until(processes.has_ended(pid), "it has crashed")

    stall_loop(meanwhile, lambda: LIMIT_S)
    story = await follow(server, job_id)
    assert (story.state, story.code) == ("failed", "crash"), story.error
    assert "term_sent" not in story.phases


async def test_a_worker_that_became_free_in_time_is_had_by_who_waited_for_it(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    server = await supervisor(late_pool(jobs_per_worker_max=0))
    first = await submit(server, "ends_at", gate=str(tmp_path / "gate"))
    await wait_for_tokens(server, first)
    pid = await pid_of(server, first)
    waits = await submit(server, "echoes", limits={"queue_s": LIMIT_S})

    def meanwhile() -> None:
        (tmp_path / "gate").touch()
        until(has_said(pid), "it is free")

    stall_loop(meanwhile, lambda: LIMIT_S)
    story = await follow(server, waits)
    assert story.state == "completed", story.error


async def test_a_job_is_not_given_to_a_worker_that_has_died_unseen(supervisor: StartSupervisor) -> None:
    server = await supervisor(late_pool(jobs_per_worker_max=0))
    pid = (await run(server, "echoes")).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(processes.has_ended(pid), "it is dead")
    story = await run(server, "echoes")
    assert story.state == "completed" and story.pid != pid, story.error


async def test_who_has_answered_is_not_killed_for_not_answering(
    supervisor: StartSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what it used of the processor in its clean-up held against it."""
    server = await supervisor(late_pool())
    limits = {"ack_s": LIMIT_S / 2, "grace_s": LIMIT_S}
    job_id = await submit(server, "hears_late", limits=limits, cleaned=str(tmp_path / "cleaned"))
    await wait_for_tokens(server, job_id)
    on_notifications = Termination.on_notifications

    def and_stand_still(termination: Termination, notifications: bytes) -> None:
        on_notifications(termination, notifications)
        monkeypatch.undo()
        stall_loop(lambda: until((tmp_path / "cleaned").exists, "it has cleaned up"), lambda: LIMIT_S / 2)

    monkeypatch.setattr(Termination, "on_notifications", and_stand_still)
    record = await server.cancel(job_id, wait_s=0)
    story = await follow(server, job_id)
    assert story.state == "cancelled", record
    assert "kill_sent" not in story.phases and "acknowledged" in story.phases, story.certificate


async def test_who_left_within_its_grace_was_not_killed(supervisor: StartSupervisor, tmp_path: Path) -> None:
    server = await supervisor(late_pool())
    job_id = await submit(server, "ends_at", limits={"grace_s": LIMIT_S}, gate=str(tmp_path / "gate"))
    await wait_for_tokens(server, job_id)
    pid = await pid_of(server, job_id)
    loop = asyncio.get_running_loop()
    await server.cancel(job_id, wait_s=0)

    async def is_acknowledged() -> bool:
        return "acknowledged" in await certificate_so_far(server, job_id)

    await until_async(is_acknowledged, "it has heard, and was heard")
    ends = loop.time() + LIMIT_S

    def meanwhile() -> None:
        (tmp_path / "gate").touch()
        until(processes.has_ended(pid), "it has left")

    stall_loop(meanwhile, lambda: ends + 0.02 - loop.time())
    story = await follow(server, job_id)
    assert (story.state, story.certificate["last_signal"]) == ("cancelled", "SIGTERM"), story.certificate
    assert "kill_sent" not in story.phases


async def test_who_has_said_that_it_is_free_does_not_linger(
    supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await supervisor(late_pool(jobs_per_worker_max=0))
    before = (await run(server, "echoes")).pid
    assert before is not None
    on_closing = Attempt._on_closing

    def and_stand_still(attempt: Attempt, closing: Any) -> None:
        on_closing(attempt, closing)
        stall_loop(lambda: until(processes.is_in_state(before, "S"), "it waits"), lambda: LIMIT_S)

    monkeypatch.setattr(Attempt, "_on_closing", and_stand_still)
    story = await run(server, "leaves_tmp")
    monkeypatch.undo()
    assert (story.state, story.pid) == ("completed", before) and "kill_sent" not in story.phases, story.certificate
    assert (await run(server, "echoes")).pid == before


@pytest.mark.row("D19")
async def test_a_look_that_had_to_wait_for_a_processor_is_followed_by_the_next(
    supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look costs says when the next one is; how long it took does not."""
    server = await supervisor(late_pool(modules=("support.resource_hungry_jobs",)))
    sample = WorkerProcess.sample

    def wait(process: WorkerProcess, *, cpu: bool, at_most: int) -> Any:
        taken = sample(process, cpu=cpu, at_most=at_most)
        if at_most > 1:
            monkeypatch.undo()
            advance_clock(LIMIT_S / 2)
        return taken

    monkeypatch.setattr(WorkerProcess, "sample", wait)
    story = await run(server, "sits_on", limits={"memory_bytes": 64 << 20}, mib=80)
    assert story.code == "limit.memory", story.error


async def test_the_end_of_an_operation_comes_too_late_for_a_job_that_has_returned(supervisor: StartSupervisor) -> None:
    """It is raised between two lines of the worker's own, before the job is over for it."""
    server = await supervisor(late_pool(modules=("support.delayed_end_jobs",)))
    story = await run(server, "never_leaves_its_operations", limits={"ack_s": LIMIT_S, "grace_s": LIMIT_S})
    assert (story.state, story.end["result"]) == ("completed", 7), story.error


async def test_of_a_flood_of_notifications_only_the_latest_are_heard(
    supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job took the loop for half a second with what it wrote into the pipe, and nobody could be killed."""
    heard: list[int] = []
    on_notifications = Termination.on_notifications

    def and_count(termination: Termination, notifications: bytes) -> None:
        heard.append(len(notifications))
        on_notifications(termination, notifications)

    monkeypatch.setattr(Termination, "on_notifications", and_count)
    server = await supervisor(late_pool())
    story = await run(server, "floods_the_wakeup_descriptor")
    assert story.state == "completed" and story.end["result"] > NOTIFICATIONS_MAX, story.error
    assert 0 < max(heard) <= NOTIFICATIONS_MAX
