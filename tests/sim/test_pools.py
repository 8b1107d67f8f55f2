"""Workers and zygotes that die, fail and come back."""

from __future__ import annotations

import asyncio

import pytest
from support.engines import ENGINE, LASTING, with_workers
from support.fake_world import NEVER, Faults, Script
from support.virtual_loop import run

from killable.supervisor.pools.pool import REFILL_S
from killable.supervisor.ports import ProcessorUse
from sim.scenario_helpers import DEAF, FOREVER, LATENCY_S, ON_BOTH, refusal, simulate
from sim.simulation import Simulation, pool


def test_a_zygote_that_dies_takes_its_jobs_and_the_queue_goes_on() -> None:
    async def main(sim: Simulation) -> None:
        running = [await sim.submit(Script(run_s=NEVER, tokens=2)) for _ in range(2)]
        queued = [await sim.submit(Script()) for _ in range(3)]
        await asyncio.sleep(1)
        sim.world.spawners[0].zygote_dies(signal=9)
        await sim.ended(*running, *queued)
        assert [job.code for job in running] == ["worker_lost"] * 2
        assert [job.names for job in running] == [["started", "token", "token", "failed"]] * 2
        assert [job.state for job in queued] == ["completed"] * 3
        (record,) = await sim.supervisor.pools()
        assert (record.state, record.zygote_restarts) == ("ready", 1)

    simulate(main, pool(workers=2))


def test_a_zygote_that_dies_while_workers_are_forked_fails_no_queued_job() -> None:
    async def main() -> None:
        async with Simulation(pool(workers=6, spares=2)) as sim:
            jobs = [await sim.submit(Script()) for _ in range(8)]
            sim.world.spawners[0].zygote_dies(signal=11)
            await sim.ended(*jobs)
            assert [job.state for job in jobs] == ["completed"] * 8

    run(main())


def test_a_job_is_never_given_to_an_idle_worker_that_has_just_died() -> None:
    async def main(sim: Simulation) -> None:
        for process in sim.world.alive():
            process.kill_from_outside()
        await asyncio.sleep(0.001)  # the exit is seen, the reap is not
        jobs = [await sim.submit(Script(sweep_s=0.5)) for _ in range(3)]
        await sim.ended(*jobs)
        assert {job.code for job in jobs} <= {None, "killed_externally"}

    simulate(main, pool(workers=3, spares=3))


@pytest.mark.parametrize("seed", range(16))
def test_a_worker_whose_last_word_is_read_behind_its_exit_is_not_used_again(seed: int) -> None:
    """It had said that it can go on, and was killed. Before the exit it may have been given the next job, with which it
    dies; behind it, it would be given one in the middle of its own end.
    """

    async def main(sim: Simulation) -> None:
        first, following = [await sim.submit(Script(run_s=0.1)) for _ in range(2)]
        while "started" not in first.names or sim.truth(first).closing is None:
            await asyncio.sleep(0.00001)
        sim.world.alive()[0].kill_from_outside()
        await sim.ended(first, following)
        assert following.code in (None, "killed_externally")

    simulate(main, pool(spares=0, jobs_per_worker_max=0), seed=seed)


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("jobs_per_worker_max", [0, 1])
@pytest.mark.parametrize("fault", ["fork_fails", "fork_raises", "dies_at_start", "broken_at_start"])
def test_a_pool_that_cannot_start_workers_says_so_and_recovers(
    fault: str, jobs_per_worker_max: int, spares: int
) -> None:
    """Its jobs wait as long as they want to; but no code that cannot be loaded is waited for."""

    async def main(sim: Simulation) -> None:
        await sim.ended(await sim.submit(Script()))
        sim.world.faults = Faults(**{fault: 1.0})
        for process in sim.world.alive():
            process.kill_from_outside()
        await asyncio.sleep(LATENCY_S)
        jobs = [await sim.submit(Script()) for _ in range(3)]
        hurried = await sim.submit(Script(), limits={"queue_s": 5.0})
        await sim.ended(hurried)
        of_code = fault == "broken_at_start"
        assert hurried.code == ("spawn" if of_code else "timeout.queue")
        assert [job.code for job in jobs] == ["spawn" if of_code else None] * 3
        assert (await sim.supervisor.ready()) == (False, [f"pool a is {'broken' if of_code else 'restarting'}"])
        sim.world.faults = Faults()
        await asyncio.sleep(10)
        last = await sim.submit(Script())
        await sim.ended(*jobs, last)
        assert [job.state for job in jobs] == ["failed" if of_code else "completed"] * 3
        assert last.state == "completed" and (await sim.supervisor.ready()) == (True, [])

    simulate(main, pool(spares=spares, jobs_per_worker_max=jobs_per_worker_max))


