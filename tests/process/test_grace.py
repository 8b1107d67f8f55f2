"""The grace: who gets it, who does not need it, who can shorten it; the partial value, the certificate."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from job_runs import (
    follow,
    hostile_pool,
    run,
    start_computing,
    stop,
    submit,
    wait_for_state,
    wait_for_tokens,
    wait_until_computing,
    wait_until_sleeping,
    wait_until_stopped,
)
from support import processes
from support.certificate_checks import ended_with, was_killed
from support.engines import IN_CERTIFICATES
from support.job_helpers import process_name_of
from support.loaded_config import load
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.errors import Refused

LONG_S = 60.0

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = hostile_pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


# ── adaptive ──


@pytest.mark.row("PEERS-C", "PEERS-9")
@pytest.mark.row("D4")
async def test_native_code_that_cannot_hear_is_killed_after_ack_s_of_the_job(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    waits = [0.1, 0.3]
    jobs = [await start_computing(server, "hold_gil", limits={"grace_s": LONG_S, "ack_s": ack_s}) for ack_s in waits]
    stories = await asyncio.gather(*(stop(server, job_id) for job_id in jobs))
    for ack_s, story in zip(waits, stories, strict=True):
        certificate = story.certificate
        assert ack_s * 1000 <= certificate["kill_sent"] - certificate["delivered"] + 1 < LONG_S * 1000
        assert "acknowledged" not in certificate and f"ack_s {ack_s:g}" in certificate["early_kill"]


@pytest.mark.parametrize("ack_s", [None, 0.4, LONG_S], ids=["none", "grace", "long"])
async def test_without_an_ack_s_below_the_grace_native_code_keeps_its_whole_grace(
    ack_s: float | None, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "hold_gil", limits={"grace_s": 0.4, "ack_s": ack_s})
    certificate = (await stop(server, job_id)).certificate
    assert certificate["kill_sent"] >= 400 and "early_kill" not in certificate


@pytest.mark.row("PEERS-C", "PEERS-11", "D14")
async def test_a_job_that_cleans_up_in_python_is_not_taken_for_stuck(supervisor: StartSupervisor) -> None:
    """It computes for longer than ack_s and ack_cpu_s: acknowledged is acknowledged."""
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "cleans_slowly", limits={"grace_s": LONG_S, "ack_s": 0.05}, cpu_s=0.3)
    story = await stop(server, job_id)
    assert story.tokens == ["in", "cleaned"] and ended_with(story.certificate, 143)
    assert not was_killed(story.certificate)


async def test_a_job_with_a_signal_handler_of_its_own_has_its_whole_grace(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "replaces_handler", limits={"grace_s": LONG_S, "ack_s": 0.05}, cpu_s=0.3)
    story = await stop(server, job_id)
    assert story.end["partial"] == "heard it myself"
    assert not was_killed(story.certificate) and "acknowledged" not in story.certificate


STAYS = """
import sys, time
from killable import Context, job

class Blocks:
    flushed = 0

    def flush(self) -> None:
        self.flushed += 1
        if self.flushed > 1:  # the first is done before the job is said to be over
            time.sleep(1000)

@job
def leaves_a_stream(ctx: Context, forever: bool) -> str:
    try:
        ctx.emit("in")
        while forever:
            ctx.sleep(1)
    finally:
        sys.stdout = Blocks()
    return "done"
