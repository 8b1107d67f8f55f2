"""The cause of an ending apart from its mechanism: whoever killed it, the record says who, and never guesses."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_runs import (
    ENDED_WITH,
    follow,
    hostile_pool,
    pool_of,
    run,
    start_computing,
    stop,
    submit,
    wait_for_tokens,
    wait_until_computing,
)
from support import processes
from support.hostile_job_table import EXIT_PHASES
from support.killable_command import Command, Server
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable import Client, WorkerCrashed
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

JOBS = str(Path(processes.__file__).parent / "simple_jobs.py")


@pytest.mark.row("B4", "PEERS-G", "PEERS-7", "PEERS-14")
@pytest.mark.code("cancelled", "timeout.run", "killed_externally", "protocol", "worker_lost")
async def test_five_deaths_by_sigkill_have_five_codes(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, spares=2), proof=proof)

    async def begun() -> str:
        return await start_computing(server, "ignores_term", limits={})

    cancelled = await stop(server, await begun(), grace_s=0)
    timed_out = await run(server, "ignores_term", limits={"run_s": 0.1, "grace_s": 0})
    garbled = await run(server, "writes_garbage", then="loop")
    killed = await begun()
    pid = (await server.get(killed)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    outside = await follow(server, killed)
    lost = await begun()
    zygote = (await pool_of(server)).zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    orphaned = await follow(server, lost)

    stories = {
        "cancelled": cancelled, "timeout.run": timed_out, "protocol": garbled, "killed_externally": outside,
        "worker_lost": orphaned,
    }  # fmt: skip
    for code, story in stories.items():
        assert (story.code, story.certificate["exit_signal"]) == (code, "SIGKILL")
        ours = story in (cancelled, timed_out, garbled)
        assert story.certificate.get("last_signal") == ("SIGKILL" if ours else None)
    assert outside.error["oom"] in ("no", "unknown") and outside.error["retryable"] and orphaned.error["retryable"]
    assert all("oom" not in story.error for story in stories.values() if story is not outside)


@pytest.mark.row("B4", "PEERS-G")
@pytest.mark.code("killed_externally")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_a_sigterm_that_we_did_not_send_is_a_strangers(start_method: str, supervisor: StartSupervisor) -> None:
    """Where it is not our own SIGTERM: the job has put the signal's default action back."""
    server = await supervisor(hostile_pool(start_method=start_method))
    job_id = await submit(server, "dies_of_term")
    os.kill(await wait_until_computing(server, job_id), signal.SIGTERM)
    story = await follow(server, job_id)
    assert (story.code, story.error["signal"], story.error["oom"]) == ("killed_externally", "SIGTERM", "no")
    assert story.error["retryable"] and story.certificate["exit_signal"] == "SIGTERM"
    assert "last_signal" not in story.certificate and story.phases == EXIT_PHASES
    assert "by" not in story.error and "cause" not in story.certificate


async def one_idle(server: Supervisor) -> int:
    """Wait until a worker waits for a job; return its pid."""

    async def idle() -> int | Pending:
        workers = await server.workers()
        return next((worker.pid for worker in workers if worker.state == "idle" and worker.pid), 0) or Pending(workers)

    return await until_async(idle, "a worker is idle")


@pytest.mark.code("timeout.start")
async def test_a_worker_that_does_not_begin_is_given_up(proof: str, supervisor: StartSupervisor) -> None:
    """It stops (SIGSTOP) before it has read its order; SIGTERM with SIGCONT wakes it, and it never enters the job."""
    server = await supervisor(hostile_pool(workers=1, spares=1), proof=proof)
    pid = await one_idle(server)
    os.kill(pid, signal.SIGSTOP)
    await until_async(
        lambda: (processes.read_process(pid) or Pending(None)).state == "T" or Pending("?"), "it is stopped"
    )
    story = await run(server, "echoes", limits={"start_s": 0.1, "grace_s": 5, "ack_s": None})
    assert (story.state, story.code, story.pid) == ("timed_out", "timeout.start", pid)
    assert (story.error["limit"], story.error["retryable"]) == ("start_s", True)
    assert (await run(server, "echoes")).state == "completed"


ABORTS = """
import os
from killable import job

@job
def {name}(folder: str) -> None:
    os.chdir(folder)
    os.abort()
"""


@pytest.fixture
def core_limit() -> Iterator[int]:
    """Whoever starts the supervisor allows core dumps, as far as it may."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.row("B4")
@pytest.mark.code("crash")
async def test_a_crash_dumps_core_where_its_pool_may_and_whether_it_did_is_told(
    supervisor: StartSupervisor, tmp_path: Path, core_limit: int
) -> None:
    pools, left = [], {}
    for name, core_dumps in (("without", False), ("with_", True), ("with_execd", True)):
        (module := tmp_path / f"{name}.py").write_text(ABORTS.format(name=name))
        kind: Any = {"core_dumps": core_dumps, "start_method": "spawn" if "exec" in name else "fork"}
        pools.append(PoolSpec(name, (str(module),), workers=1, spares=0, **kind))
    server = await supervisor(*pools)
    for pool in pools:
        (folder := tmp_path / pool.name).mkdir()
        error = (await run(server, pool.name, folder=str(folder))).error
        assert (error["code"], error["signal"]) == ("crash", "SIGABRT")
        left[pool.name] = (error["core_dumped"], len(list(folder.iterdir())))
    assert left["without"] == (False, 0)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if core_limit != 0 and pattern and pattern[0] not in "|/@":  # else it may go to a program, or elsewhere (core(5))
        assert left["with_"] == left["with_execd"] == (True, 1)


@pytest.mark.row("H6", "E8")
@pytest.mark.code("supervisor_lost")
async def test_a_reader_whose_server_is_killed_is_told_that_nobody_knows(tmp_path: Path) -> None:
    server = await asyncio.to_thread(Server, Command(tmp_path), JOBS, "--port", "0")
    below = psutil.Process(server.process.pid).children(recursive=True)

    def read() -> tuple[list[Any], WorkerCrashed]:
        seen = []
        with Client(server.url) as client, pytest.raises(WorkerCrashed) as caught:
            for token in client.submit("gated", {"gates": ["/no/such/gate"]}):
                seen.append(token)
                server.process.kill()
        return seen, caught.value

    try:
        seen, error = await asyncio.to_thread(read)
    finally:
        server.process.kill()
        server.process.communicate()
    assert (seen, error.code, error.retryable) == (["first"], "supervisor_lost", True)
    ENDED_WITH.add(error.code)
    await until_async(lambda: not any(process.is_running() for process in below), "nothing outlives it")


@pytest.mark.row("H6", "PEERS-8")
async def test_a_pool_goes_on_through_a_hundred_crashes(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=2, spares=2, jobs_per_worker_max=0))
    neighbour = await submit(server, "waits", where="event")
    await wait_for_tokens(server, neighbour)
    for _ in range(100):
        assert (await run(server, "dies_of", number=int(signal.SIGSEGV))).code == "crash"
    assert (await run(server, "echoes")).state == "completed"
    (pool,) = await server.pools()
    assert (pool.state, pool.zygote_restarts, pool.quarantined) == ("ready", 0, 0)
    assert (await server.get(neighbour)).state == "running"
