"""The driver of Ray, a process of the server's own, is killed or frozen while jobs run. By hand: make test-cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from ray_cluster import RayCluster
from server import RayServer
from support.waiting import Pending, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    cluster = RayCluster(port, nodes=1)
    try:
        running = RayServer(cluster, tmp_path_factory.mktemp("server"), lease_s=60)
        yield running
        running.close()
    finally:
        cluster.close()


def driver_of(server: RayServer) -> psutil.Process:
    drivers = [
        each
        for each in psutil.Process(server.process.pid).children()
        if "killable.supervisor.cluster.driver_process" in each.cmdline()
    ]
    assert len(drivers) == 1, "one at a time"
    return drivers[0]


@pytest.mark.parametrize("disturb", [psutil.Process.kill, psutil.Process.suspend])
def test_no_job_is_lost_with_the_driver(
    server: RayServer, tmp_path: Path, disturb: Callable[[psutil.Process], None]
) -> None:
    gate = tmp_path / "gate"
    stream = server.submit("tick", n=40, gate=str(gate))
    gate.write_bytes(b"x" * 20)
    seen = server.events(stream, until=20)
    jobs = [server.submit("count", n=10) for _ in range(10)]
    incarnation = server.nodes()[0]["incarnation"]
    disturb(driver := driver_of(server))
    told = until(lambda: cluster_trouble(server), "that is told")
    assert len(told) == 1 and told[0].startswith("cluster: the driver of the cluster has ended")
    gate.write_bytes(b"x" * 40)
    records = [server.ended(job_id) for job_id in (stream, *jobs)]
    assert {(each["state"], each["attempts"]) for each in records} == {("completed", 1)}
    whole = seen + server.events(stream, after=seen[-1][0])
    assert [number for number, _, _ in whole] == list(range(42))
    until(lambda: Pending(left) if (left := degraded(server)) else True, "all is well")
    assert server.nodes()[0]["incarnation"] == incarnation and not driver.is_running()
    family = server.submit("family")
    server.first_token(family)
    assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled"


def cluster_trouble(server: RayServer) -> list[str] | Pending:
    """Return what is told once the driver is missed: before that a node may be."""
    told = degraded(server)
    return told if any(text.startswith("cluster") for text in told) else Pending(told)


def degraded(server: RayServer) -> list[str]:
    """Return what is degraded, but for what any busy machine is."""
    told: list[str] = server.client.get("/readyz").json()["degraded"]
    return [text for text in told if "event loop" not in text]