"""


@pytest.mark.parametrize("forever", [True, False])
async def test_a_process_that_stays_when_its_job_is_over_is_killed_and_it_is_told_why(
    forever: bool, tmp_path: Path, supervisor: StartSupervisor
) -> None:
    (tmp_path / "stays.py").write_text(STAYS)
    pool = PoolSpec("stays", modules=("stays",), folder=str(tmp_path), workers=1)
    server = await supervisor(pool)
    job_id = await submit(server, "leaves_a_stream", forever=forever, limits={"grace_s": LONG_S})
    await wait_for_tokens(server, job_id)
    story = await stop(server, job_id) if forever else await follow(server, job_id)
    assert story.state == ("cancelled" if forever else "completed"), story.error
    certificate = story.certificate
    assert certificate["lingered"] and certificate["exit_signal"] == "SIGKILL" and "early_kill" not in certificate
    assert certificate.get("grace_s") == (LONG_S if forever else None)


@pytest.mark.row("D4")
async def test_the_servers_grace_holds_where_nobody_asks_for_another(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), limits=over(DEFAULT_LIMITS, {"grace_s": 0.1, "ack_s": None}))
    job_id = await start_computing(server, "ignores_term", limits={})
    certificate = (await stop(server, job_id)).certificate
    assert certificate["grace_s"] == 0.1 and certificate["kill_sent"] >= 100


DEAF = """
import signal
from killable import Context, job

@job(grace_s=0.4)
def by_decorator(ctx: Context) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.emit("in")
    while True:
        pass

@job(grace_s=0.1)
def by_file(ctx: Context) -> None:
    by_decorator(ctx)
"""
DEAF_FILE = """
[limits]
grace_s = 60
[pools.deaf]
module = "./deaf.py"
workers = 2
[jobs.by_file.limits]
grace_s = 0.6
"""


@pytest.mark.row("D4")
async def test_a_types_grace_is_the_decorators_or_the_files_and_decides_when_it_is_killed(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    """The file's wins over the decorator's, and both over the server's."""
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "killable.toml").write_text(DEAF_FILE)
    settings = load(tmp_path / "killable.toml", {}, {}, None).settings
    server = await supervisor(*settings.pools, limits=settings.limits, jobs=settings.jobs)
    graces = {"by_decorator": 0.4, "by_file": 0.6}
    jobs = [await start_computing(server, type, limits={}) for type in graces]
    stories = await asyncio.gather(*(stop(server, job_id) for job_id in jobs))
    for grace_s, story in zip(graces.values(), stories, strict=True):
        certificate = story.certificate
        assert certificate["grace_s"] == grace_s and "early_kill" not in certificate
        assert grace_s * 1000 <= certificate["kill_sent"] < settings.limits["grace_s"] * 1000


async def test_a_cap_on_the_grace_is_not_passed(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), caps={"grace_s": 1.0})
    with pytest.raises(Refused) as refused:
        await submit(server, "echoes", limits={"grace_s": 2.0})
    assert refused.value.code == "limit_over_cap"


KINDS = ["json", "sorting", "imports", "files", "counting"]
"""Without thread pools and event loops: threading's and asyncio's own Python code is not safe against an exception at
any point (nor against KeyboardInterrupt); see ARCHITECTURE.md."""


async def every_one_cleans_up(server: Supervisor, trials: int) -> None:
    """Cancel ordinary code at any of its points."""
    turns = asyncio.Semaphore(2)
    dice = random.Random(trials)

    async def one(number: int) -> None:
        async with turns:
            job_id = await submit(server, "works_ordinarily", on=KINDS[number % len(KINDS)], limits={"grace_s": 30})
            await wait_until_computing(server, job_id, dice.uniform(0.001, 0.01))
            story = await stop(server, job_id)
            assert story.tokens == ["in", "finally"], (KINDS[number % len(KINDS)], story.certificate)
            certificate = story.certificate
            assert ended_with(certificate, 143) and not was_killed(certificate), certificate

    await asyncio.gather(*map(one, range(trials)))


async def test_ordinary_code_cleans_up_wherever_it_is_cancelled(supervisor: StartSupervisor) -> None:
    await every_one_cleans_up(await supervisor(hostile_pool(workers=2, spares=2)), 60)


