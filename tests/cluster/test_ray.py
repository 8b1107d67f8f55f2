"""A server over a real Ray cluster. By hand, as Ray is an extra: make test-cluster."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from ray_cluster import RayCluster
from server import RayServer
from support.waiting import Pending, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    cluster = RayCluster(port, nodes=2)
    yield cluster
    cluster.close()


@pytest.fixture
def server(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayServer]:
    running = RayServer(ray_cluster, tmp_path)
    yield running
    running.close()


@pytest.fixture
def patient_server(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayServer]:
    """With a lease that is longer than its own start, on any machine."""
    running = RayServer(ray_cluster, tmp_path, lease_s=120)
    yield running
    running.close()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_jobs_run_on_all_nodes_and_a_cancel_ends_the_whole_tree(server: RayServer) -> None:
    assert [node["state"] for node in server.nodes()] == ["live", "live"]
    jobs = [server.submit("count", n=100) for _ in range(4)]
    records = [server.ended(job_id) for job_id in jobs]
    assert {record["state"] for record in records} == {"completed"} and {record["tokens"] for record in records} == {
        100
    }
    assert len({record["node"] for record in records}) == 2
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    assert alive(pids) == pids
    answer = server.client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    certificate = server.record(job_id)["certificate"]
    assert alive(pids) == [] and certificate["tree_empty"] and certificate["node"], certificate


def test_a_node_that_is_killed_leaves_nothing_and_its_jobs_are_told(ray_cluster: RayCluster, server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    node = server.record(job_id)["node"]
    naps = [server.submit("nap") for _ in range(2)]
    until(lambda: all(server.record(nap)["started_at"] for nap in naps), "all run")
    elsewhere = [nap for nap in naps if server.record(nap)["node"] == node]
    address = next(address for address, ray in ray_cluster.nodes.items() if is_below(pids[0], ray.pid))
    ray_cluster.kill(address)
    until(lambda: not alive(pids), "its guards have ended all")
    record = server.ended(job_id)
    assert (record["error"]["code"], record["error"]["node"], record["error"]["fenced"]) == ("node_lost", node, "lease")
    for nap in elsewhere:
        done = server.ended(nap)
        assert (done["state"], done["result"], done["attempts"]) == ("completed", 2, 2) and done["node"] != node
    ray_cluster.add(f"127.0.0.{10 + len(ray_cluster.nodes)}")
    until(lambda: [each["state"] for each in server.nodes()].count("live") == 2, "a new node joins")


def is_below(pid: int, root: int) -> bool:
    """Return whether a process is below another, by the guard that its worker is below."""
    try:
        return root in [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.Error:
        return False


def test_a_server_that_is_killed_and_comes_back_goes_on_with_every_job(
    patient_server: RayServer, tmp_path: Path
) -> None:
    """Three readers miss nothing, and get nothing twice; a job that ends meanwhile has its result."""
    server = patient_server
    gates = [tmp_path / f"gate-{number}" for number in range(3)]
    jobs = [server.submit("tick", n=60, gate=str(gate)) for gate in gates]
    family = server.submit("family")
    pids = server.first_token(family)
    for gate in gates:
        gate.write_bytes(b"x" * 20)
    seen = [server.events(job_id, until=20) for job_id in jobs]
    waits = server.submit("count", n=7)
    records = [server.record(job_id) for job_id in (*jobs, family)]
    assert server.record(waits)["state"] == "queued" and len({record["node"] for record in records}) == 2
    incarnations = [node["incarnation"] for node in server.nodes()]
    server.kill()
    gates[0].write_bytes(b"x" * 60)
    for gate in gates[1:]:
        gate.write_bytes(b"x" * 40)
    until(lambda: not alive([records[0]["pid"]]), "one ends without a server")
    server.start()
    assert [node["incarnation"] for node in server.nodes()] == incarnations and alive(pids) == pids
    for gate in gates[1:]:
        gate.write_bytes(b"x" * 60)
    for job_id, before, record in zip(jobs, seen, records, strict=False):
        whole = before + server.events(job_id, after=before[-1][0])
        assert [number for number, _, _ in whole] == list(range(62))
        assert [data["text"] for _, name, data in whole if name == "token"] == [f" {number}" for number in range(60)]
        after = server.record(job_id)
        assert (after["state"], after["attempts"], after["pid"]) == ("completed", 1, record["pid"])
    assert server.ended(waits)["tokens"] == 7
    assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)


def test_a_node_whose_actor_alone_is_killed_is_told_before_its_lease_is_over(patient_server: RayServer) -> None:
    server = patient_server
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    node = server.record(job_id)["node"]
    actor = next(each for each in psutil.Process(pids[0]).parents() if each.name().startswith("ray::"))
    actor.kill()
    error = server.ended(job_id)["error"]
    assert (error["code"], error["node"], error["fenced"], alive(pids)) == ("node_lost", node, "swept", [])
    assert [each["state"] for each in server.nodes()] == ["live", "live"], "it is back"


def test_a_server_that_is_killed_leaves_nothing_on_any_node(server: RayServer) -> None:
    jobs = [server.submit("family") for _ in range(2)]
    pids = [pid for job_id in jobs for pid in server.first_token(job_id)]
    assert alive(pids) == pids
    server.process.kill()
    until(lambda: not alive(pids), "every node has ended its jobs")


def test_a_pool_has_the_machines_of_its_label_and_what_ray_takes_away_is_drained(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    ray_cluster.add(place := f"127.0.0.{10 + len(ray_cluster.nodes)}")
    server = RayServer(ray_cluster, tmp_path, more=f'nodes = {{ place = "!{place}" }}\n')
    try:
        others = [node["labels"]["place"] for node in server.nodes()]
        assert place not in others and len(others) >= 2
        nap = server.submit("nap", limits={"attempts_max": 2, "backoff_s": 0})
        until(lambda: server.record(nap)["started_at"], "it runs")
        name = server.record(nap)["node"]
        node = next(node for node in server.nodes() if node["name"] == name)
        ray_cluster.announce_end(node["labels"]["ray.io/node-id"], 11)
        until(lambda: next(n for n in server.nodes() if n["name"] == name)["state"] != "live", "its node is drained")
        record = server.ended(nap)
        assert (record["state"], record["attempts"]) == ("completed", 2) and record["node"] != name
    finally:
        server.close()


# ── what stands still: each ends by its lease, and what is told is true when it is told ──


def parents_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).parents()


def actor_of(pid: int) -> psutil.Process:
    """Return the process of the node's supervisor, by that of a worker."""
    return next(each for each in parents_of(pid) if each.name().startswith("ray::"))


