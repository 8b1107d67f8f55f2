"""How many workers of a pool have ended, and why, as its record tells an operator."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

from job_runs import pool_of, run, stop, submit, wait_for_tokens
from support.engines import new_supervisor, pid_of
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

JOBS = """
    import threading
    from collections.abc import Iterator
    from killable import job

    @job
    def returns() -> int:
        return 1

    @job
    def waits() -> Iterator[int]:
        yield 1
        threading.Event().wait()

    @job
    def leaves_a_thread() -> int:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return 1
"""


def spec(folder: Path) -> PoolSpec:
    file = folder / "own_jobs.py"
    file.write_text(textwrap.dedent(JOBS))
    return PoolSpec("p", (str(file),), workers=1, spares=0, jobs_per_worker_max=2)


async def until_counted(server: Supervisor, **expected: int) -> None:
    """Wait until these have ended, and no others."""

    async def counted() -> bool | Pending:
        replaced = (await pool_of(server)).replaced
        return replaced == expected or Pending(replaced)

    await until_async(counted, f"{expected} have ended")


async def test_each_worker_that_ends_is_counted_with_the_reason(tmp_path: Path, supervisor: StartSupervisor) -> None:
    """A head counts those of its nodes."""
    server = await supervisor(spec(tmp_path))
    await run(server, "returns")
    await until_counted(server)
    await run(server, "returns")
    await until_counted(server, served=1)
    await run(server, "leaves_a_thread")
    await until_counted(server, served=1, retired=1)
    waiting = await submit(server, "waits")
    await wait_for_tokens(server, waiting)
    await stop(server, waiting, grace_s=0)
    await until_counted(server, served=1, retired=1, stopped=1)
    waiting = await submit(server, "waits")
    await wait_for_tokens(server, waiting)
    os.kill(await pid_of(server, waiting), signal.SIGKILL)
    await until_counted(server, served=1, retired=1, stopped=1, died=1)


async def test_what_a_reload_and_the_end_of_a_zygote_cost_is_counted(tmp_path: Path) -> None:
    server = new_supervisor(Settings(pools=(spec(tmp_path),)), engine="local")
    await server.start()
    try:
        await run(server, "returns")  # and its worker is idle then
        assert (await server.reload()).state == "done"
        await until_counted(server, reloaded=1)
        await run(server, "returns")
        os.kill((await pool_of(server)).zygote_pid or 0, signal.SIGKILL)
        await until_counted(server, reloaded=1, zygote_lost=1)
    finally:
        await server.close(grace_s=0)
