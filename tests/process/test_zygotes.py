"""The zygote: what it forks and shares, what becomes of its jobs when it is killed, when it must not fork at all."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
from pathlib import Path

import pytest
from job_runs import follow, hostile_pool, pool_of, run, stop, submit, wait_for_tokens, wait_until_computing
from support import processes
from support.certificate_checks import was_killed
from support.engines import pid_of, pool_with_workers
from support.job_helpers import process_name_of
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.records import PoolRecord
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import KillableError, Refused


def write_module(folder: Path, name: str, text: str) -> PoolSpec:
    """Write a module of job types and return a pool of it."""
    (folder / f"{name}.py").write_text("from killable import Context, job, preload\n" + textwrap.dedent(text))
    return PoolSpec(name, (str(folder / f"{name}.py"),), workers=2, spares=1)


async def when_ready(server: Supervisor, name: str = "hostile") -> PoolRecord:
    async def ready() -> PoolRecord | Pending:
        pool, there = await pool_of(server, name), await pool_with_workers(server, name)
        return pool if pool.state == "ready" and there.idle else Pending((pool, there))

    return await until_async(ready, "the pool is ready")


# ── what it forks ──


async def test_a_fork_workers_parent_is_the_zygote_and_its_parent_the_guard(
    proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    job_id = await submit(server, "loop_python")
    worker = processes.read_process(await wait_until_computing(server, job_id))
    zygote = processes.read_process((await pool_of(server)).zygote_pid or 0)
    assert worker is not None and zygote is not None
    guard = processes.read_process(zygote.parent)
    assert worker.parent == zygote.pid and guard is not None and guard.parent == os.getpid()
    assert len({os.getsid(0), worker.session, zygote.session, guard.session}) == 4
    # Where memory is short, the kernel takes a worker first, and the guard no sooner than this program.
    scores = [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in (worker.pid, zygote.pid, guard.pid, "self")]
    assert [int(score) for score in scores[:2]] == [500, 200] and scores[2] == scores[3]


@pytest.mark.row("PEERS-K")
async def test_a_kill_costs_the_next_job_nothing(supervisor: StartSupervisor) -> None:
    """A worker that was warm before the kill takes it."""
    server = await supervisor(hostile_pool(workers=1, spares=1))
    for _ in range(3):
        job_id = await submit(server, "hold_gil")
        await wait_until_computing(server, job_id)
        await when_ready(server)
        (spare,) = [worker.pid for worker in await server.workers() if worker.state == "idle"]
        waiting = await submit(server, "echoes")
        assert (await stop(server, job_id, grace_s=0)).code == "cancelled"
        assert (await follow(server, waiting)).pid == spare


async def test_a_preload_is_shared_and_costs_a_worker_next_to_nothing(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    pool = write_module(
        tmp_path,
        "heavy",
        """
        @preload
        def model() -> bytearray:
            return bytearray(b"x" * (200 << 20))

        @job
        def use(ctx: Context) -> int:
            total = sum(model()[:: 4096])
            ctx.emit("in")
            while ctx.stopping is None:
                pass
        """,
    )
    server = await supervisor(pool)
    job_id = await submit(server, "use")
    pid = await wait_until_computing(server, job_id)
    rollup = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line[0] != "0"
    )
    assert [line for line in rollup if line.startswith("Rss")] and int(rollup["Rss"].split()[0]) > 200 << 10
    private = sum(int(rollup[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    assert private <= 12 << 10, f"{private} KiB"
    (worker,) = [worker for worker in await server.workers() if worker.pid == pid]
    assert worker.uss_bytes is not None and worker.uss_bytes <= 12 << 20
    await stop(server, job_id)


async def test_a_module_that_resets_the_wakeup_descriptor_at_a_fork_does_no_harm(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    """As asyncio does from Python 3.12 on, by being imported."""
    pool = write_module(
        tmp_path,
        "resets",
        """
        import os, signal

        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

        @job
        def spin(ctx: Context) -> None:
            ctx.emit("in")
            while True:
                pass
        """,
    )
    server = await supervisor(pool)
    job_id = await submit(server, "spin", limits={"grace_s": 60})
    await wait_until_computing(server, job_id)
    story = await stop(server, job_id)
    assert "acknowledged" in story.certificate and not was_killed(story.certificate)


async def test_workers_have_random_numbers_of_their_own(tmp_path: Path, supervisor: StartSupervisor) -> None:
    pool = write_module(
        tmp_path,
        "dice",
        """
        import random
        import numpy.random

        random.seed(1)
        numpy.random.seed(1)

        @job
        def roll() -> list[float]:
            return [random.random(), float(numpy.random.random())]
        """,
    )
    server = await supervisor(pool)
    rolls = [(await run(server, "roll")).end["result"] for _ in range(3)]
    assert len({number for roll in rolls for number in roll}) == 6


# ── killed ──


@pytest.mark.row("H6")
@pytest.mark.row("D20")
async def test_a_killed_zygote_loses_its_jobs_comes_back_and_goes_on(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=3), proof=proof)
    running = [await submit(server, type) for type in ("loop_python", "ignores_term", "keeps_family")]
    for job_id in running:
        await wait_for_tokens(server, job_id)
    queued = [await submit(server, "echoes", text=str(number)) for number in range(5)]
    before = await pool_of(server)
    assert before.zygote_pid is not None

    os.kill(before.zygote_pid, signal.SIGKILL)

    for job_id in running:
        story = await follow(server, job_id)
        assert (story.state, story.code, story.error["retryable"]) == ("failed", "worker_lost", True)
        assert story.plot == ["started", "token", "failed"]
        # The guard, as their subreaper, knows how they ended.
        assert story.certificate["exit_signal"] == "SIGKILL" == story.error["signal"]
        assert story.certificate["proof"] == proof and "last_signal" not in story.certificate
    for number, job_id in enumerate(queued):
        assert (await follow(server, job_id)).end["result"]["text"] == str(number)
    after = await when_ready(server)
    assert after.zygote_restarts == 1 and after.zygote_pid not in (None, before.zygote_pid)
    assert await server.ready() == (True, [])


async def test_a_job_that_ended_by_itself_before_the_zygote_died_is_not_called_lost(
    supervisor: StartSupervisor,
) -> None:
    """Stopped, the zygote cannot report the exit; what is known of it is kept when the zygote is killed then."""
    server = await supervisor(hostile_pool(workers=2))
    zygote = (await pool_of(server)).zygote_pid
    assert zygote is not None
    job_id = await submit(server, "waits_for", gate="/nowhere")
    await wait_for_tokens(server, job_id)
    await when_ready(server)  # the second job gets its worker at once, not from a zygote that is stopped
    os.kill(zygote, signal.SIGSTOP)

    def stopped() -> bool | Pending:
        seen = processes.read_process(zygote)
        return (seen is not None and seen.state == "T") or Pending(seen)

    await until_async(stopped, "the zygote is stopped: before the job ends, or it would reap it")
    crashing = await submit(server, "exits", code=9)
    story = asyncio.create_task(follow(server, crashing))
    pid = await pid_of(server, crashing)

    def dead() -> bool | Pending:
        seen = processes.read_process(pid)
        return (seen is not None and seen.state == "Z") or Pending(seen)

    await until_async(dead, "the job's process has ended, and nobody reaps it")
    os.kill(zygote, signal.SIGKILL)
    ended = await story
    assert (ended.code, ended.error["exit_code"]) == ("exit", 9)
    assert (await follow(server, job_id)).code == "worker_lost"
    await when_ready(server)


async def test_a_zygote_that_is_killed_again_and_again_comes_back(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    for number in range(1, 4):
        zygote = (await when_ready(server)).zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)

        async def lost(number: int = number) -> bool | Pending:
            pool = await pool_of(server)
            return pool.zygote_restarts == number or Pending(pool)

        await until_async(lost, "the loss is noticed")
        assert (await run(server, "echoes")).state == "completed"


CLAIMS = {"tree_empty", "proof"}


async def test_a_killed_guard_takes_everything_with_it_and_comes_back(
    proof: str, supervisor: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    job_id = await submit(server, "keeps_family", kind="each")
    await wait_for_tokens(server, job_id)
    zygote = processes.read_process((await pool_of(server)).zygote_pid or 0)
    assert zygote is not None
    os.kill(zygote.parent, signal.SIGKILL)

    record = await server.wait(job_id)
    assert record.error is not None and record.error["code"] == "worker_lost"
    assert "guard or zygote died" in record.error["message"]
    (gone,) = [vars(each)["ending"] for each in caplog.records if each.getMessage() == "zygote_gone"]
    assert gone == "with its guard: signal 9", "an operator sees what was killed"
    # Nobody of ours reaps them now: init does, and a zombie is dead.
    assert [seen for seen in processes.named(process_name_of(job_id)) if seen.state != "Z"] == []
    assert record.certificate is not None
    if proof == "descendants":  # a process that had cleaned its environment could be left: nobody says that none is
        assert "guard was killed" in record.certificate["unproven"] and not CLAIMS & set(record.certificate)
        assert (await server.scraping.counts())["unproven"] == 1
    else:
        assert (record.certificate["proof"], "tree_empty" in record.certificate) == ("cgroup", True)
    assert (await run(server, "echoes")).state == "completed"
    await until_async(
        lambda: Pending(left) if (left := processes.named(process_name_of(job_id))) else True, "init reaps"
    )


# ── not forking ──


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "not-daemon"])
async def test_a_preload_that_starts_threads_makes_the_pool_spawn_and_say_so(
    daemon: bool, tmp_path: Path, supervisor: StartSupervisor
) -> None:
    pool = write_module(
        tmp_path,
        "threaded",
        f"""
        import threading

        @preload
        def engine() -> int:
            threading.Thread(target=threading.Event().wait, daemon={daemon}).start()
            return 7

        @job
        def use() -> list[int]:
            return [engine(), threading.active_count()]
        """,
    )
    server = await supervisor(pool)
    record = await pool_of(server, "threaded")
    assert (record.state, record.start_method) == ("ready", "spawn") and "2 threads" in record.detail
    assert (await run(server, "use")).end["result"] == [7, 2]
    assert record.zygote_restarts == 0 and await server.ready() == (True, [])


async def test_spawned_workers_do_not_share_what_the_zygote_never_loaded(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    pool = write_module(
        tmp_path,
        "spawned",
        """
        import os
        made: list[int] = []

        @preload
        def engine() -> int:
            made.append(os.getpid())
            return os.getpid()

        @preload(each_worker=True)
        def own() -> int:
            return os.getpid()

        @job
        def who(ctx: Context) -> list[int]:
            return [os.getpid(), engine(), own(), len(made)]
        """,
    )
    for start_method in ("fork", "spawn"):
        spec = PoolSpec("spawned", pool.modules, workers=1, spares=1, start_method=start_method)
        server = await supervisor(spec)
        pid, engine, own, made = (await run(server, "who")).end["result"]
        zygote = (await pool_of(server, "spawned")).zygote_pid
        assert own == pid and made == 1 and engine == (zygote if start_method == "fork" else pid)


async def test_a_module_that_does_not_import_breaks_its_pool_alone(tmp_path: Path, supervisor: StartSupervisor) -> None:
    pools = [
        write_module(tmp_path, "broken", "import no_such_package_at_all\n"),
        write_module(tmp_path, "raising", "@preload\ndef model():\n    raise LookupError('no model here')\n"),
        write_module(tmp_path, "exiting", "raise SystemExit(3)\n"),
    ]
    pools.append(PoolSpec("spawning", pools[1].modules, workers=1, spares=1, start_method="spawn"))
    server = await supervisor(*pools, hostile_pool())
    causes = {"broken": "no_such_package_at_all", "raising": "no model here", "exiting": "SystemExit: 3"}
    for name, cause in causes.items():
        record = await pool_of(server, name)
        assert record.state == "broken" and cause in record.detail and "Traceback" in record.detail
    assert (await run(server, "echoes")).state == "completed"
    with pytest.raises(Refused) as refused:
        await submit(server, "of_no_pool")
    assert refused.value.code == "unknown_job_type" and set(refused.value.broken_pools) >= set(causes)

    async def spawning() -> bool | Pending:
        record = await pool_of(server, "spawning")
        return (record.state == "broken" and "no model here" in record.detail) or Pending(record)

    await until_async(spawning, "the preload in each spawned worker fails, and that is said")
    ready, degraded = await server.ready()
    assert ready and len(degraded) == 4


async def test_a_declaration_that_cannot_be_is_refused_at_start(tmp_path: Path, supervisor: StartSupervisor) -> None:
    wrong = write_module(tmp_path, "wrong", "@job\nasync def no() -> None: ...\n")
    twice = write_module(tmp_path, "twice", "@job\ndef echoes() -> None: ...\n")
    for pool, cause in [(wrong, "async def is not supported"), (twice, "echoes")]:
        with pytest.raises(KillableError, match=cause):
            await supervisor(hostile_pool(), pool)


async def test_a_missing_package_is_said_at_submission(tmp_path: Path, supervisor: StartSupervisor) -> None:
    pool = write_module(
        tmp_path,
        "lacking",
        """
        @job(requires={"no_such_package_at_all": "pip install it"})
        def lacks() -> None: ...
        """,
    )
    server = await supervisor(pool)
    (job_type,) = await server.job_types()
    assert not job_type.available and "pip install it" in job_type.unavailable_reason
    story = await run(server, "lacks")
    assert (story.code, story.plot) == ("spawn", ["failed"]) and "pip install it" in story.error["message"]


async def test_a_worker_that_dies_before_it_is_ready_breaks_nothing_for_ever(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    gate = tmp_path / "gate"
    pool = write_module(
        tmp_path,
        "fragile",
        f"""
        import os

        @preload(each_worker=True)
        def fragile() -> None:
            if not os.path.exists({str(gate)!r}):
                os._exit(5)

        @job
        def works() -> str:
            return "works"
        """,
    )
    server = await supervisor(pool)
    job_id = await submit(server, "works")
    story = await follow(server, job_id)
    assert (story.code, story.error["retryable"]) == ("spawn", True) and "exit code 5" in story.error["message"]
    gate.touch()

    async def works_again() -> bool | Pending:
        record = await pool_of(server, "fragile")
        return record.state == "ready" or Pending(record)

    await until_async(works_again, "the pool tries again")
    assert (await run(server, "works")).end["result"] == "works"
