"""What bad input gets, over a real Ray cluster without machines at first. By hand: make test-cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from own_network import have_own_network
from ray_cluster import RayCluster, environment
from server import JOBS, RayServer
from support.waiting import Pending, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[RayCluster]:
    have_own_network()
    cluster = RayCluster(nodes=0)
    yield cluster
    cluster.close()


def refused(address: str, folder: Path, **changes: str) -> tuple[int, str]:
    """Return the exit code and the words of a server that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "killable.api.cli", "serve", str(JOBS), "--port", "0", "--ray", address],
        cwd=folder, env=environment(changes), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr


def both_are_told(server: RayServer) -> bool | Pending:
    told = server.client.get("/readyz").json()["degraded"]
    return all(any(node["name"] in text for text in told) for node in server.nodes()) or Pending(told)


def test_without_a_ray_at_the_address(tmp_path: Path) -> None:
    code, words = refused("127.0.0.2:9", tmp_path)
    assert code == 69 and "there is no Ray at 127.0.0.2:9 ([Errno 111] Connection refused): start it with" in words
    assert len(words.splitlines()) == 1, words


def test_without_a_token(tmp_path: Path) -> None:
    code, words = refused("127.0.0.2:9", tmp_path, RAY_AUTH_MODE="disabled")
    assert code == 78 and "token authentication" in words


def test_without_machines_and_with_what_ray_would_kill(empty_cluster: RayCluster, tmp_path: Path) -> None:
    code, words = refused(empty_cluster.address, tmp_path)
    assert code == 71 and "the cluster has no machine with processors: start one with `ray start" in words
    empty_cluster.add("127.0.0.3", RAY_memory_monitor_refresh_ms="250")
    empty_cluster.add("127.0.0.4", RAY_process_group_cleanup_enabled="true")
    server = RayServer(empty_cluster, tmp_path, workers="")
    try:
        assert server.nodes()[0]["slots"] == 2, "its processors, as Ray has them"
        until(lambda: both_are_told(server), "it is told")
        details = {node["labels"]["place"]: node["detail"] for node in server.nodes()}
        assert "Ray's memory monitor is on there" in details["127.0.0.3"]
        assert "RAY_process_group_cleanup_enabled" in details["127.0.0.4"]
    finally:
        server.close()
