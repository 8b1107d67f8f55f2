"""Cancelling: who asks, how often, and when."""

from __future__ import annotations

import asyncio
import logging

import pytest
from support.fake_world import NEVER, Script

from killable.supervisor.models import PHASES
from killable.supervisor.telemetry.job_log import logger
from sim.scenario_helpers import DEAF, FOREVER, near, refusal, simulate
from sim.simulation import LIMITS, Simulation, pool


@pytest.mark.row("D6")
@pytest.mark.parametrize("callers", [1, 2, 3])
def test_a_cancel_whose_callers_go_away_still_ends_in_sigkill(callers: int) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF)
        await asyncio.sleep(1)
        for _ in range(callers):
            sim.cancel(job, wait_s=60)
            await asyncio.sleep(0.1)
        for caller in list(sim.callers):
            sim.cancel_caller(caller)
        await asyncio.sleep(0.01)
        assert all(task.done() for task in sim.readers[1:])
        assert sim.record(job).state == "stopping"
        await sim.ended(job)
        truth = sim.truth(job)
        assert near(truth.kill_at, truth.term_at + LIMITS["grace_s"])
        assert job.state == "cancelled"

    simulate(main)


@pytest.mark.row("D4")
def test_a_second_cancel_shortens_the_grace_and_never_lengthens_it() -> None:
    async def main(sim: Simulation) -> None:
        hurried, patient, killed = [await sim.submit(DEAF) for _ in range(3)]
        await asyncio.sleep(1)
        began = sim.loop.time()
        for job in (hurried, patient, killed):
            sim.cancel(job)
        await asyncio.sleep(0.5)
        sim.cancel(hurried, grace_s=0.25)
        sim.cancel(patient, grace_s=30.0)
        sim.cancel(killed, grace_s=0.0)
        await sim.ended(hurried, patient, killed)
        assert near(sim.truth(hurried).kill_at, began + 0.75)
        assert near(sim.truth(patient).kill_at, began + LIMITS["grace_s"])
        assert near(sim.truth(killed).kill_at, began + 0.5)
        assert [job.certificate["grace_s"] for job in (hurried, patient, killed)] == [0.25, LIMITS["grace_s"], 0]

    simulate(main, pool(workers=3))


@pytest.mark.row("D9")
def test_a_queued_job_that_is_cancelled_is_never_given_to_a_worker() -> None:
    async def main(sim: Simulation) -> None:
        running = await sim.submit(FOREVER)
        queued = [await sim.submit(Script()) for _ in range(3)]
        for job in queued:
            sim.cancel(job)
        await sim.ended(*queued)
        sim.cancel(running)
        await sim.ended(running)
        await asyncio.sleep(5)
        for job in queued:
            assert job.names == ["cancelled"]
            assert job.number not in sim.world.truths
            assert job.certificate["cause"] == "cancelled" and not set(PHASES) & set(job.certificate)

    simulate(main)


@pytest.mark.row("D10")
@pytest.mark.row("A11")
def test_an_ended_job_cannot_be_cancelled_and_an_unknown_one_is_unknown() -> None:
    async def main(sim: Simulation) -> None:
        completed, failed = await sim.submit(Script()), await sim.submit(Script(end="raises"))
        await sim.ended(completed, failed)
        for job in (completed, failed):
            before = sim.record(job)
            error = await refusal(sim.supervisor.cancel(job.id))
            assert error.code == "already_ended" and error.record == before == sim.record(job)
        assert (await refusal(sim.supervisor.cancel("job-that-never-was"))).code == "unknown_job"

    simulate(main, pool(workers=2))


@pytest.mark.row("H10")
@pytest.mark.row("A12")
def test_cancelling_again_is_harmless_and_answers_the_same() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(sim.supervisor.cancel(job.id) for _ in range(5)))
        await asyncio.sleep(1)
        answers += [await sim.supervisor.cancel(job.id) for _ in range(3)]
        assert {answer.state for answer in answers} == {"cancelled"}
        assert answers[-1] == answers[-2] == sim.record(job)
        assert len([line for line in sim.world.trace if line.endswith("SIGTERM")]) == 1

    simulate(main)