@pytest.mark.parametrize("fault", ["fork_fails", "fork_raises"])
@pytest.mark.parametrize("squeeze_s", [0.01, 2.0])
def test_a_machine_without_a_process_to_spare_for_a_moment_fails_no_job(fault: str, squeeze_s: float) -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(Script(run_s=0.1)) for _ in range(40)]
        await asyncio.sleep(0.15)
        sim.world.faults = Faults(**{fault: 1.0})
        await asyncio.sleep(squeeze_s)
        sim.world.faults = Faults()
        await sim.ended(*jobs)
        assert [job.state for job in jobs] == ["completed"] * 40

    simulate(main, pool(workers=2))


def test_a_pool_that_fails_for_hours_comes_back_when_it_can() -> None:
    async def main(sim: Simulation) -> None:
        sim.world.faults = Faults(fork_fails=1.0)
        for process in sim.world.alive():
            process.kill_from_outside()
        await asyncio.sleep(3 * 3600)
        sim.world.faults = Faults()
        await asyncio.sleep(10)
        job = await sim.submit(Script())
        await sim.ended(job)
        assert job.state == "completed"

    simulate(main)


def test_a_close_whose_caller_is_cancelled_goes_on_for_the_next_one() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, cleanup_s=1.0))
        await asyncio.sleep(0.1)
        first = asyncio.create_task(sim.supervisor.close())
        await asyncio.sleep(0.1)
        first.cancel()
        async with asyncio.timeout(60):
            await sim.supervisor.close()
        assert job.code == "cancelled"

    simulate(main)


def test_a_pool_whose_spares_cannot_be_forked_still_uses_the_workers_that_it_has() -> None:
    async def main(sim: Simulation) -> None:
        running = [await sim.submit(Script(run_s=1.0)) for _ in range(2)]
        await asyncio.sleep(0.1)
        sim.world.faults = Faults(fork_fails=1.0)
        for process in sim.world.alive():
            if process.processor_use() == ProcessorUse(0.0, 0.0, 1):
                process.kill_from_outside()
        await sim.ended(*running)
        await asyncio.sleep(20)
        later = await sim.submit(Script())
        await sim.ended(later)
        assert later.state == "completed", later.end

    simulate(main, pool(workers=2, jobs_per_worker_max=0))


def test_modules_that_do_not_import_break_the_pool() -> None:
    async def main(sim: Simulation) -> None:
        (record,) = await sim.supervisor.pools()
        assert record.state == "broken" and "no such module" in record.detail
        assert (await refusal(sim.submit(Script()))).code == "unknown_job_type"
        sim.world.scripts.clear()
        await asyncio.sleep(100)
        assert len([line for line in sim.world.trace if " zygote " in line]) == 2  # started once, died once

    simulate(main, faults=Faults(preload_fails=True))


def test_a_pool_whose_zygote_cannot_be_started_again_tries_until_it_can() -> None:
    async def main(sim: Simulation) -> None:
        sim.world.faults = Faults(start_raises=1.0)
        sim.world.spawners[0].zygote_dies(signal=9)
        await asyncio.sleep(LASTING.poll_s + 1)  # a head has been told by then
        (record,) = await sim.supervisor.pools()
        assert record.state == "restarting" and "no process for the zygote" in record.detail
        waiting = await sim.submit(Script())
        await asyncio.sleep(10)
        assert waiting.code is None
        sim.world.faults = Faults()
        await asyncio.sleep(10)
        job = await sim.submit(Script())
        await sim.ended(job)
        assert job.state == "completed" and (await sim.supervisor.ready()) == (True, [])
        (record,) = await sim.supervisor.pools()
        assert (record.state, record.detail) == ("ready", ""), "a fault that is over is not told"

    simulate(main)


@ON_BOTH
def test_a_preload_that_leaves_threads_makes_the_workers_exec(engine: str) -> None:
    async def main(sim: Simulation) -> None:
        (record,) = await sim.supervisor.pools()
        assert (record.start_method, record.state, record.zygote_restarts) == ("spawn", "ready", 0)
        assert "3 threads" in record.detail
        job = await sim.submit(Script())
        await sim.ended(job)
        assert job.state == "completed"

    simulate(main, faults=Faults(preload_threads=3), engine=engine)


