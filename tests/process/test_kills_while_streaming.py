"""SIGKILL from outside at any moment while a job streams: what is stored is an exact prefix, without a gap."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter

import pytest
from job_runs import Story, follow, hostile_pool, submit, wait_for_tokens
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.supervisor import Supervisor

AT_ONCE = 2
WIDTHS = (1, 700, 5_000)
"""Many tokens in one read; several; one in more than a pipe takes at once."""


async def killed(server: Supervisor, width: int, after: int, turns: int) -> Story:
    """Kill a job that has been read so many tokens of, so many turns of the event loop later."""
    job_id = await submit(server, "counts_for_ever", width=width)
    seen = await wait_for_tokens(server, job_id, after)
    for _ in range(turns):
        await asyncio.sleep(0)
    record = await server.get(job_id)
    assert record.pid is not None
    os.kill(record.pid, signal.SIGKILL)  # it is ours until its terminal event: nobody reaps it before
    story = await follow(server, job_id)
    assert story.tokens[: len(seen)] == seen
    stored = [event async for batch in server.events(job_id) for event in batch]
    assert stored == story.events, "whoever comes later reads what was read along"
    return story


def check(story: Story, width: int) -> None:
    assert story.code == "killed_externally" and story.error["signal"] == "SIGKILL", story.error
    assert [int(token) for token in story.tokens] == list(range(len(story.tokens)))
    assert all(len(token) == max(width, len(token.strip())) for token in story.tokens), "each one whole"
    assert story.certificate["tokens"] == len(story.tokens)
    assert story.certificate["last_sequence"] == len(story.events) - 2  # the terminal event is none of the job's


async def kills(server: Supervisor, count: int, seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> int:
        width = WIDTHS[number % len(WIDTHS)]  # by turns: of wide tokens most kills leave what a pipe takes
        after, later = int(2 ** dice.uniform(0, 11)), dice.randrange(40)
        async with turns:
            story = await killed(server, width, max(1, after // width), later)
        check(story, width)
        return len(story.tokens)

    tokens = await asyncio.gather(*map(one, range(count)))
    assert len(Counter(tokens)) > count / 4, f"they were killed at different moments; seed {seed}"


@pytest.mark.row("PEERS-H")
async def test_a_job_that_is_killed_while_it_streams_leaves_an_exact_prefix(
    proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(workers=AT_ONCE, spares=2), proof=proof, keep_jobs=50)
    await kills(server, 20, random.randrange(1 << 30))


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_two_thousand_kills_while_streaming(proof: str, supervisor: StartSupervisor) -> None:
    """Half of them with each proof."""
    server = await supervisor(hostile_pool(workers=AT_ONCE, spares=2), proof=proof, keep_jobs=50)
    await kills(server, 1000, random.randrange(1 << 30))
