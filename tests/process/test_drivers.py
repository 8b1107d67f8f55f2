"""The head's driver in a process of its own, over nodes in processes of theirs: it dies, stands still, talks nonsense.

Whatever becomes of it, no job is lost, the server goes on, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import driver_owner, faulty_driver, processes
from support.processes import read_process
from support.waiting import Pending, until, until_async

from killable.supervisor.cluster.carrier import CarrierError, ClusterUnreachable
from killable.supervisor.cluster.direct_carrier import DirectCarrier
from killable.supervisor.cluster.driver_launcher import DriverLauncher
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

JOBS = PoolSpec(name="simple", modules=(str(Path(processes.__file__).parent / "simple_jobs.py"),), workers=2)
TESTS = str(Path(processes.__file__).parent.parent)
LONG = Times(lease_s=600, poll_s=0.25, patience_s=60)
"""A job that ends before the lease is over was not lost."""
SOCKETS = "support.socket_carrier:SocketLauncher"


def is_gone(pid: int) -> bool | Pending:
    seen = read_process(pid)
    return seen is None or seen.state == "Z" or Pending(seen)


def is_stopped(pid: int) -> bool | Pending:
    seen = read_process(pid)
    return (seen is not None and seen.state == "T") or Pending(seen)


def pid_of(path: Path) -> int:
    """Return the process that listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