def test_nothing_is_killed_that_has_exited_however_long_its_tree_takes() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, sweep_s=1.0, children=3))
        await asyncio.sleep(0.1)
        sim.cancel(job)
        await asyncio.sleep(0.01)
        assert sim.truth(job).exited_at is not None and sim.truth(job).reaped_at is None
        sim.cancel(job, grace_s=0.0)
        await sim.ended(job)
        assert sim.truth(job).kill_at is None
        assert job.state == "cancelled" and job.certificate["last_signal"] == "SIGTERM"
        assert job.certificate["processes_swept"] == 3

    simulate(main)


@pytest.mark.row("B5")
@pytest.mark.parametrize("jobs_per_worker_max", [0, 1], ids=["reused", "fresh"])
def test_a_cancel_that_races_the_end_gives_one_outcome(jobs_per_worker_max: int) -> None:
    length_s = 0.02
    outcomes: list[str] = []

    async def main(sim: Simulation) -> None:
        for step in range(101):
            job = await sim.submit(Script(run_s=length_s - 0.001, tokens=2))
            await asyncio.sleep(2 * length_s * step / 100)
            sim.cancel(job)
            await sim.ended(job)
            await asyncio.sleep(0.05)
            outcomes.append(job.state)

    simulate(main, pool(jobs_per_worker_max=jobs_per_worker_max))
    assert {outcome: outcomes.count(outcome) >= 15 for outcome in outcomes} == {"cancelled": True, "completed": True}


def test_what_a_job_returns_in_its_grace_is_kept_as_partial() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, cleanup_s=0.5, cleanup_tokens=2, cleanup_returns=True))
        await asyncio.sleep(0.1)
        sim.cancel(job)
        await sim.ended(job)
        assert job.state == "cancelled" and job.end["result"] is None
        assert job.end["partial"] == "cleaned" and sim.record(job).partial == b'"cleaned"'
        assert job.names == ["started", "token", "token", "cancelled"]
        assert sim.truth(job).kill_at is None and "kill_sent" not in job.certificate

    simulate(main)


@pytest.mark.row("D11")
def test_the_last_reader_leaving_cancels_a_job_that_asked_for_it() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, stop_when_client_leaves=True)
        other = await sim.submit(FOREVER)
        for each in (job, job, other):
            await sim.supervisor.reader_came(each.id)
        await sim.supervisor.reader_left(job.id)
        await sim.supervisor.reader_left(other.id)
        await asyncio.sleep(1)
        assert sim.record(job).state == "running"
        await sim.supervisor.reader_left(job.id)
        await sim.ended(job)
        assert job.code == "cancelled" and job.certificate["by"] == "client_gone"
        assert sim.record(other).state == "running"

    simulate(main, pool(workers=2))


@pytest.mark.row("F8")
@pytest.mark.parametrize("grace_s", [None, 0.0])
def test_a_signal_is_told_when_it_has_been_sent(grace_s: float | None) -> None:
    """Its log record is written behind it: before, it would be in the way of the kill."""

    async def main(sim: Simulation) -> None:
        def note(record: logging.LogRecord) -> bool:
            sim.world.note("log", record.getMessage())
            return True

        job = await sim.submit(DEAF)
        await asyncio.sleep(1)
        logger.addFilter(note)
        level = logger.level
        logger.setLevel(logging.INFO)
        logging.disable(logging.NOTSET)
        try:
            sim.cancel(job, grace_s)
            await sim.ended(job)
        finally:
            logger.removeFilter(note)
            logger.setLevel(level)
        words = [line.split()[-1] for line in sim.world.trace]
        told = [word for word in words if word.endswith("_sent")]
        assert told == (["term_sent"] if grace_s is None else []) + ["kill_sent"]
        signals = {"term_sent": "SIGTERM", "kill_sent": "SIGKILL"}
        assert [word for word in told if signals[word] not in words[: words.index(word)]] == [], words

    simulate(main)
