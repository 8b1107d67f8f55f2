"""A job is run again when its worker was killed: with the same input, on another process, with nothing left before."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
from job_runs import follow, run, submit
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import until_async

from killable.supervisor.settings import PoolSpec

JOBS = str(Path(processes.__file__).parent / "simple_jobs.py")
TWICE = {"attempts_max": 2, "backoff_s": 0.0}
FAMILY = textwrap.dedent(
    """
    import os
    from pathlib import Path
    from killable import Context, job
    from support.forking_jobs import fork_family
    from support.simple_jobs import wait_for

    def say(folder: str, ctx: Context, *words: object) -> None:
        unfinished = Path(folder, "unfinished")
        unfinished.write_text(" ".join(map(str, words)))
        unfinished.rename(Path(folder, f"attempt-{ctx.attempt}"))

    @job
    def settle(folder: str, ctx: Context) -> int:
        say(folder, ctx, os.getpid(), *fork_family(ctx, "each"))
        wait_for(f"{folder}/gate")
        return ctx.attempt

    @job
    def is_first() -> int:
        return os.getpid()

    @job
    def litter(folder: str, ctx: Context) -> int:
        below = ctx.tmp / "closed" / "below"
        below.mkdir(parents=True)
        (below / "file").write_text("x" * 100_000)
        for path in (below, below.parent, ctx.tmp):
            path.chmod(0o500)
        say(folder, ctx, os.getpid(), ctx.tmp)
        wait_for(f"{folder}/gate")
        return ctx.attempt
    """
)


@pytest.mark.row("D23")
@pytest.mark.code("killed_externally")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("jobs_per_worker_max", [1, 0], ids=["fresh", "reused"])
async def test_the_next_attempt_has_the_same_input_and_another_worker(
    supervisor: StartSupervisor, start_method: Literal["fork", "spawn"], jobs_per_worker_max: int
) -> None:
    pool = PoolSpec("p", (JOBS,), 1, start_method=start_method, jobs_per_worker_max=jobs_per_worker_max)
    running = await supervisor(pool)
    large = "x" * (2 << 20)  # in sealed memory, whose descriptor has to last for the second attempt
    story = await run(running, "killed", times=2, text=large, limits={"attempts_max": 3, "backoff_s": 0.01})
    assert story.record is not None and story.record.state == "completed"
    assert story.record.result == f"[3,{len(large)}]".encode()
    assert story.names == ["started", "progress", "retrying"] * 2 + ["started", "progress", "completed"]
    assert story.record.attempts == 3
    assert len({started["pid"] for started in story.data("started")}) == 3
    for told in story.data("retrying"):
        assert (told["error"]["code"], told["error"]["signal"]) == ("killed_externally", "SIGKILL")
        assert told["certificate"]["exit_signal"] == "SIGKILL" and told["certificate"]["proof"]
    ended = await run(running, "killed", times=9, limits=TWICE)
    assert ended.record is not None and (ended.code, ended.record.attempts) == ("killed_externally", 2)


async def test_the_tree_of_an_attempt_is_gone_before_the_next_one_begins(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    module = tmp_path / "family.py"
    module.write_text(FAMILY)
    tests = str(Path(processes.__file__).parents[1])
    running = await supervisor(PoolSpec("p", (str(module),), 1, env={"PYTHONPATH": tests}))
    job_id = await submit(running, "settle", folder=str(tmp_path), limits=TWICE)
    first = [int(pid) for pid in await said_in(tmp_path / "attempt-1")]
    assert len(first) == 5 and all(processes.read_process(pid) is not None for pid in first)
    os.kill(first[0], signal.SIGKILL)
    second = [int(pid) for pid in await said_in(tmp_path / "attempt-2")]
    assert not [seen for seen in map(processes.read_process, first) if seen is not None] and not set(first) & set(
        second
    )
    (tmp_path / "gate").touch()
    story = await follow(running, job_id)
    assert story.record is not None and story.record.result == b"2"
    assert story.data("retrying")[0]["certificate"]["processes_swept"] == 4


@pytest.mark.row("D14")
@pytest.mark.parametrize(
    ("start_method", "jobs_per_worker_max"), [("fork", 1), ("fork", 0), ("spawn", 1)], ids=["fork", "reused", "spawn"]
)
async def test_each_attempt_has_a_private_directory_that_goes_with_its_tree(
    supervisor: StartSupervisor,
    tmp_path: Path,
    start_method: Literal["fork", "spawn"],
    jobs_per_worker_max: int,
) -> None:
    module = tmp_path / "family.py"
    module.write_text(FAMILY)
    kind: dict[str, Any] = {"start_method": start_method, "jobs_per_worker_max": jobs_per_worker_max}
    tests = str(Path(processes.__file__).parents[1])
    running = await supervisor(PoolSpec("p", (str(module),), 1, spares=0, env={"PYTHONPATH": tests}, **kind))
    before = await run(running, "is_first")
    job_id = await submit(running, "litter", folder=str(tmp_path), limits=TWICE)
    pid, first = await said_in(tmp_path / "attempt-1")
    assert (int(pid) == before.pid) == (jobs_per_worker_max == 0)
    assert Path(first, "closed", "below", "file").exists()
    os.kill(int(pid), signal.SIGKILL)
    _, second = await said_in(tmp_path / "attempt-2")
    assert first != second
    await until_async(lambda: not Path(first).parent.exists(), "all of the first attempt's worker is removed")
    assert Path(second, "closed", "below", "file").exists(), "while the second one has its own"
    (tmp_path / "gate").touch()
    story = await follow(running, job_id)
    assert story.record is not None and story.record.result == b"2"
    await until_async(lambda: not Path(second).exists(), "the second one's is removed")


async def said_in(path: Path) -> list[str]:
    """Wait until an attempt is there; return what it has said, its worker's pid first."""
    await until_async(path.exists, f"{path.name} is there")
    return path.read_text().split()
