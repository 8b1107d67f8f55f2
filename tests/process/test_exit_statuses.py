"""Every exit code and every signal, through real processes: what the job did is what the record says."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from support.supervising import StartSupervisor
from trials import Story, hostile_pool, run

from killable.supervisor.service import Supervisor

AT_ONCE = 8

STOPS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
"""Ignored by default, signal(7)."""
OURS = {signal.SIGTERM, signal.SIGRTMIN + 6}
"""A doorbell, which is not heard without an order, and the one that makes faulthandler write the stacks."""
AS_IN_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
"""Ignored in every Python program."""
ASK_TO_END = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL}


async def run_all(server: Supervisor, type: str, member: str, numbers: list[int]) -> list[Story]:
    """Run a job per number, some at once."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Story:
        async with turns:
            input: dict[str, Any] = {member: number}
            return await run(server, type, **input)

    return await asyncio.gather(*map(one, numbers))


@pytest.mark.row("B4")
@pytest.mark.row("D20")
async def test_every_exit_code_is_reported_as_it_is(proof: str, supervisor: StartSupervisor) -> None:
    """Also those that mean something between our own processes, and 0: the job function had been entered."""
    server = await supervisor(hostile_pool(workers=4, spares=2), proof=proof)
    stories = await run_all(server, "exits", "code", list(range(256)))
    for code, story in enumerate(stories):
        assert (story.code, story.error["exit_code"], story.certificate["exit_code"]) == ("exit", code, code)
        assert story.plot == ["started", "failed"] and story.end["result"] is None
    assert len({story.pid for story in stories}) == 256


async def test_every_code_of_sys_exit_is_reported_as_it_is(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, jobs_per_worker_max=0))
    codes = [0, 1, 2, 64, 65, 70, 71, 74, 76, 78, 137, 143, 255, 256, -1]
    stories = await run_all(server, "raises_system_exit", "code", codes)
    for code, story in zip(codes, stories, strict=True):
        assert (story.code, story.error["exit_code"]) == ("exit", code & 0xFF), code


@pytest.mark.code("crash", "killed_externally")
@pytest.mark.row("B4")
async def test_every_signal_is_reported_as_it_is(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, spares=2), proof=proof)
    numbers = sorted(set(signal.valid_signals()) - STOPS)
    stories = await run_all(server, "dies_of", "number", [int(number) for number in numbers])
    for number, story in zip(numbers, stories, strict=True):
        if number in HARMLESS | OURS | AS_IN_PYTHON:
            assert (story.state, story.end["result"]) == ("completed", "alive"), number
            continue
        name = number.name if isinstance(number, signal.Signals) else f"SIG{int(number)}"
        assert story.certificate["exit_signal"] == name or int(number) > 31, number
        match number:
            case _ if number in ASK_TO_END:
                assert (story.code, story.error["signal"]) == ("killed_externally", name)
                assert story.error["retryable"] and story.error["oom"] in ("no", "unknown")
            case _:
                assert story.code == "crash", number
        assert "exit_code" not in story.certificate and story.plot == ["started", "failed"]
        # We sent none of these.
        assert "last_signal" not in story.certificate and "by" not in story.error