async def test_a_busy_event_loop_of_the_job_is_stopped_between_its_callbacks(supervisor: StartSupervisor) -> None:
    """Raised inside asyncio's own code, one in 25 would take a task's next step with it, and the job would hang."""
    server = await supervisor(hostile_pool(workers=2, spares=2))
    turns = asyncio.Semaphore(2)

    async def one(number: int) -> None:
        async with turns:
            job_id = await submit(server, "loops_in_asyncio", limits={"grace_s": 30, "ack_s": None})
            await wait_until_computing(server, job_id, number % 10 / 1000)
            certificate = (await stop(server, job_id)).certificate
            assert ended_with(certificate, 143) and not was_killed(certificate), certificate

    await asyncio.gather(*map(one, range(60)))


async def test_a_generator_cleans_up_in_the_function_whose_loop_has_a_condition(supervisor: StartSupervisor) -> None:
    """From 3.13 on Python runs a signal's handler outside of the `try` around such a loop."""
    server = await supervisor(hostile_pool(workers=2, spares=2))
    for _ in range(10):
        job_id = await submit(server, "counts_between_yields", limits={"grace_s": 30})
        await wait_until_computing(server, job_id, 0.005)
        story = await stop(server, job_id)
        assert (story.tokens[0], story.tokens[-1]) == ("in", "finally"), story.certificate


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_ordinary_code_cleans_up_in_two_thousand_cancels(supervisor: StartSupervisor) -> None:
    await every_one_cleans_up(await supervisor(hostile_pool(workers=2, spares=2)), 2000)


# ── asking again ──


async def test_a_second_cancel_shortens_the_grace_and_cannot_lengthen_it(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "ignores_term", limits={"grace_s": LONG_S})

    record = await server.cancel(job_id, grace_s=30, wait_s=0)
    assert record.state == "stopping" and record.certificate is not None and record.certificate["grace_s"] == 30
    assert "exited" not in record.certificate
    record = await server.cancel(job_id, grace_s=LONG_S, wait_s=0)
    assert record.certificate is not None and record.certificate["grace_s"] == 30

    story = await stop(server, job_id, grace_s=0)
    assert story.certificate["grace_s"] == 0 and story.certificate["exit_signal"] == "SIGKILL"
    assert "term_sent" in story.phases and "early_kill" not in story.certificate


@pytest.mark.row("H10")
async def test_repeating_a_cancel_changes_nothing(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "loop_python", limits={})
    records = await asyncio.gather(*(server.cancel(job_id, by=by) for by in ("user", "operator", "user")))
    assert len({str(record) for record in records}) == 1
    assert records[0].state == "cancelled" and records[0].error is not None and records[0].error["by"] == "user"
    assert await server.cancel(job_id) == records[0]


@pytest.mark.row("D6")
async def test_the_escalation_goes_on_when_whoever_asked_is_cancelled(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "ignores_term", limits={"grace_s": 0.3})
    asking = asyncio.create_task(server.cancel(job_id))
    await wait_for_state(server, job_id, "stopping")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    story = await follow(server, job_id)
    assert story.code == "cancelled" and story.certificate["exit_signal"] == "SIGKILL"


@pytest.mark.row("B2")
async def test_a_cancel_that_does_not_wait_that_long_says_so(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "ignores_term", limits={"grace_s": 0.3})
    assert (await server.cancel(job_id, wait_s=0.01)).state == "stopping"
    assert (await server.cancel(job_id)).state == "cancelled"


@pytest.mark.row("PEERS-F")
@pytest.mark.row("D22")
async def test_stubborn_jobs_end_together_and_hold_up_nobody(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4))
    jobs = [await submit(server, "stops_itself", ignore=True, limits={"grace_s": 4}) for _ in range(3)]
    for job_id in jobs:
        await wait_until_stopped(server, job_id)
    ending = asyncio.gather(*(stop(server, job_id) for job_id in jobs))
    for job_id in jobs:
        await wait_for_state(server, job_id, "stopping")
    assert (await run(server, "echoes")).state == "completed"
    assert {(await server.get(job_id)).state for job_id in jobs} == {"stopping"}
    ends = [story.certificate["kill_sent"] for story in await ending]
    assert min(ends) >= 4000 and max(ends) - min(ends) < 4000, "one after the other"


# ── the value, the stack, the phases ──


