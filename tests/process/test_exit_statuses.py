"""Every exit code and every signal, through real processes: what the job did is what the record says."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from job_runs import FORKED_OR_EXECED, Story, hostile_pool, run, stop, submit, wait_until_computing
from support.certificate_checks import was_late_to_leave
from support.hostile_job_table import STOPPED
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.supervisor import Supervisor
from killable.workers.exit_codes import ExitCode

AT_ONCE = 8

ORPHANS_DISCARD = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""The stops of a terminal: a worker leads a session of its own, so its process group is orphaned, and the kernel drops
them there (POSIX, 2.4.3). SIGSTOP stops any process, and it then ends in no way of its own: it, and these where a job
has seen to it that they stop it, are in the table of hostile jobs.
"""
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
"""Ignored by default, signal(7)."""
OURS = {signal.SIGTERM, signal.SIGRTMIN + 6}
"""SIGTERM, which does nothing without an order, and the signal that makes faulthandler write the stacks."""
AS_IN_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
"""Ignored in every Python program."""
SURVIVED = ORPHANS_DISCARD | HARMLESS | OURS | AS_IN_PYTHON
ASK_TO_END = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL}

EVERY_CODE = ("fork", "descendants")
"""The kind of worker with which every code is tried: what becomes of a code is decided by its number alone, from
wait4(2) on, which is the zygote's either way.
"""
CODES_WITH_A_MEANING = sorted({*ExitCode, 0, 1, 2, 126, 127, 128, *(128 + n for n in (1, 2, 6, 9, 11, 15)), 254, 255})
"""To us or to a shell, and the bounds."""
CODES_OF_OURS = sorted({*ExitCode, 0, 255})
"""Where each is a new interpreter."""


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
@FORKED_OR_EXECED
async def test_every_exit_code_is_reported_as_it_is(start_method: str, proof: str, supervisor: StartSupervisor) -> None:
    """Also those that mean something between our own processes, and 0: the job function had been entered."""
    server = await supervisor(hostile_pool(workers=4, spares=2, start_method=start_method), proof=proof)
    elsewhere = CODES_OF_OURS if start_method == "spawn" else CODES_WITH_A_MEANING
    codes = list(range(256)) if (start_method, proof) == EVERY_CODE else elsewhere
    stories = await run_all(server, "exits", "code", codes)
    for code, story in zip(codes, stories, strict=True):
        assert (story.code, story.error["exit_code"], story.certificate["exit_code"]) == ("exit", code, code)
        assert story.plot == ["started", "failed"] and story.end["result"] is None
    assert len({story.pid for story in stories}) == len(codes)


async def test_every_code_of_sys_exit_is_reported_as_it_is(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, jobs_per_worker_max=0))
    codes = [0, 1, 2, 64, 65, 70, 71, 74, 76, 78, 137, 143, 255, 256, -1]
    stories = await run_all(server, "raises_system_exit", "code", codes)
    for code, story in zip(codes, stories, strict=True):
        assert (story.code, story.error["exit_code"]) == ("exit", code & 0xFF), code


@pytest.mark.code("crash", "killed_externally")
@pytest.mark.row("B4")
@FORKED_OR_EXECED
async def test_every_signal_is_reported_as_it_is(start_method: str, proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, spares=2, start_method=start_method), proof=proof)
    numbers = sorted(set(signal.valid_signals()) - {signal.SIGSTOP})
    if start_method == "spawn":  # each a new interpreter; the next test has what is survived in one
        numbers = [number for number in numbers if number not in SURVIVED]
        # Those of real time differ by their number only.
        numbers = [number for number in numbers if number <= signal.SIGRTMIN or number == signal.SIGRTMAX]
    stories = await run_all(server, "dies_of", "number", [int(number) for number in numbers])
    for number, story in zip(numbers, stories, strict=True):
        if number in SURVIVED:
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


@pytest.mark.code("cancelled")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_a_worker_whose_jobs_survived_their_own_signals_is_used_again_and_hears_the_next_stop(
    start_method: str, supervisor: StartSupervisor
) -> None:
    """Nobody but its jobs has signalled it. What each leaves, a SIGTERM without an order say, stops no other job."""
    pool = hostile_pool(workers=1, spares=0, jobs_per_worker_max=0, start_method=start_method)
    server = await supervisor(pool)
    survivors = []
    for number in sorted(SURVIVED, key=lambda number: (number == signal.SIGTERM, number)):  # SIGTERM right before
        survivors.append(story := await run(server, "dies_of", number=int(number)))
        assert (story.state, story.end["result"]) == ("completed", "alive"), (number, story.error)
        assert story.phases == {"tree_empty"}, (number, story.certificate)
    job_id = await submit(server, "loop_python", limits={"grace_s": 60, "ack_s": None})
    await wait_until_computing(server, job_id)
    stopped = await stop(server, job_id)
    assert {story.pid for story in survivors} == {stopped.pid}, "one worker for all of them"
    assert stopped.tokens == ["in", "finally"] and stopped.phases - was_late_to_leave(stopped.certificate) == STOPPED, (
        stopped.certificate
    )


@pytest.mark.code("cancelled")
@pytest.mark.parametrize("type", ["loop_python", "hold_gil"])
async def test_a_stack_that_an_earlier_job_had_itself_written_is_not_shown_as_another_ones(
    type: str, supervisor: StartSupervisor, long_dump_waits: None
) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    earlier = await run(server, "dies_of", number=int(signal.SIGRTMIN + 6))
    job_id = await submit(server, type, limits={"grace_s": 60, "ack_s": 0.1})
    await wait_until_computing(server, job_id)
    story = await stop(server, job_id)
    assert story.pid == earlier.pid
    stack = story.certificate["stack"]
    assert f" in {type}\n" in stack and "dies_of" not in stack, stack
