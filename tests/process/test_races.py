"""A cancel against a job that is about to finish: one outcome each, and nobody else is hit."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from job_runs import Story, follow, hostile_pool, run, submit
from support.certificate_checks import was_killed
from support.supervisor_fixture import CGROUP_PROOF, StartSupervisor

from killable.supervisor.records import JobRecord
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused

LENGTH_S = 0.06
"""How long a job works: long against what a cancel takes and a late timer, so that the delay decides."""
LONGER = 1.5
"""By this it works longer after a cancel that came at once and lost: on a machine so busy, or a head's way so long,
that no delay decides.
"""
AT_ONCE = 4
STEP = 0.1
"""Lengths by which the next cancel comes later after one that won, sooner after one that did not."""


@dataclass
class Race:
    """One job, cancelled so long after it began."""

    delay: float
    """In lengths of the job."""
    story: Story
    refused: bool

    @property
    def cancelled(self) -> bool:
        return self.story.state == "cancelled"


async def began_at(server: Supervisor, job_id: str) -> float:
    """Wait until a job has begun; return its own word of when."""
    async for batch in server.events(job_id):
        for event in batch:
            if event.name == "token":
                return float(json.loads(event.data)["value"])
    raise AssertionError("it never began")


async def race(server: Supervisor, delay: float, length_s: float) -> Race:
    job_id = await submit(server, "works", s=length_s, limits={"grace_s": 30, "ack_s": None})
    following = asyncio.create_task(follow(server, job_id))
    began = await began_at(server, job_id)
    loop = asyncio.get_running_loop()
    due = asyncio.Event()
    loop.call_at(began + delay * length_s, due.set)  # its clock is the loop's: CLOCK_MONOTONIC
    await due.wait()
    refused = False
    try:
        await server.cancel(job_id)
    except Refused as error:
        assert error.code == "already_ended" and error.record.state == "completed"
        refused = True
    story = await following
    assert refused == (story.state == "completed"), "the answer of the cancel is what the record says"
    return Race(delay, story, refused)


async def races(server: Supervisor, count: int, seed: int) -> list[Race]:
    """Run so many races beside innocent jobs. The delays, spread over 2 lengths, are moved to where either may win:
    on a busy machine a cancel comes late.
    """
    print(f"seed {seed}")
    spread = [2 * number / count for number in range(count)]
    random.Random(seed).shuffle(spread)
    moved, length_s = 0.0, LENGTH_S
    turns = asyncio.Semaphore(AT_ONCE)
    innocent: list[JobRecord] = []
    done = asyncio.Event()

    async def one(delay: float) -> Race:
        nonlocal moved, length_s
        async with turns:
            ran = await race(server, max(0.0, delay + moved), length_s)
            if ran.delay == 0 and not ran.cancelled:
                length_s *= LONGER
            moved += STEP if ran.cancelled else -STEP
            return ran

    async def go_on() -> None:
        while not done.is_set():
            innocent.append(await server.wait(await submit(server, "works", s=LENGTH_S / 4)))

    others = asyncio.create_task(go_on())
    ended = await asyncio.gather(*map(one, spread))
    done.set()
    await others
    assert len(innocent) > count / 10
    assert {record.state for record in innocent} == {"completed"}
    return ended


def check(ended: list[Race], count: int, seed: int) -> None:
    outcomes = Counter(race.story.state for race in ended)
    said = f"{outcomes}, seed {seed}"
    assert set(outcomes) == {"completed", "cancelled"} and outcomes.total() == count, said
    assert min(outcomes.values()) >= 0.15 * count, said
    # A worker that was signalled is never given another job, whatever became of the one that it had.
    signalled = {race.story.pid: race for race in ended if "term_sent" in race.story.phases}
    for race in ended:
        other = signalled.get(race.story.pid)
        assert other is None or other is race or _began(other) >= _began(race), (other, race)
    for race in ended:
        result = race.story.end["result"]
        assert (result is None) if race.cancelled else (result == "worked")
        assert race.cancelled or race.story.error is None


def _began(race: Race) -> str:
    started: str = json.loads(race.story.events[0].data)["started_at"]
    return started


@pytest.mark.row("PEERS-2", "H10")
@pytest.mark.row("B5")
@pytest.mark.row("D10")
@pytest.mark.parametrize(  # the soak below has each with both proofs
    ("jobs_per_worker_max", "proof"), [(1, CGROUP_PROOF), (0, "descendants")], ids=["fresh-cgroup", "reused"]
)
async def test_a_cancel_that_races_the_end_has_one_outcome(
    jobs_per_worker_max: int, proof: str, supervisor: StartSupervisor
) -> None:
    count, seed = 100, random.randrange(1 << 30)
    pool = hostile_pool(workers=AT_ONCE + 1, spares=3, jobs_per_worker_max=jobs_per_worker_max)
    server = await supervisor(pool, proof=proof, keep_jobs=100_000)
    check(await races(server, count, seed), count, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("jobs_per_worker_max", [1, 0], ids=["fresh", "reused"])
async def test_ten_thousand_cancels_that_race_the_end(
    jobs_per_worker_max: int, proof: str, supervisor: StartSupervisor
) -> None:
    """A quarter of them each time."""
    count, seed = 2500, random.randrange(1 << 30)
    pool = hostile_pool(workers=AT_ONCE + 1, spares=3, jobs_per_worker_max=jobs_per_worker_max)
    server = await supervisor(pool, proof=proof, keep_jobs=100_000)
    check(await races(server, count, seed), count, seed)


@pytest.mark.row("D9")
async def test_a_cancel_at_any_moment_of_the_beginning(proof: str, supervisor: StartSupervisor) -> None:
    """Right after the submission, or so many turns of the event loop later: queued, starting, or entered."""
    server = await supervisor(hostile_pool(workers=2, spares=1), proof=proof, keep_jobs=1000)
    for turns in range(60):
        job_id = await submit(server, "loop_python", limits={"grace_s": 30, "ack_s": None})
        for _ in range(turns // 3):
            await asyncio.sleep(0)
        cancelling = asyncio.create_task(server.cancel(job_id))
        story = await follow(server, job_id)
        assert (await cancelling).state == story.state == "cancelled"
        assert not was_killed(story.certificate)
    assert (await run(server, "echoes")).state == "completed"