@pytest.mark.row("D13")
async def test_a_value_returned_in_the_grace_is_kept_as_partial(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "returns_in_grace", limits={"grace_s": LONG_S})
    story = await stop(server, job_id, reason="enough")
    assert story.state == "cancelled" and story.end["result"] is None
    assert story.end["partial"] == "cancelled by user: enough"
    assert (story.error["reason"], story.certificate["reason"]) == ("enough", "enough")
    assert ended_with(story.certificate, 0) and not was_killed(story.certificate)


async def test_a_job_that_returns_after_a_timeout_has_timed_out(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "returns_in_grace", limits={"idle_s": 0.1, "grace_s": LONG_S})
    assert (story.state, story.code) == ("timed_out", "timeout.idle")
    assert story.end["partial"] == "timeout.idle by supervisor: "


@pytest.mark.row("PEERS-B")
@pytest.mark.row("F8")
async def test_the_certificate_tells_who_asked_what_happened_and_when(
    proof: str, supervisor: StartSupervisor, long_exit_waits: None
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    job_id = await submit(server, "keeps_family", limits={"grace_s": LONG_S})
    await wait_for_tokens(server, job_id)
    pid = (await server.get(job_id)).pid
    assert pid is not None
    await wait_until_sleeping(server, job_id)

    story = await stop(server, job_id, reason="the test")
    certificate = story.certificate
    known = {"cause", "by", "reason", "grace_s", "last_signal", "exit_code", "proof", "processes_swept", "stack"}
    known |= {"max_rss_bytes", "shared_memory_removed", "user_s", "system_s", "tokens", "last_sequence"}
    known |= IN_CERTIFICATES
    assert set(certificate) - {"slot_ready"} == {"requested"} | story.phases | known
    assert certificate["requested"] == 0
    assert (certificate["cause"], certificate["by"], certificate["reason"]) == ("cancelled", "user", "the test")
    assert (certificate["grace_s"], certificate["last_signal"], certificate["exit_code"]) == (LONG_S, "SIGTERM", 143)
    assert certificate["processes_swept"] == 4  # one child, two in sessions of their own, one daemon
    assert certificate["tokens"] == 1 and certificate["last_sequence"] == len(story.events) - 2
    assert certificate["max_rss_bytes"] > 1 << 20 and certificate["user_s"] + certificate["system_s"] > 0
    assert processes.read_process(pid) is None and processes.named(process_name_of(job_id)) == []

    async def slot_ready() -> dict[str, Any] | Pending:
        after = (await server.get(job_id)).certificate
        return after if after and "slot_ready" in after else Pending(after)

    after = await until_async(slot_ready, "the slot is ready")
    assert after["slot_ready"] >= after["tree_empty"]


async def test_a_phase_that_did_not_happen_is_absent(supervisor: StartSupervisor, long_exit_waits: None) -> None:
    server = await supervisor(hostile_pool())
    certificate = (await run(server, "echoes")).certificate
    assert not {"requested", "term_sent", "delivered", "acknowledged", "kill_sent", "early_kill", "cause"} & set(
        certificate
    )
    assert certificate["exited"] == 0 and certificate["exit_code"] == 0


@pytest.mark.row("D16")
async def test_cancel_is_within_its_budget(proof: str, supervisor: StartSupervisor) -> None:
    """The budget of the specification, fifty times what it takes; so many that ten of them may meet a standstill."""
    server = await supervisor(hostile_pool(), proof=proof)
    ends = []
    for _ in range(21):
        job_id = await start_computing(server, "loop_python", limits={"grace_s": LONG_S})
        ends.append((await stop(server, job_id)).certificate["tree_empty"])
    assert sorted(ends)[len(ends) // 2] <= 200, ends


async def test_context_managers_are_left_in_the_grace(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await stop(server, await start_computing(server, "holds_open", limits={"grace_s": LONG_S}))
    assert story.tokens == ["in", "left"] and story.code == "cancelled" and ended_with(story.certificate, 143)
