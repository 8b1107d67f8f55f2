"""Nodes in processes of their own, which are frozen or killed: what becomes of what they run, and when that is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from job_runs import ENDED_WITH, HOSTILE_POOL, hostile_pool
from support import processes
from support.engines import Cluster
from support.processes import read_process
from support.socket_carrier import SocketCarrier
from support.waiting import Pending, until

from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.linux import orphan_cleanup
from killable.supervisor.linux.instance_id import InstanceId
from killable.supervisor.models import JobEvent, Submission
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor

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


# ── a node whose process has died ──

LONG = Times(lease_s=600, poll_s=0.25, patience_s=1)
"""What is told sooner than its end is told by another proof."""


@asynccontextmanager
async def head_over(folder: Path, *names: str) -> AsyncIterator[tuple[Supervisor, SocketCarrier]]:
    settings = Settings(pools=(hostile_pool(workers=2),), sweep=False)
    carrier = SocketCarrier(folder, settings, names)
    head = Supervisor(settings, remote_pools=NodePools(settings, carrier, LONG))
    await head.start()
    try:
        yield head, carrier
    finally:
        await head.close(grace_s=0)


async def pids_of(head: Supervisor, job_id: str) -> list[int]:
    """Return the processes of a job that tells them in its first token."""
    async for events in head.events(job_id):
        for event in events:
            if event.name == "token":
                return [(await head.get(job_id)).pid or 0, *json.loads(event.data)["value"]]
    raise AssertionError(await head.get(job_id))


async def test_a_node_whose_process_was_killed_is_lost_as_soon_as_the_next_one_has_swept(tmp_path: Path) -> None:
    async with head_over(tmp_path, "a") as (head, carrier):
        before = (await head.nodes())[0].incarnation
        family = (await head.submit(Submission("keeps_family", b"{}"))).job_id
        pids = await pids_of(head, family)
        carrier.kill("a")
        ended = await head.wait(family)
        assert alive(pids) == [], "nothing is left of it when that is told"
        assert ended.error is not None and (ended.error["code"], ended.error["fenced"]) == ("node_lost", "swept")
        assert ended.error["incarnation"] == before and "600" not in ended.error["message"]
        again = await head.wait((await head.submit(Submission("leaves_family", b"{}"))).job_id)
        assert again.state == "completed", again
        assert (await head.nodes())[0].incarnation != before


async def test_what_lives_of_a_node_that_seems_dead_is_ended_before_that_is_told(tmp_path: Path) -> None:
    """Its process is frozen, and its way to its head is gone: another one takes its place."""
    async with head_over(tmp_path, "a") as (head, carrier):
        family = (await head.submit(Submission("keeps_family", b"{}"))).job_id
        pids = await pids_of(head, family)
        frozen = carrier.processes["a"]
        frozen.send_signal(signal.SIGSTOP)
        carrier.path("a").unlink()
        ended = await head.wait(family)
        assert alive([*pids, frozen.pid]) == []
        assert ended.error is not None and (ended.error["code"], ended.error["fenced"]) == ("node_lost", "swept")
        assert await frozen.wait() == -signal.SIGKILL


def test_a_supervisor_of_another_boot_or_namespace_or_oneself_is_never_swept() -> None:
    own = InstanceId.of(os.getpid())
    assert own is not None
    assert not orphan_cleanup.sweep_owner(own)
    assert not orphan_cleanup.sweep_owner(own._replace(boot="0" * 32, pid=1))
    assert not orphan_cleanup.sweep_owner(own._replace(namespace=own.namespace + 1, pid=1))


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
