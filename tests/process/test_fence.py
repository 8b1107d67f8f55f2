"""The fence: a signal is sent through the pidfd, to a worker that still holds the attempt it is meant for, or not."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from job_runs import Reports, hostile_pool, open_spawner, run, stop, submit, wait_until_computing
from support import processes
from support.certificate_checks import ended_with
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.ports import FenceError
from killable.workers.errors import Refused
from killable.workers.protocol.messages import Kind


class Ready(NamedTuple):
    process: WorkerProcess
    reports: Reports
    spawner: PoolSpawner


@pytest_asyncio.fixture
async def ready(proof: Any) -> AsyncIterator[Ready]:
    """A real worker that is ready and holds nothing, without a supervisor."""
    reports = Reports()
    async with open_spawner(hostile_pool(), reports, proof=proof) as spawner:
        process = spawner.fork("w-1", reports)
        await until_async(lambda: [frame.kind for frame in reports.frames] == [Kind.READY], "the worker is ready")
        await until_async(lambda: process.pid is not None, "the zygote has told of it")
        yield Ready(process, reports, spawner)


@pytest.mark.row("PEERS-A", "PEERS-1")
@pytest.mark.row("D8")
async def test_a_signal_for_another_attempt_is_refused(ready: Ready) -> None:
    process, reports, _ = ready
    assert process.pid is not None
    for held in (None, 7):
        process.hold(held)
        for send in (process.terminate, process.dump):
            with pytest.raises(FenceError):
                send(8)
    process.hold(None)
    with pytest.raises(FenceError):
        process.terminate(7)  # it has finished
    assert reports.notifications == b"" and int(processes.stat_field(process.pid, "ShdPnd"), 16) == 0
    # The control: the right one gets through, and, being a SIGTERM without an order, does no harm.
    process.hold(9)
    process.terminate(9)
    await until_async(
        lambda: reports.notifications == bytes([signal.SIGTERM]) or Pending(reports.notifications), "it was delivered"
    )
    assert processes.read_process(process.pid) is not None and reports.exited == 0


@pytest.mark.row("PEERS-A", "PEERS-15")
@pytest.mark.row("D8")
async def test_a_worker_that_is_reaped_is_signalled_no_more(ready: Ready) -> None:
    process, reports, _ = ready
    pid = process.pid
    assert pid is not None
    process.hold(1)
    process.kill()
    await until_async(lambda: reports.gone is not None, "it is gone")
    assert reports.gone is not None and reports.gone.ending is not None
    assert reports.gone.ending.signal == signal.SIGKILL and reports.exited == 1
    assert processes.read_process(pid) is None
    process.terminate(1)
    process.dump(1)
    process.kill()
    assert process.processor_use() is None and process.stack() is None and await process.measured(alone=True) is None


async def test_a_worker_can_be_killed_while_its_fork_is_on_its_way(ready: Ready) -> None:
    process, reports = ready.spawner.fork("w-2", late := Reports()), late
    assert process.pid is None
    process.kill()
    await until_async(lambda: reports.gone is not None, "it is gone")
    assert reports.gone is not None and reports.gone.ending is not None and reports.exited == 1
    assert process.pid is not None and processes.read_process(process.pid) is None


async def test_a_worker_whose_orders_end_ends_by_itself(ready: Ready) -> None:
    ready.process.retire()
    await until_async(lambda: ready.reports.gone is not None, "it is gone")
    assert ready.reports.gone is not None and ready.reports.gone.ending is not None
    assert ready.reports.gone.ending.exit_code == 0 and ready.reports.exited == 1


async def test_a_worker_that_was_signalled_is_never_used_again(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0), proof=proof)
    first = await run(server, "echoes")
    assert (await run(server, "echoes")).pid == first.pid, "a worker that was not signalled is"
    job_id = await submit(server, "returns_in_grace", limits={"grace_s": 60})
    await wait_until_computing(server, job_id)
    story = await stop(server, job_id)
    assert story.pid == first.pid and ended_with(story.certificate, 0)
    assert processes.read_process(first.pid) is None
    assert (await run(server, "echoes")).pid != first.pid


@pytest.mark.row("PEERS-A", "PEERS-1")
@pytest.mark.row("D10")
async def test_a_cancel_that_comes_too_late_hits_nobody(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0), proof=proof)
    ended = await run(server, "echoes")
    job_id = await submit(server, "loop_python")
    assert await wait_until_computing(server, job_id) == ended.pid
    with pytest.raises(Refused) as refused:
        await server.cancel(ended.job_id, grace_s=0)
    assert refused.value.code == "already_ended" and refused.value.record == ended.record
    with pytest.raises(Refused) as refused:
        await server.cancel("job-00000000-0000-4000-8000-000000000000")
    assert refused.value.code == "unknown_job"
    assert (await server.get(job_id)).state == "running"
    os.kill(ended.pid, 0)


async def test_killing_a_worker_by_name(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1), proof=proof)
    job_id = await submit(server, "ignores_term")
    pid = await wait_until_computing(server, job_id)
    (busy,) = [worker for worker in await server.workers() if worker.job_id == job_id]
    assert (busy.pid, busy.state, busy.proof) == (pid, "busy", proof)
    await server.kill_worker(busy.worker_id)
    record = await server.get(job_id)
    assert (record.state, record.error and record.error["by"]) == ("cancelled", "operator")
    idle = [worker for worker in await server.workers() if worker.state == "idle"]
    for worker in idle:
        await server.kill_worker(worker.worker_id)
    assert (await run(server, "echoes")).state == "completed"
    with pytest.raises(Refused) as refused:
        await server.kill_worker(busy.worker_id)
    assert refused.value.code == "unknown_worker"
