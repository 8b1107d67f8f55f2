"""Servers over a Ray cluster of two nodes, which the tests share.

What a Ray cluster leaves is Ray's: its own processes come and go. Each test looks at the processes of its jobs, and the
session's end at everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_network import have_own_network
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import until


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """In place of the check of every other test."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    have_own_network()
    cluster = RayCluster(nodes=2)
    yield cluster
    cluster.close()


FORGETS_S = 60.0
"""After which Ray has certainly noticed that a machine is gone: some 25 seconds by its defaults."""


def with_two_nodes(server: RayServer) -> RayServer:
    """Wait until Ray has forgotten the machines that an earlier test has killed: a server lists them as well."""
    until(lambda: [each["state"] for each in server.nodes()] == ["live", "live"], "two machines are there", FORGETS_S)
    return server


@pytest.fixture
def server(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayServer]:
    running = RayServer(ray_cluster, tmp_path)
    yield with_two_nodes(running)
    running.close()


@pytest.fixture
def patient_server(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayServer]:
    """With a lease that is longer than its own start, on any machine."""
    running = RayServer(ray_cluster, tmp_path, lease_s=120)
    yield with_two_nodes(running)
    running.close()