@asynccontextmanager
async def head_with_driver(
    folder: Path, carrier: str = SOCKETS, *arguments: Any, silent_s: float = 600
) -> AsyncIterator[tuple[Supervisor, DriverLauncher]]:
    settings = Settings(pools=(JOBS,), sweep=False)
    driver = DriverLauncher(carrier, (*arguments, folder, settings, ("a",)), silent_s=silent_s)
    head = Supervisor(settings, remote_pools=NodePools(settings, DirectCarrier(driver), LONG))
    try:
        await head.start()
        node = pid_of(folder / "a")
        yield head, driver
    finally:
        await head.close(grace_s=0)
    until(lambda: is_gone(node), "its node ends")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver finds the carriers of the tests."""
    monkeypatch.setenv("PYTHONPATH", TESTS)


async def goes_on(head: Supervisor, disturb: Callable[[], None], gates: list[Path]) -> list[str]:
    """Disturb the driver while a job streams and others are given out; return what was degraded meanwhile."""
    node = (await head.nodes())[0]
    stream = await head.submit(Submission("gated", json.dumps({"gates": [str(gate) for gate in gates]}).encode()))
    await until_async(lambda: has_tokens(head, stream.job_id), "it runs")
    others = [await head.submit(Submission("count", b'{"n": 20}')) for _ in range(12)]
    disturb()
    degraded = await until_async(lambda: degradation(head), "that is told")
    for gate in gates:
        gate.touch()
    others += [await head.submit(Submission("count", b'{"n": 20}')) for _ in range(4)]
    ended = [await head.wait(each.job_id) for each in (stream, *others)]
    assert {(each.state, each.attempts, each.error) for each in ended} == {("completed", 1, None)}
    assert [each.tokens for each in ended] == [len(gates) + 1, *(20 for _ in others)]
    ids = [event.id async for events in head.events(stream.job_id) for event in events]
    assert ids == list(range(len(ids)))
    after = (await head.nodes())[0]
    assert (after.state, after.incarnation) == ("live", node.incarnation)
    await until_async(lambda: is_ready(head), "nothing is degraded any more")
    return degraded


async def has_tokens(head: Supervisor, job_id: str) -> bool | Pending:
    return (record := await head.get(job_id)).tokens > 0 or Pending(record)


async def degradation(head: Supervisor) -> list[str] | Pending:
    _, degraded = await head.ready()
    return [text for text in degraded if text.startswith(("cluster", "node"))] or Pending(degraded)


async def is_ready(head: Supervisor) -> bool | Pending:
    can_start, degraded = await head.ready()
    return (can_start and not degraded) or Pending(degraded)


async def test_a_driver_that_is_killed_under_load_is_followed_by_another_and_no_job_is_lost(tmp_path: Path) -> None:
    """What is meant for the whole service, by a terminal or a service manager, does not end it."""
    async with head_with_driver(tmp_path) as (head, carrier):
        before = carrier.pid
        assert before is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(before, number)
        record = await head.wait((await head.submit(Submission("count", b'{"n": 3}'))).job_id)
        assert (record.state, carrier.pid) == ("completed", before)
        degraded = await goes_on(head, lambda: os.kill(before, signal.SIGKILL), [tmp_path / "1", tmp_path / "2"])
        assert len(degraded) == 1 and degraded[0].startswith("cluster: the driver of the cluster has ended")
        after = carrier.pid
        assert after not in (None, before)
        with pytest.raises(CarrierError, match="has ended"):
            await ended_while_asked(carrier)
        await until_async(lambda: is_ready(head), "one more is there")
    assert after is not None and is_gone(after)


async def ended_while_asked(carrier: DriverLauncher) -> None:
    assert carrier.pid is not None
    os.kill(carrier.pid, signal.SIGSTOP)
    asking = asyncio.ensure_future(carrier.members())
    await asyncio.sleep(0)
    os.kill(carrier.pid, signal.SIGKILL)
    await asking


async def test_a_driver_that_stands_still_is_killed_and_followed_by_another(tmp_path: Path) -> None:
    async with head_with_driver(tmp_path, silent_s=1) as (head, carrier):
        before = carrier.pid
        assert before is not None
        degraded = await goes_on(head, lambda: os.kill(before, signal.SIGSTOP), [tmp_path / "1"])
        assert len(degraded) == 1 and degraded[0].startswith("cluster: the driver of the cluster has ended")
        assert is_gone(before)


async def test_a_driver_that_sends_what_is_no_answer_is_followed_by_another(tmp_path: Path) -> None:
    async with head_with_driver(tmp_path, "support.faulty_driver:FaultyLauncher") as (head, carrier):
        before = carrier.pid
        (tmp_path / faulty_driver.ARMED).touch()
        jobs = [await head.submit(Submission("count", b'{"n": 3}')) for _ in range(5)]
        while (sent := (tmp_path / faulty_driver.SENT).stat().st_size) <= len(faulty_driver.FAULTS):
            jobs.append(await head.submit(Submission("count", b'{"n": 3}')))
            await head.wait(jobs[-1].job_id)
        ended = [await head.wait(each.job_id) for each in jobs]
        assert {(each.state, each.attempts, each.tokens) for each in ended} == {("completed", 1, 3)}, sent
        await until_async(lambda: is_ready(head), "another one is there")
        assert carrier.pid != before and [node.name for node in await head.nodes()] == ["a"]


async def test_a_driver_whose_cluster_is_another_one_is_followed_by_one_that_connects_anew(tmp_path: Path) -> None:
    async with head_with_driver(tmp_path, "support.faulty_driver:ReplacedCarrier") as (head, carrier):
        before = carrier.pid
        job = await head.submit(Submission("count", b'{"n": 3}'))
        (tmp_path / faulty_driver.REPLACED).touch()
        degraded = await until_async(lambda: degradation(head), "that is told")
        assert any(text.startswith("cluster: the driver of the cluster has ended") for text in degraded), degraded
        await until_async(lambda: is_ready(head), "another one is connected")
        assert carrier.pid not in (None, before)
        ended = await head.wait(job.job_id)
        assert (ended.state, ended.attempts) == ("completed", 1)


async def test_why_a_cluster_cannot_be_used_is_told_as_it_is(tmp_path: Path) -> None:
    carrier = DriverLauncher("support.faulty_driver:NoCluster", (tmp_path, None, ()))
    with pytest.raises(ClusterUnreachable, match="there is no cluster here"):
        await carrier.open()
    await carrier.close()
    assert carrier.pid is None


def test_a_driver_ends_with_its_server_also_when_it_stands_still(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, driver_owner.__file__, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            driver = int(owner.stdout.readline())
            os.kill(driver, signal.SIGSTOP)
            until(
                lambda: ((seen := read_process(driver)) is not None and seen.state == "T") or Pending(seen), "it stands"
            )
        finally:
            owner.kill()
    until(lambda: is_gone(driver), "it is gone")
