"""A node of a real Ray cluster whose network fails, in network namespaces. Needs root. By hand: make test-cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("ray")

from node_processes import alive, both_are_live, gone, lost_by_its_lease, state_of
from own_network import BESIDE, FAR, HERE, FarMachine, why_no_far_machine
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def far() -> Iterator[FarMachine]:
    if why := why_no_far_machine():
        pytest.skip(why)
    machine = FarMachine()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def ray_cluster(far: FarMachine) -> Iterator[RayCluster]:
    """One node on this machine, one on the far one."""
    cluster = RayCluster(nodes=0, head=HERE)
    try:
        cluster.add(BESIDE)
        cluster.add(FAR, within=far.enter)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def quick_server(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayServer]:
    """Which misses an answer soon, long before the lease is over."""
    running = RayServer(ray_cluster, tmp_path, lease_s=60, poll_s=1)
    yield running
    running.close()


def far_node(server: RayServer) -> str:
    return next(str(node["name"]) for node in server.nodes() if node["labels"]["place"] == FAR)


def incarnation_of(server: RayServer, node: str) -> str:
    return next(str(each["incarnation"]) for each in server.nodes() if each["name"] == node)


def on_the_far_node(server: RayServer, jobs: list[str]) -> str:
    """Return the one of these jobs that runs there, once they all run."""
    until(lambda: all(server.record(job_id)["started_at"] for job_id in jobs), "all run")
    there = far_node(server)
    return next(job_id for job_id in jobs if server.record(job_id)["node"] == there)


def test_a_node_that_is_cut_off_for_less_than_its_lease_loses_nothing(
    far: FarMachine, quick_server: RayServer, tmp_path: Path
) -> None:
    server = quick_server
    gates = [tmp_path / f"gate-{number}" for number in range(2)]
    jobs = [server.submit("tick", n=60, gate=str(gate)) for gate in gates]
    job_id = on_the_far_node(server, jobs)
    gate = gates[jobs.index(job_id)]
    gate.write_bytes(b"x" * 20)
    before = server.events(job_id, until=20)
    node = far_node(server)
    with far.cut_off():
        gate.write_bytes(b"x" * 40)
        until(lambda: state_of(server, node) == "suspect", "its silence is noticed")
    gate.write_bytes(b"x" * 60)
    whole = before + server.events(job_id, after=before[-1][0])
    assert [number for number, _, _ in whole] == list(range(62))
    assert [data["text"] for _, name, data in whole if name == "token"] == [f" {number}" for number in range(60)]
    record = server.record(job_id)
    assert (record["state"], record["attempts"], record["node"]) == ("completed", 1, node)
    assert state_of(server, node) == "live"


class Load(NamedTuple):
    """What keeps both machines busy, and what of it is on the far one."""

    families: list[str]
    family: str
    pids: list[int]
    nap: str
    waits: str
    node: str
    incarnation: str


def loaded(server: RayServer) -> Load:
    families = [server.submit("family") for _ in range(2)]
    family = on_the_far_node(server, families)
    pids = server.first_token(family)
    naps = [server.submit("nap") for _ in range(2)]
    nap = on_the_far_node(server, naps)
    node = far_node(server)
    waits = server.submit("count", n=5)
    return Load(families, family, pids, nap, waits, node, incarnation_of(server, node))


def check_told(server: RayServer, load: Load) -> None:
    """Check that what ran on the far machine is told as lost, and what may run elsewhere does."""
    error = lost_by_its_lease(server, load.family)["error"]
    until(gone(load.pids), "nothing of it is left")
    assert (error["node"], error["incarnation"]) == (load.node, load.incarnation)
    for job_id in load.families:
        server.client.delete(f"/v1/jobs/{job_id}")
    assert server.ended(load.waits)["tokens"] == 5, "what waited runs on the other"
    done = server.ended(load.nap)
    assert (done["state"], done["attempts"]) == ("completed", 2) and done["node"] != load.node


@pytest.mark.parametrize("answers_only", [False, True], ids=["cut off", "its answers are lost"])
def test_a_node_that_is_cut_off_for_longer_ends_everything_before_that_is_told(
    far: FarMachine, server: RayServer, answers_only: bool
) -> None:
    load = loaded(server)
    with far.cut_off(answers_only=answers_only):
        check_told(server, load)
    until(lambda: both_are_live(server), "it joins again")
    assert incarnation_of(server, load.node) != load.incarnation


def test_a_machine_that_is_off_is_told_by_its_lease_and_is_another_node_when_it_is_back(
    far: FarMachine, ray_cluster: RayCluster, server: RayServer
) -> None:
    load = loaded(server)
    with far.powered_off():
        assert alive(load.pids) == []
        check_told(server, load)
    ray_cluster.add(FAR, within=far.enter)
    there = server.submit("count", n=5, nodes={"place": FAR})
    record = server.ended(there)
    assert (record["tokens"], record["attempts"]) == (5, 1) and record["node"] != load.node
