"""What a worker says: nonsense, late words, too many, and its last."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_world import Script

from sim.scenario_helpers import simulate
from sim.simulation import Simulation, pool


@pytest.mark.parametrize("end", ["garbage", "gap", "enters twice", "closes twice"])
def test_nonsense_ends_the_job_at_once_and_only_that_job(end: str) -> None:
    async def main(sim: Simulation) -> None:
        job, other = await sim.submit(Script(end=end, tokens=2)), await sim.submit(Script(run_s=1.0, tokens=2))
        await sim.ended(job, other)
        assert job.code == "protocol" and job.certificate["kill_sent"] == 0
        assert job.names == ["started", "token", "token", "failed"]
        assert other.state == "completed"

    simulate(main, pool(workers=2))


@pytest.mark.row("B18")
def test_a_late_frame_of_another_attempt_is_no_event_of_this_one() -> None:
    async def main(sim: Simulation) -> None:
        for _ in range(3):
            job = await sim.submit(Script(late_frame=True, tokens=2))
            await sim.ended(job)
            assert job.names == ["started", "token", "token", "completed"]
            assert [event.data for event in job.events[1:3]] == [b'{"text":"0"}', b'{"text":"1"}']

    simulate(main, pool(jobs_per_worker_max=0))


@pytest.mark.row("B19")
def test_output_over_its_bound_stops_the_job_and_an_exact_prefix_stays() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=1.0, tokens=50), limits={"output_bytes": 120})
        await sim.ended(job)
        assert job.code == "limit.output"
        assert [event.data for event in job.events[1:-1]] == [b'{"text":"%d"}' % number for number in range(10)]

    simulate(main)


@pytest.mark.row("B4")
@pytest.mark.row("D20")
@pytest.mark.parametrize(
    ("script", "code", "facts"),
    [
        (Script(end="dies", signal=11), "crash", {"signal": "SIGSEGV", "core_dumped": True}),
        (Script(end="dies", signal=6), "crash", {"signal": "SIGABRT", "core_dumped": False}),
        (Script(end="dies", signal=9), "killed_externally", {"signal": "SIGKILL", "oom": "unknown"}),
        (Script(end="exits", exit_code=3), "exit", {"exit_code": 3}),
        (Script(end="exits", exit_code=0), "exit", {"exit_code": 0}),
        (Script(end="torn"), "protocol", {"exit_code": 0}),
        (Script(end="raises"), "exception", {"type": "ValueError"}),
        (Script(enters=False, end="exits", exit_code=71), "spawn", {"exit_code": 71}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crash_is_told_as_what_it_was(script: Script, code: str, facts: dict[str, Any]) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(script)
        await sim.ended(job)
        error = job.end["error"]
        assert error["code"] == code and {name: error[name] for name in facts} == facts
        assert "requested" not in job.certificate and "cause" not in job.certificate

    simulate(main)
