"""Guards and zygotes that say nothing: stopped, hung, or with an answer that got lost on its way."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from job_runs import END_S, Reports, follow, hostile_pool, pool_of, run, stop, submit, wait_for_tokens
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until, until_async

from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.supervisor_resources import SupervisorResources
from killable.supervisor.linux.zygote_watchdog import STOPS_MAX
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.protocol.messages import Kind

ANSWER_S = 2.5

StartImpatient = Callable[[PoolSpec], Awaitable[Supervisor]]


@pytest_asyncio.fixture
async def impatient(proof: str) -> AsyncIterator[StartImpatient]:
    """A supervisor that waits a short time for its zygote's answers."""
    settings = Settings(pools=(), proof=proof)  # type: ignore[arg-type]
    system = SupervisorResources.open(asyncio.get_running_loop(), settings, uuid.uuid4().hex)
    system.answer_s = ANSWER_S
    started: list[Supervisor] = []

    async def start(pool: PoolSpec) -> Supervisor:
        server = Supervisor(Settings(pools=(pool,)), open_spawner=system.open_spawner)
        started.append(server)
        await server.start()
        return server

    yield start
    for server in started:
        await server.close(grace_s=0)
    await system.close()


async def zygote_of(server: Supervisor) -> processes.ProcessInfo:
    seen = processes.read_process((await pool_of(server)).zygote_pid or 0)
    assert seen is not None
    return seen


def halt(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: (seen := processes.read_process(pid)) and seen.state == "T", "it is stopped")


async def test_a_spare_that_was_stopped_is_continued_for_its_job(supervisor: StartSupervisor) -> None:
    """What counts is what stopped it before: nobody waits for `start_s`."""
    server = await supervisor(hostile_pool(workers=1, spares=1))
    (spare,) = await until_async(lambda: idle_workers(server), "a spare is there")
    halt(spare)
    story = await run(server, "echoes", limits={"start_s": 20, "attempts_max": 1})
    assert (story.state, story.record.pid) == ("completed", spare)


async def idle_workers(server: Supervisor) -> list[int | None] | Pending:
    workers = await server.workers()
    return [worker.pid for worker in workers if worker.state == "idle"] or Pending(workers)


@pytest.mark.row("D20")
async def test_a_zygote_that_is_stopped_is_continued_and_its_jobs_live(impatient: StartImpatient) -> None:
    server = await impatient(hostile_pool(workers=2, spares=0))
    running = await submit(server, "loop_python")
    await wait_for_tokens(server, running)
    zygote = await zygote_of(server)
    # A fork that is not answered, then an exit that is not reported.
    halt(zygote.pid)
    assert (await run(server, "echoes")).state == "completed"
    ending = await submit(server, "waits_for", gate="/nowhere")
    await wait_for_tokens(server, ending)
    halt(zygote.pid)
    await server.cancel(ending, grace_s=0, wait_s=0)
    story = await follow(server, ending)
    assert story.state == "cancelled" and story.certificate["exit_signal"] == "SIGKILL"
    assert (await server.get(running)).state == "running"
    assert (await zygote_of(server)).pid == zygote.pid and (await pool_of(server)).zygote_restarts == 0
    await stop(server, running)


@pytest.mark.row("D20")
async def test_a_zygote_that_never_answers_is_ended_and_replaced(tmp_path: Path, impatient: StartImpatient) -> None:
    """It hangs in what its modules do before a fork; signals that continue it change nothing."""
    gate, module = tmp_path / "gate", tmp_path / "hanging.py"
    module.write_text(
        "import os, time\nfrom killable import Context, job\n"
        f"def hang() -> None:\n    while os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
        "os.register_at_fork(before=hang)\n"
        "@job\ndef says() -> str:\n    return 'said'\n"
        "@job\ndef stays(ctx: Context) -> None:\n    ctx.emit('in')\n    time.sleep(3600)\n"
    )
    server = await impatient(PoolSpec("hanging", (str(module),), workers=2, spares=0))
    running = await submit(server, "stays")
    await wait_for_tokens(server, running)
    gate.touch()
    waiting = await submit(server, "says")
    assert (await follow(server, running)).code == "worker_lost"
    gate.unlink()
    assert (await follow(server, waiting)).end["result"] == "said"
    assert (await pool_of(server)).zygote_restarts >= 1


@pytest.mark.row("D20")
async def test_a_guard_that_is_stopped_is_continued_when_it_is_needed(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof, unkillable_s=12)
    job_id = await submit(server, "keeps_family")
    await wait_for_tokens(server, job_id)
    zygote = await zygote_of(server)
    halt(zygote.parent)
    os.kill(zygote.pid, signal.SIGKILL)
    story = await follow(server, job_id)
    assert (story.code, story.certificate["proof"]) == ("worker_lost", proof)
    assert (await run(server, "echoes")).state == "completed"
    assert (await zygote_of(server)).parent == zygote.parent


