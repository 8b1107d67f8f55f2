"""What SIGKILL does not end, for real: in a frozen group. Its job ends, its slot waits, everything else goes on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from job_runs import FORKED_OR_EXECED, hostile_pool, pool_of, run, submit, wait_for_tokens, wait_until_sleeping
from support import processes
from support.cgroup_freezer import freezer
from support.engines import record_with_workers, until_warm
from support.supervisor_fixture import CGROUP_PROOF, StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.records import JobRecord
from killable.supervisor.supervisor import Supervisor

UNKILLABLE_S = 3.0


async def given_up(server: Supervisor, job_id: str) -> JobRecord:
    """Wait for a job that ends as unkillable, and look at what it says of itself."""
    record = await server.wait(job_id)
    assert (record.state, record.error and record.error["code"]) == ("failed", "unkillable"), record
    assert record.certificate is not None
    assert not {"reaped", "tree_empty", "slot_ready", "proof"} & set(record.certificate), record.certificate
    return record


async def freed(server: Supervisor) -> None:
    async def is_free() -> bool | Pending:
        pool = await pool_of(server)
        return not pool.quarantined or Pending(pool)

    await until_async(is_free, "the slot is free again")


@pytest.mark.row("D15")
@FORKED_OR_EXECED
async def test_a_worker_that_does_not_go_is_quarantined_until_it_does(
    start_method: str, proof: str, supervisor: StartSupervisor
) -> None:
    pool = hostile_pool(workers=2, start_method=start_method)
    server = await supervisor(pool, proof=proof, unkillable_s=UNKILLABLE_S)
    with freezer() as frozen:
        job_id = await submit(server, "native_pauses")
        pid = await wait_until_sleeping(server, job_id)
        frozen.hold(pid)
        await server.cancel(job_id, grace_s=0, wait_s=0)
        record = await given_up(server, job_id)
        assert record.certificate is not None and "exited" not in record.certificate
        seen = processes.read_process(pid)
        assert seen is not None and seen.state != "Z"

        assert (await pool_of(server)).quarantined == 1
        ready, degraded = await server.ready()
        assert ready and degraded == ["pool hostile: 1 of 2 slots quarantined"]
        (held,) = [worker for worker in await server.workers() if worker.state == "quarantined"]
        assert (held.pid, held.job_id) == (pid, None)
        for _ in range(3):
            assert (await run(server, "leaves_family")).state == "completed"
        frozen.thaw()
        await freed(server)
    assert await server.ready() == (True, [])
    assert [worker.pid for worker in await server.workers() if worker.pid == pid] == []


@pytest.mark.row("D15")
async def test_a_descendant_that_does_not_go_costs_its_own_job_only(proof: str, supervisor: StartSupervisor) -> None:
    """Below the zygote, which reaps what dead workers leave: the other workers' ends are reported all the same."""
    server = await supervisor(hostile_pool(workers=2), proof=proof, unkillable_s=UNKILLABLE_S)
    with freezer() as frozen:
        job_id = await submit(server, "keeps_family", kind="each")
        family = (await wait_for_tokens(server, job_id))[0]
        frozen.hold(family[-1])
        await server.cancel(job_id, grace_s=0, wait_s=0)
        record = await given_up(server, job_id)
        assert record.certificate is not None and "exited" in record.certificate
        for _ in range(3):
            assert (await run(server, "leaves_family")).state == "completed"
        assert (await pool_of(server)).quarantined == 1
        frozen.thaw()
        await freed(server)
    assert [pid for pid in family if processes.read_process(pid)] == []


