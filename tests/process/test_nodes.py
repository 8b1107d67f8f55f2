"""A node that is frozen cannot end its jobs: its guards do, when its lease is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from job_runs import ENDED_WITH, HOSTILE_POOL, hostile_pool
from support import processes
from support.engines import Cluster
from support.processes import read_process
from support.waiting import Pending, until

from killable.supervisor.cluster.node_link import Times
from killable.supervisor.models import JobEvent, Submission
from killable.supervisor.settings import Settings

PROGRAM = str(Path(processes.__file__).parent / "node_program.py")


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (seen := read_process(pid)) is not None and seen.state != "Z"]


def test_the_guards_of_a_frozen_node_end_everything_when_its_lease_is_over() -> None:
    pool = json.dumps({"name": "hostile", **HOSTILE_POOL, "workers": 1})
    tests = str(Path(PROGRAM).parent.parent)
    node = subprocess.Popen(
        [sys.executable, PROGRAM, pool, "keeps_family"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests},
    )  # fmt: skip
    assert node.stdin is not None and node.stdout is not None
    try:
        pids = json.loads(node.stdout.readline())["pids"]
        assert len(alive(pids)) == len(pids) > 3
        node.send_signal(signal.SIGSTOP)
        until(lambda: Pending(left) if (left := alive(pids)) else True, "its guard has ended the job")
        assert (seen := read_process(node.pid)) is not None and seen.state == "T", "it did not do so itself"
        node.send_signal(signal.SIGCONT)
        told = json.loads(node.stdout.readline())
        assert told["error"]["code"] == "node_lost" and told["certificate"]["unproven"], told
        node.stdin.close()
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()
        node.stdout.close()


@pytest.mark.code("node_drained")
async def test_the_whole_tree_of_a_job_is_gone_when_its_node_is_drained() -> None:
    cluster = Cluster(("a",), Times(lease_s=60, poll_s=0.5, patience_s=30))
    head = cluster.head(Settings(pools=(hostile_pool(),), sweep=False))
    await head.start()
    try:
        job_id = (await head.submit(Submission("keeps_family", b"{}"))).job_id
        tokens = [each async for batch in _until_token(head.events(job_id)) for each in batch]
        pids = json.loads(tokens[-1].data)["value"]
        assert len(alive(pids)) == len(pids) >= 3
        await head.drain_node("a", deadline_s=0)
        record = await head.wait(job_id)
        assert alive(pids) == [] and record.error is not None and record.certificate is not None
        assert (record.state, record.error["code"], record.error["node"]) == ("failed", "node_drained", "a")
        assert record.certificate["tree_empty"] and record.certificate["node"] == "a"
        ENDED_WITH.add(record.error["code"])
    finally:
        await head.close(grace_s=0)


async def _until_token(events: AsyncIterator[Sequence[JobEvent]]) -> AsyncIterator[Sequence[JobEvent]]:
    async for batch in events:
        yield batch
        if any(event.name == "token" for event in batch):
            return