async def test_a_guard_that_is_stopped_is_continued_for_the_end(supervisor: StartSupervisor) -> None:
    """A close that waited for `unkillable_s` would not come to its end here."""
    server = await supervisor(hostile_pool(workers=1, spares=0), unkillable_s=3600)
    zygote = await zygote_of(server)
    halt(zygote.parent)
    await server.close(grace_s=0)
    assert [processes.read_process(pid) for pid in (zygote.pid, zygote.parent)] == [None, None]


async def test_a_zygote_that_is_stopped_at_each_end_goes_on(supervisor: StartSupervisor) -> None:
    """It is killed only if it is found stopped again and again while one end waits for it."""
    server = await supervisor(hostile_pool(workers=1, spares=0))
    zygote = await zygote_of(server)
    for _ in range(STOPS_MAX + 1):
        job_id = await submit(server, "loop_python", limits={"grace_s": 0})
        await wait_for_tokens(server, job_id)
        halt(zygote.pid)
        assert (await server.cancel(job_id, wait_s=END_S)).state == "cancelled"
    assert (await zygote_of(server)).pid == zygote.pid


class Telling(Reports):
    """Remembers what it was told of a process, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def on_forked(self, pid: int) -> None:
        self.told.append("forked")

    def on_fork_failed(self, errno: int, why: str) -> None:
        self.told.append(why)

    def on_exited(self) -> None:
        self.told.append("exited")


@asynccontextmanager
async def preloaded(proof: str, reports: Reports, **pool: Any) -> AsyncIterator[PoolSpawner]:
    """A guard and a zygote, without a supervisor."""
    settings = Settings(pools=(), proof=proof)  # type: ignore[arg-type]
    system = SupervisorResources.open(asyncio.get_running_loop(), settings, uuid.uuid4().hex)
    spawner = system.open_spawner(hostile_pool(**pool), reports)
    try:
        spawner.start("fork")
        await until_async(lambda: reports.preloaded, "the zygote has preloaded")
        yield spawner
    finally:
        await spawner.close()
        await system.close()


async def test_a_zygote_that_has_preloaded_is_known_however_late_its_guard_is(tmp_path: Path, proof: str) -> None:
    """A guard may wait for a processor from its fork of the zygote on, and the zygote get one."""
    gate, late, python = tmp_path / "gate", tmp_path / "late.py", tmp_path / "python"
    late.write_text(
        "import os, runpy, sys, time\n"
        f"def wait() -> None:\n    while not os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
        "os.register_at_fork(after_in_parent=wait)\n"
        "del sys.argv[:3]\n"  # this file, -S and -P
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SP {shlex.quote(str(late))} "$@"\n')
    python.chmod(0o700)
    async with preloaded(proof, Reports(), python=str(python)) as spawner:
        try:
            assert (zygote := processes.read_process(spawner.zygote_pid or 0)) is not None
            assert (guard := processes.read_process(zygote.parent)) is not None and guard.parent == os.getpid()
        finally:
            gate.touch()


async def test_a_worker_that_is_dead_when_its_fork_is_told_is_not_taken_for_one_that_lives(proof: str) -> None:
    reports, dead = Reports(), Telling()
    async with preloaded(proof, reports) as spawner:
        spawner.fork("w-1", dead)
        zygote = spawner.zygote_pid
        assert zygote is not None
        (worker,) = until(lambda: processes.descendants(zygote), "it is forked, and the loop has not turned")
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: (seen := processes.read_process(worker.pid)) is None or seen.state == "Z", "it is dead")
        await until_async(lambda: dead.gone is not None, "it is gone")
    assert dead.told == ["exited", "forked"]


async def test_a_fork_whose_answer_is_lost_frees_its_slot_and_leaves_no_process(proof: str) -> None:
    """The pidfd comes when no descriptor is free here: nobody could end such a worker, so it is not kept."""
    reports, lost = Reports(), Telling()
    async with preloaded(proof, reports) as spawner:
        assert spawner.zygote_pid is not None
        halt(spawner.zygote_pid)
        process = spawner.fork("w-1", lost)
        taken: list[int] = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            os.kill(spawner.zygote_pid, signal.SIGCONT)
        try:
            await until_async(lambda: lost.told, "the fork has failed")
        finally:
            for descriptor in taken:
                os.close(descriptor)
        assert lost.told == ["Too many open files"] and process.pid is None
        zygote = spawner.zygote_pid
        await until_async(
            lambda: Pending(left) if (left := processes.descendants(zygote)) else True, "the worker has ended"
        )
        spawner.fork("w-2", reports)
        await until_async(lambda: [frame.kind for frame in reports.frames] == [Kind.READY], "the next is ready")


async def test_who_stops_guard_and_zygote_again_and_again_is_stopped_all_the_same(
    proof: str, supervisor: StartSupervisor
) -> None:
    """The verdict `unkillable` came before the remedy, and the daemons of the job went on."""
    server = await supervisor(hostile_pool(workers=1, spares=0), proof=proof)
    job_id = await submit(server, "stops_guard_and_zygote", limits={"grace_s": 0})
    await wait_for_tokens(server, job_id)
    record = await server.cancel(job_id, wait_s=END_S)
    assert record.state == "cancelled", record.error
    story = await run(server, "exits", code=3)
    assert story.code == "exit", "and the pool works as ever"