@pytest.mark.row("D15")
@pytest.mark.row("D20")
async def test_a_pool_comes_back_although_something_of_its_zygote_does_not_go(
    proof: str, supervisor: StartSupervisor
) -> None:
    """The old guard stays with what does not go; the pool gets another guard and zygote."""
    server = await supervisor(hostile_pool(workers=2), proof=proof, unkillable_s=UNKILLABLE_S)
    with freezer() as frozen:
        job_id, other = await submit(server, "native_pauses"), await submit(server, "native_pauses")
        pid = await wait_until_sleeping(server, job_id)
        await wait_for_tokens(server, other)
        frozen.hold(pid)
        before = (await pool_of(server)).zygote_pid
        assert before is not None
        guard = processes.read_process(processes.read_process(before).parent)  # type: ignore[union-attr]
        assert guard is not None
        os.kill(before, signal.SIGKILL)

        async def back() -> bool | Pending:
            pool = await pool_of(server)
            return (pool.zygote_pid not in (None, before) and pool.state == "ready") or Pending(pool)

        await until_async(back, "the pool has another zygote")
        # The other job's group is proven empty where there is one; without it nobody can tell whose the rest is.
        record = await server.wait(other)
        assert record.error is not None and record.certificate is not None
        code = record.error["code"]
        assert (code, record.certificate.get("proof")) == (
            ("worker_lost", "cgroup") if proof == CGROUP_PROOF else ("unkillable", None)
        )
        if proof == CGROUP_PROOF:
            assert (await run(server, "leaves_family")).state == "completed"
        await server.cancel(job_id, grace_s=0, wait_s=0)
        await given_up(server, job_id)
        still = processes.read_process(guard.pid)
        assert still is not None and (still.started, still.state == "Z") == (guard.started, False)
        frozen.thaw()
        await freed(server)
    assert (await run(server, "leaves_family")).state == "completed"
    await until_async(
        lambda: Pending(seen) if (seen := processes.read_process(guard.pid)) else True, "the old guard is done"
    )


@pytest.mark.row("D20")
async def test_a_warm_worker_whose_zygote_has_ended_is_given_no_job(proof: str, supervisor: StartSupervisor) -> None:
    """It dies in a moment, here in a longer one: a job that it were given would be lost with it."""
    server = await supervisor(hostile_pool(), proof=proof)
    await until_warm(server)
    (warm,) = await server.workers()
    zygote = (await pool_of(server)).zygote_pid
    assert warm.pid is not None and zygote is not None
    with freezer() as frozen:
        frozen.hold(warm.pid)
        os.kill(zygote, signal.SIGKILL)

        async def marked_lost() -> bool | Pending:
            (worker,) = await server.workers()
            return worker.state == "leaving" or Pending(worker)

        await until_async(marked_lost, "it is known that it dies")
        job_id = await submit(server, "echoes")
        assert (await record_with_workers(server, job_id)).state == "queued"
        frozen.thaw()
        assert (await server.wait(job_id)).state == "completed"


@pytest.mark.row("D15")
async def test_a_shutdown_does_not_wait_for_what_does_not_go(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof, unkillable_s=UNKILLABLE_S)
    with freezer() as frozen:
        job_id = await submit(server, "native_pauses")
        pid = await wait_until_sleeping(server, job_id)
        frozen.hold(pid)
        async with asyncio.timeout(30):
            await server.close(grace_s=0)
        await given_up(server, job_id)
        assert processes.read_process(pid) is not None
        frozen.thaw()
        await until_async(lambda: Pending(seen) if (seen := processes.read_process(pid)) else True, "it is gone")
    for group in processes.cgroups_of(os.getpid()):  # what a next start would remove
        for path in (*group.iterdir(), group):
            if path.is_dir():
                path.rmdir()


def test_the_freezer_holds_what_sigkill_would_end() -> None:
    """The control: without it these processes are gone at once."""
    with freezer() as frozen:
        pids = [os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60") for _ in range(2)]
        frozen.hold(pids[0])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pids[1], 0) == (pids[1], signal.SIGKILL)
        assert os.waitpid(pids[0], os.WNOHANG) == (0, 0)
        frozen.thaw()
        assert os.waitpid(pids[0], 0) == (pids[0], signal.SIGKILL)
