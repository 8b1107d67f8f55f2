"""What the head of a cluster hears of the pools of its nodes, at once: no poll is answered here for its time alone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from support.engines import Cluster, pool_with_workers
from support.waiting import Pending, until_async

from killable.supervisor.cluster.lease import Times
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

PATIENT = Times(lease_s=3600.0, poll_s=1200.0, patience_s=600.0)
JOBS = """
import os, time
from killable import job, preload

@preload(each_worker=True)
def wait():
    while not os.path.exists({gate!r}):
        time.sleep(0.001)

@job
def echo(value: int) -> int:
    return value
"""


def head_over(folder: Path) -> tuple[Supervisor, Path]:
    """Return a head over one node, whose workers wait for a file at their start; and this file."""
    gate = folder / "gate"
    (folder / "gated_workers.py").write_text(JOBS.format(gate=str(gate)))
    pool = PoolSpec(name="gated", modules=("gated_workers",), folder=str(folder), workers=1)
    return Cluster(("a",), PATIENT).head(Settings(pools=(pool,), sweep=False)), gate


async def test_a_head_is_warm_when_a_node_has_a_worker_and_no_sooner(tmp_path: Path) -> None:
    head, gate = head_over(tmp_path)
    await head.start()
    try:
        warm = asyncio.create_task(head.until_warm())
        assert (await head.pools())[0].state == "ready", "it has joined"
        for _ in range(100):
            await asyncio.sleep(0)
        assert not warm.done() and (await pool_with_workers(head, "gated")).idle == 0
        gate.touch()
        await asyncio.wait_for(warm, 60)
        assert (await pool_with_workers(head, "gated")).idle == 1
    finally:
        await head.close(grace_s=0)


async def test_a_node_tells_at_once_that_a_pool_is_broken_and_no_job_is_given_to_it(tmp_path: Path) -> None:
    head, gate = head_over(tmp_path)
    gate.touch()
    await head.start()
    try:
        await head.until_warm()
        (tmp_path / "gated_workers.py").write_text("raise RuntimeError('it does not import any more')\n")
        zygote = (await pool_with_workers(head, "gated")).zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)

        async def is_told() -> bool | Pending:
            (pool,) = await head.pools()
            return (pool.state == "broken" and "import any more" in pool.detail) or Pending(pool)

        await until_async(is_told, "the head has heard that the pool is broken")
        ended = await head.wait((await head.submit(Submission("echo", b'{"value":1}'))).job_id)
        assert ended.error is not None and ended.error["code"] == "spawn"
        assert ended.node is None, "it was given to no node"
    finally:
        await head.close(grace_s=0)