@pytest.mark.parametrize("spares", [0, 1])
def test_the_start_of_a_worker_is_prepared_from_the_kill_on_if_no_other_one_is_idle(spares: int) -> None:
    """The next job would wait for it. Nothing is forked before the old tree is gone."""

    async def main(sim: Simulation) -> None:
        job, following = await sim.submit(FOREVER), await sim.submit(Script())
        await asyncio.sleep(0.1)
        sim.cancel(job, grace_s=0.0)
        await sim.ended(job, following)
        trace = [line.partition(" ")[2] for line in sim.world.trace]
        if spares:
            assert not [words for words in trace if words.endswith("prepared")]
            return
        steps = ["w-1 SIGKILL", "w-2 prepared", "w-1 gone", "w-2 fork"]
        assert list(dict.fromkeys(words for words in trace if words in steps)) == steps

    simulate(main, pool(spares=spares))


def test_no_worker_is_used_before_its_pidfd_is_here() -> None:
    async def main() -> None:
        async with Simulation(pool(workers=4, spares=0), faults=Faults(fork_report_s=0.05)) as sim:
            jobs = [await sim.submit(FOREVER) for _ in range(4)]
            for _ in range(60):
                await asyncio.sleep(0.001)
                workers = [worker for each in with_workers(sim.supervisor) for worker in await each.workers()]
                assert [worker for worker in workers if worker.job_id is not None and worker.pid is None] == []
                for job in jobs:
                    if sim.record(job).state == "running":
                        # A head gives a job its slot at once; which worker that is, its node tells.
                        assert sim.record(job).pid is not None or ENGINE == "cluster"
                        sim.cancel(job)
            await sim.ended(*jobs)

    run(main())


@pytest.mark.row("G3")
def test_killing_a_worker_cancels_its_job_and_another_takes_its_place() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF)
        await asyncio.sleep(0.1)
        workers = {worker.worker_id: worker for worker in await sim.supervisor.workers()}
        busy = next(worker for worker in workers.values() if worker.job_id == job.id)
        idle = next(worker for worker in workers.values() if worker.state == "idle")
        sim.world.shortened(job.number, sim.loop.time())
        await sim.supervisor.kill_worker(busy.worker_id, reason="in the way")
        assert (await sim.supervisor.kill_worker(idle.worker_id)).state == "gone"
        await sim.ended(job)
        certificate = job.certificate
        assert (job.state, certificate["by"], certificate["reason"]) == ("cancelled", "operator", "in the way")
        await asyncio.sleep(1)
        now = await sim.supervisor.workers()
        assert [worker.state for worker in now] == ["idle"] and now[0].worker_id not in workers
        assert (await refusal(sim.supervisor.kill_worker("w-999"))).code == "unknown_worker"

    simulate(main)


@pytest.mark.row("D24")
@ON_BOTH
@pytest.mark.parametrize(("jobs_per_worker_max", "recoveries"), [(1, 3), (0, 0)])
def test_a_recovery_is_a_worker_in_place_of_one_that_has_gone(
    jobs_per_worker_max: int, recoveries: int, engine: str
) -> None:
    async def main(sim: Simulation) -> None:
        for _ in range(3):
            await sim.ended(await sim.submit(Script()))
        await asyncio.sleep(1)
        assert sim.observed()["recovery"] == recoveries

    simulate(main, pool(jobs_per_worker_max=jobs_per_worker_max), engine=engine)


def test_the_next_spare_is_forked_once_a_trivial_job_has_told_its_token() -> None:
    """The fork would take the processor of who reads it. A job that waits for a worker has one forked at once."""

    async def main(sim: Simulation) -> None:
        def forks() -> list[float]:
            return [float(line.split()[0]) for line in sim.world.trace if line.endswith(" fork")]

        before = len(forks())
        submitted = sim.world.now()
        await sim.submit(Script(run_s=NEVER))
        await asyncio.sleep(1)
        (refill,) = forks()[before:]
        assert refill - submitted == pytest.approx(REFILL_S, abs=LATENCY_S / 2)
        submitted = sim.world.now()
        for _ in range(2):  # the second one finds no worker
            await sim.submit(Script(run_s=NEVER))
        await asyncio.sleep(LATENCY_S / 2)
        assert len(forks()) == before + 2

    simulate(main, pool(workers=3))
