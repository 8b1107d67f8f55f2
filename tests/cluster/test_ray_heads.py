"""What becomes of the jobs when a head is replaced, or Ray's own head is gone. By hand: make test-cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from node_processes import gone, state_of
from own_network import have_own_network
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""After how many seconds without Ray's head its processes end: 60 by default."""


def test_a_second_server_takes_the_nodes_and_the_first_one_ends(
    server: RayServer, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    first, folder = server, tmp_path / "second"
    folder.mkdir()
    job_id = first.submit("family")
    pids = first.first_token(job_id)
    second = RayServer(ray_cluster, folder)
    try:
        assert first.process.wait(60) == 75 and "another head has taken the nodes over" in first.log(), first.log()
        until(gone(pids), "what the second does not know is ended")
        assert second.ended(second.submit("count", n=5))["tokens"] == 5
    finally:
        second.close()


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[RayCluster]:
    """Whose nodes give up on Ray's head after some seconds."""
    have_own_network()
    cluster = RayCluster(nodes=0)
    try:
        for number in range(2):
            cluster.add(f"127.0.0.{number + 3}", **{RECONNECT: "5"})
        yield cluster
    finally:
        cluster.close()


def test_nodes_end_when_the_head_of_ray_is_gone_and_the_server_tells_of_it(
    short_lived: RayCluster, tmp_path: Path
) -> None:
    server = RayServer(short_lived, tmp_path, environ={RECONNECT: "5"})
    try:
        job_id = server.submit("family")
        pids = server.first_token(job_id)
        node = server.record(job_id)["node"]
        gcs = short_lived.process(short_lived.head, "gcs_server")
        short_lived.head.send_signal(signal.SIGSTOP)  # else it ends what it has started
        gcs.kill()
        count = server.submit("count", n=5)
        assert server.ended(count)["tokens"] == 5, "nobody asks it for a job"
        until(gone(pids), "its node ends")
        record = server.ended(job_id)
        assert record["error"]["code"] == "node_lost"
        waits = server.submit("count", n=5)
        until(lambda: state_of(server, node) != "live", "it is noticed")
        assert server.record(waits)["state"] == "queued" and server.process.poll() is None
    finally:
        server.close()