def both_are_live(server: RayServer) -> bool | Pending:
    states = [node["state"] for node in server.nodes()]
    return states.count("live") >= 2 or Pending(states)


def test_the_jobs_of_a_supervisor_that_stands_still_are_ended_by_its_guards_before_that_is_told(
    server: RayServer,
) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    actor = actor_of(pids[0])
    actor.suspend()
    try:
        error = server.ended(job_id)["error"]
        assert (error["code"], error["fenced"], alive(pids)) == ("node_lost", "lease", [])
    finally:
        actor.resume()
    until(lambda: both_are_live(server), "another incarnation joins")


def test_a_whole_node_that_stands_still_ends_everything_when_it_goes_on(server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    actor = actor_of(pids[0])
    family = [psutil.Process(pid) for pid in pids]
    still = [actor, *{each.pid: each for each in (*actor.children(recursive=True), *family)}.values()]
    for process in still:
        process.suspend()
    try:
        error = server.ended(job_id)["error"]
        assert (error["code"], error["fenced"]) == ("node_lost", "lease")
    finally:
        for process in still:
            with suppress(psutil.NoSuchProcess):  # one that goes on ends others
                process.resume()
    until(lambda: Pending(left) if (left := alive(pids)) else True, "its guards end everything")
    until(lambda: both_are_live(server), "another incarnation joins")


def test_a_raylet_that_stands_still_takes_nothing_from_its_node(server: RayServer, tmp_path: Path) -> None:
    job_id, family = server.submit("tick", n=3, gate=str(tmp_path / "gate")), server.submit("family")
    pids = server.first_token(family)
    raylets = [each for each in parents_of(pids[0]) if each.name() == "raylet"]
    assert raylets
    raylets[0].suspend()
    try:
        (tmp_path / "gate").write_bytes(b"xxx")
        record = server.ended(job_id)
        assert (record["state"], record["attempts"], record["tokens"]) == ("completed", 1, 3)
        assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)
    finally:
        raylets[0].resume()


def test_a_server_that_stands_still_for_longer_than_the_lease_finds_its_nodes_empty(server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    server.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: Pending(left) if (left := alive(pids)) else True, "the node ends its jobs by itself")
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert server.ended(job_id)["error"]["code"] == "node_lost"
    until(lambda: both_are_live(server), "both nodes join again")
    assert server.ended(server.submit("count", n=5))["tokens"] == 5
