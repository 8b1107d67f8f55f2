"""The escalation as a process meets it: who keeps its grace, who does not, who is dumped."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest
from support.fake_world import NEVER, Script

from killable.supervisor.attempts.escalation import DUMP_LEAD_S, RESEND_S
from sim.scenario_helpers import DEAF, FOREVER, NATIVE, near, simulate
from sim.simulation import LIMITS, Simulation


def test_native_code_that_cannot_hear_is_killed_before_its_grace_is_over() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(NATIVE)
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.delivered_at is not None and truth.acknowledged_at is None
        assert near(truth.kill_at, truth.delivered_at + 0.5) and LIMITS["grace_s"] > 0.5
        assert "ack_s" in job.certificate["early_kill"]
        assert "native" in job.certificate["stack"]
        assert job.state == "cancelled"

    simulate(main)


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        (DEAF, {}),
        (NATIVE, {"ack_s": None}),
        (NATIVE, {"ack_s": 2.0}),
        (Script(run_s=NEVER, acknowledge_s=NEVER, delivery_shows=False), {}),
        (Script(run_s=NEVER, replaces=True, cleanup_s=NEVER), {}),
    ],
    ids=["starved", "ack_s none", "ack_s is the grace", "no delivery byte", "a handler of its own"],
)
def test_what_may_still_hear_keeps_its_whole_grace(script: Script, limits: dict[str, Any]) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(script, limits=limits)
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.term_at is not None
        assert near(truth.kill_at, truth.term_at + LIMITS["grace_s"])
        assert "early_kill" not in job.certificate

    simulate(main)


def test_a_job_that_cleans_up_is_killed_when_its_grace_is_over_and_is_never_dumped() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, cleanup_s=NEVER))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.dump_at is None and truth.term_at is not None
        assert near(truth.kill_at, truth.term_at + LIMITS["grace_s"])
        assert "python" in job.certificate["stack"]

    simulate(main)


def test_a_swallowed_stop_is_rung_again_and_not_at_once() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, swallows=3, cleanup_s=0.1))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        rung = [float(line.split()[0]) for line in sim.world.trace if line.endswith("SIGTERM")]
        assert len(rung) == 4
        assert all(later - sooner >= RESEND_S for sooner, later in itertools.pairwise(rung))
        assert sim.truth(job).kill_at is None and job.state == "cancelled"

    simulate(main)


@pytest.mark.parametrize("dump_s", [0.004, DUMP_LEAD_S - 0.01, DUMP_LEAD_S + 0.01, NEVER])
@pytest.mark.parametrize("script", [NATIVE, DEAF], ids=["stuck", "grace over"])
def test_a_stack_is_asked_for_before_sigkill_and_never_waited_for(dump_s: float, script: Script) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(replace(script, dump_s=dump_s))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        due = truth.delivered_at + 0.5 if script is NATIVE else truth.term_at + LIMITS["grace_s"]
        assert near(truth.dump_at, due - DUMP_LEAD_S)
        assert near(truth.kill_at, due)
        assert ("stack" in job.certificate) == (dump_s < DUMP_LEAD_S)

    simulate(main)


@pytest.mark.parametrize("cleanup_s", [0.1, NEVER])
def test_one_that_reacts_after_it_was_asked_for_its_stack_keeps_its_grace(cleanup_s: float) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(replace(NATIVE, acknowledge_s=0.45, cleanup_s=cleanup_s))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.dump_at is not None and truth.dump_at < truth.acknowledged_at
        if cleanup_s == NEVER:
            assert near(truth.kill_at, truth.term_at + LIMITS["grace_s"])
        else:
            assert truth.kill_at is None
        assert "python" in job.certificate["stack"] and "early_kill" not in job.certificate

    simulate(main)


def test_no_grace_is_sigkill_at_once() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        await asyncio.sleep(1)
        sim.cancel(job, grace_s=0.0)
        await sim.ended(job)
        assert sim.truth(job).term_at is None and sim.truth(job).dump_at is None
        assert job.certificate["kill_sent"] == 0 and "term_sent" not in job.certificate

    simulate(main)
